"""`egoexo-tools propose`"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from egoexo_tools.commands import (
    FILE,
    all_frames_option,
    direction_option,
    root_argument,
    stage_options,
)
from egoexo_tools.commands.choices import PROPOSER

if TYPE_CHECKING:
    from egoexo_tools.running.records import RunOptions


@click.command()
@root_argument
@click.option(
    "--proposer",
    type=PROPOSER,
    required=True,
    help="fastsam and sam2 need --weights; regions needs none; oracle takes the ground truth.",
)
@click.option(
    "--weights",
    type=FILE,
    help="FastSAM-x.pt, or SAM 2's model.safetensors beside its config.json.",
)
@click.option("--trust-weights", is_flag=True, help="Load a checkpoint even if it can run code.")
@click.option(
    "--max-det",
    type=click.IntRange(min=1),
    help="Most proposals a frame.  [default: fastsam 300, regions 60]",
)
@click.option("--device", help="Such as cuda:0 or cpu.  [default: a GPU if there is one]")
@click.option("--image-size", type=click.IntRange(min=32), help="FastSAM's.  [default: 1024]")
@direction_option
@all_frames_option
@stage_options()
def command(
    root: Path,
    proposer: str,
    direction: str,
    all_frames: bool,
    run: "RunOptions",
    **options: Any,
) -> None:
    """Segment candidate masks in the destination frames of the root's pairs.

    What it will take is printed first. With more pairs later only their frames are added.

    Example: egoexo-tools propose demo/root --proposer regions --direction ego2exo
    """
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.proposers import ProposerOptions
    from egoexo_tools.stages.propose import run_propose
    from egoexo_tools.vocab import directions

    summary = run_propose(
        DatasetRoot(root),
        proposer=proposer,
        options=ProposerOptions(**options),
        directions=directions(direction),
        all_frames=all_frames,
        run=run,
    )
    click.echo(summary.check().text())
