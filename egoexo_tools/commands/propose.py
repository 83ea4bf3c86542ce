"""`egoexo-tools propose`"""

from typing import Any

import click

from egoexo_tools.commands import (
    FILE,
    all_frames_option,
    direction_option,
    root_argument,
    stage_options,
)
from egoexo_tools.commands.choices import PROPOSER
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import RunOptions


@click.command()
@root_argument
@click.option(
    "--proposer",
    type=PROPOSER,
    required=True,
    help="Source of the masks; fastsam and sam2 need --weights, oracle uses the ground truth.",
)
@click.option(
    "--weights",
    type=FILE,
    help="FastSAM-x.pt, or SAM 2's model.safetensors next to its config.json.",
)
@click.option("--trust-weights", is_flag=True, help="Load weights even if the file can run code.")
@click.option(
    "--max-det",
    type=click.IntRange(min=1),
    help="Most proposals of a frame.  [default: fastsam 300, regions 60]",
)
@click.option("--device", help="Device, such as cuda:0 or cpu.  [default: a GPU if present]")
@click.option(
    "--image-size", type=click.IntRange(min=32), help="FastSAM's input size.  [default: 1024]"
)
@direction_option
@all_frames_option
@stage_options()
def command(
    root: DatasetRoot,
    proposer: str,
    direction: str,
    all_frames: bool,
    run: RunOptions,
    **options: Any,
) -> None:
    """Segment candidate masks in the destination frames of the root's pairs.

    Prints the expected time and disk space first. When pairs are added later, only proposals for
    their frames are added.

    \b
    Example:
      egoexo-tools propose demo/root --proposer regions --direction ego2exo
    """
    from egoexo_tools.proposers import ProposerOptions
    from egoexo_tools.stages.propose import run_propose
    from egoexo_tools.vocab import directions

    summary = run_propose(
        root,
        proposer=proposer,
        options=ProposerOptions(**options),
        directions=directions(direction),
        all_frames=all_frames,
        run=run,
    )
    click.echo(summary.check().text())
