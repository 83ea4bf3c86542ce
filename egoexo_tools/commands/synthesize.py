"""`egoexo-tools synthesize`"""

from pathlib import Path
from typing import Any

import click

from egoexo_tools.commands import FOLDER
from egoexo_tools.commands.choices import NameOf


@click.command()
@click.argument("release", type=FOLDER)
@click.option(
    "--scale", default=1.0, show_default=True, help="Of the real frame sizes; 0.5: quick."
)
@click.option("--train", default=24, show_default=True, help="Takes of the train split.")
@click.option("--val", default=4, show_default=True, help="Takes of the val split.")
@click.option("--test", default=6, show_default=True, help="Takes of the test split.")
@click.option("--objects", default=12, show_default=True, help="Objects a take, on average.")
@click.option("--frames", default=6, show_default=True, help="Annotated frames a take, 1 a second.")
@click.option("--exo-cameras", default=2, show_default=True, help="At most, a take.")
@click.option("--gop", default=250, show_default=True, help="Most frames between key frames.")
@click.option(
    "--motion-fps",
    default=30,
    show_default=True,
    help="Pictures drawn a second; fewer are quicker, the videos keep 30 frames a second.",
)
@click.option(
    "--motion",
    type=NameOf("egoexo_tools.synthetic.options:Motion"),
    default="calm",
    show_default=True,
    help="Lively: fast head turns, objects that are moved about, leave, come back, and cross.",
)
@click.option("--seed", default=0, show_default=True, help="Same seed, same release.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Takes at a time.  [default: all cores]"
)
@click.option("--quiet", is_flag=True, help="No progress.")
def command(
    release: Path, train: int, val: int, test: int, objects: int, frames: int,
    workers: int | None, quiet: bool, **others: Any,
) -> None:  # fmt: skip
    """Write a small release in the shipped layout, with real videos, under RELEASE.

    Example: egoexo-tools synthesize demo/release --scale 0.5 --frames 16 --motion lively
    """
    from egoexo_tools.synthetic import SyntheticOptions, synthesize

    options = SyntheticOptions(
        train_takes=train, val_takes=val, test_takes=test, objects_per_take=objects,
        annotated_frames=frames, **others,
    )  # fmt: skip
    synthesize(release, options, quiet=quiet, workers=workers)
    click.echo(f"{release}: {train} train, {val} val and {test} test takes")
