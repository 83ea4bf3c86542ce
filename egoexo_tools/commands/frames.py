"""`egoexo-tools frames`"""

from dataclasses import replace

import click

from egoexo_tools.commands import release_option, root_argument, sampling_option, stage_options
from egoexo_tools.commands.choices import NameOf
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.running.records import RunOptions


@click.command()
@root_argument
@release_option
@sampling_option
@click.option(
    "--size",
    type=NameOf("egoexo_tools.stages.settings:SIZES"),
    default="processed",
    help="Size of the frames: ego halved and exo quartered (processed), the video's (full), or "
    "the release's small copies (448).",
)
@click.option("--scale", type=float, help="Scale for both views, instead of the one of --size.")
@click.option(
    "--jpeg-quality", type=click.IntRange(1, 100), default=95, help="Quality of the frames."
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    default=3600.0,
    metavar="SECONDS",
    help="Stop a camera that takes longer and mark it as failed (process executor only).",
)
@stage_options()
def command(
    root: DatasetRoot,
    release: Release,
    sampling: str,
    size: str,
    scale: float | None,
    jpeg_quality: int,
    time_limit: float,
    run: RunOptions,
) -> None:
    """Extract the annotated frames from the videos.

    Example: egoexo-tools frames demo/root --release demo/release
    """
    from egoexo_tools.stages.frames import run_frames
    from egoexo_tools.stages.settings import SIZES, FrameSettings

    short_side, size_scale = SIZES[size]
    summary = run_frames(
        root,
        release.require(),
        settings=FrameSettings.choose(
            sampling=sampling,
            short_side=short_side,
            scale=size_scale if scale is None else scale,
            jpeg_quality=jpeg_quality,
        ),
        run=replace(run, time_limit_seconds=time_limit),
    )
    click.echo(summary.check().text())
