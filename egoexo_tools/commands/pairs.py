"""`egoexo-tools pairs`"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from egoexo_tools.commands import direction_option, per_split, root_argument, stage_options
from egoexo_tools.commands.choices import NameOf

if TYPE_CHECKING:
    from egoexo_tools.running.records import RunOptions


@click.command()
@root_argument
@direction_option
@click.option(
    "--fraction",
    "fractions",
    metavar="SPLIT=SHARE",
    multiple=True,
    help="Share of a split's pairs to keep.",
)
@click.option(
    "--count",
    "counts",
    metavar="SPLIT=NUMBER",
    multiple=True,
    help="Exact number of a split's pairs to keep.",
)
@click.option(
    "--by",
    type=NameOf("egoexo_tools.sampling:BY"),
    default="frame",
    show_default=True,
    help="Single pairs; the same share of every object's track; or whole takes.",
)
@click.option(
    "--balance",
    type=NameOf("egoexo_tools.sampling:BALANCE"),
    help="As many pairs of each, as far as it goes.",
)
@click.option("--per-object-min", "floor", type=click.IntRange(1), help="Kept of each, at least.")
@click.option("--per-object-max", "cap", type=click.IntRange(1), help="Kept of each, at most.")
@click.option("--seed", default=0, show_default=True, help="Same seed, same sample, anywhere.")
@click.option("--legacy-names", is_flag=True, help="Also write the file names that O-MaMa reads.")
@stage_options("inline")
def command(
    root: Path,
    direction: str,
    fractions: tuple[str, ...],
    counts: tuple[str, ...],
    legacy_names: bool,
    run: "RunOptions",
    **rule: Any,
) -> None:
    """List the pairs of source mask and destination frame, or a sample of them.

    Example: egoexo-tools pairs demo/root --fraction train=0.2 --count val=1950 --by track
    """
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.sampling import Sampling, SplitSampling
    from egoexo_tools.stages.pairs import run_pairs
    from egoexo_tools.vocab import directions

    summary = run_pairs(
        DatasetRoot(root),
        directions=directions(direction),
        sampling=SplitSampling(
            per_split(fractions, float), per_split(counts, int), Sampling(**rule)
        ),
        legacy_names=legacy_names,
        run=run,
    )
    click.echo(summary.check().text())
