"""`egoexo-tools pairs`"""

from typing import Any

import click

from egoexo_tools.commands import (
    counts_option,
    direction_option,
    fractions_option,
    per_split,
    root_argument,
    stage_options,
)
from egoexo_tools.commands.choices import NameOf
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import RunOptions


@click.command()
@root_argument
@direction_option
@fractions_option
@counts_option
@click.option(
    "--by",
    type=NameOf("egoexo_tools.sampling:BY"),
    default="frame",
    help="Sample single pairs (frame), the same share of every track, or whole takes.",
)
@click.option(
    "--balance",
    type=NameOf("egoexo_tools.sampling:BALANCE"),
    help="Keep equally many pairs of each, as far as there are enough.",
)
@click.option("--per-object-min", "floor", type=click.IntRange(1), help="Fewest pairs per object.")
@click.option("--per-object-max", "cap", type=click.IntRange(1), help="Most pairs per object.")
@click.option("--seed", default=0, help="Seed of the sample.")
@click.option("--legacy-names", is_flag=True, help="Also write pair files with O-MaMa's names.")
@stage_options("inline")
def command(
    root: DatasetRoot,
    direction: str,
    fractions: tuple[str, ...],
    counts: tuple[str, ...],
    legacy_names: bool,
    run: RunOptions,
    **sampling_options: Any,
) -> None:
    """List pairs of a source mask and a destination frame, or a sample of them.

    \b
    Example:
      egoexo-tools pairs demo/root --fraction train=0.5 --by track --overwrite
    """
    from egoexo_tools.sampling import Sampling, SplitSampling
    from egoexo_tools.stages.pairs import run_pairs
    from egoexo_tools.vocab import directions

    summary = run_pairs(
        root,
        directions=directions(direction),
        sampling=SplitSampling(
            per_split(fractions, float), per_split(counts, int), Sampling(**sampling_options)
        ),
        legacy_names=legacy_names,
        run=run,
    )
    click.echo(summary.check().text())
