"""`egoexo-tools pairs`"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from egoexo_tools.commands import direction_option, root_argument, stage_options

if TYPE_CHECKING:
    from egoexo_tools.running.stage import RunOptions


def split_numbers(number: type[int] | type[float]) -> Any:
    """A callback that reads `<split>=<number>` options, such as train=0.2, into a dict."""

    def read(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
        numbers = {}
        for value in values:
            split, _, text = value.partition("=")
            try:
                numbers[split] = number(text)
            except ValueError:
                example = "train=0.2" if number is float else "val=1950"
                raise click.BadParameter(f"{value!r} must look like {example}") from None
        return numbers

    return read


@click.command()
@root_argument
@direction_option
@click.option(
    "--fraction",
    "fractions",
    metavar="SPLIT=SHARE",
    multiple=True,
    callback=split_numbers(float),
    help="Share of a split's pairs to keep.",
)
@click.option(
    "--count",
    "counts",
    metavar="SPLIT=NUMBER",
    multiple=True,
    callback=split_numbers(int),
    help="Exact number of a split's pairs to keep.",
)
@click.option(
    "--by",
    type=click.Choice(["frame", "track", "take"]),
    default="frame",
    show_default=True,
    help="Single pairs; the same share of every object's track; or whole takes.",
)
@click.option(
    "--balance", type=click.Choice(["scenario"]), help="As many pairs of each, as far as it goes."
)
@click.option("--per-object-min", "floor", type=click.IntRange(1), help="Kept of each, at least.")
@click.option("--per-object-max", "cap", type=click.IntRange(1), help="Kept of each, at most.")
@click.option("--seed", default=0, show_default=True, help="Same seed, same sample, anywhere.")
@click.option("--legacy-names", is_flag=True, help="Also write the file names that O-MaMa reads.")
@stage_options("inline")
def command(
    root: Path,
    direction: str,
    run: "RunOptions",
    **sampling: Any,
) -> None:
    """List the pairs of source mask and destination frame, or a sample of them.

    Example: egoexo-tools pairs demo/root --fraction train=0.2 --count val=1950 --by track
    """
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.stages.pairs import run_pairs
    from egoexo_tools.vocab import directions

    chosen = directions(direction)
    summary = run_pairs(DatasetRoot(root), directions=chosen, run=run, **sampling)
    click.echo(summary.check().text())
