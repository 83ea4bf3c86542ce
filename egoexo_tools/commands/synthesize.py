"""`egoexo-tools synthesize`"""

from pathlib import Path
from typing import Any

import click

from egoexo_tools.commands import FOLDER
from egoexo_tools.commands.choices import NameOf


@click.command()
@click.argument("release", type=FOLDER)
@click.option("--scale", default=1.0, help="Scale of the real frame sizes; 0.5 is quick.")
@click.option("--train", default=24, help="Takes of the train split.")
@click.option("--val", default=4, help="Takes of the val split.")
@click.option("--test", default=6, help="Takes of the test split.")
@click.option("--objects", default=12, help="Average number of objects in a take.")
@click.option("--frames", default=6, help="Annotated frames of a take, one per second.")
@click.option("--exo-cameras", default=2, help="Most exo cameras of a take.")
@click.option("--gop", default=250, help="Most frames between key frames.")
@click.option(
    "--motion-fps",
    default=30,
    help="Pictures rendered per second; fewer are quicker. The videos have 30 frames per second.",
)
@click.option(
    "--motion",
    type=NameOf("egoexo_tools.synthetic.options:Motion"),
    default="calm",
    help="lively: fast head turns; objects are moved, leave, return and cross.",
)
@click.option("--seed", default=0, help="Seed of the release.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Takes at a time.  [default: all cores]"
)
@click.option("--quiet", is_flag=True, help="Show no progress bar.")
def command(
    release: Path, train: int, val: int, test: int, objects: int, frames: int,
    workers: int | None, quiet: bool, **scene: Any,
) -> None:  # fmt: skip
    """Write a small synthetic release with real videos, laid out like the dataset, to RELEASE.

    \b
    Example:
      egoexo-tools synthesize my_release --scale 0.2 --train 1 --val 1 --test 1 --frames 2 \\
        --motion lively
    """
    from egoexo_tools.synthetic import SyntheticOptions, synthesize

    options = SyntheticOptions(
        train_takes=train, val_takes=val, test_takes=test, objects_per_take=objects,
        annotated_frames=frames, **scene,
    )  # fmt: skip
    synthesize(release, options, quiet=quiet, workers=workers)
    click.echo(f"{release}: {train} train, {val} val and {test} test takes")
