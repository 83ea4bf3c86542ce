"""`egoexo-tools ground-truth`"""

from pathlib import Path

import click

from egoexo_tools.commands import FILE, root_argument
from egoexo_tools.commands.choices import DIRECTION, SPLIT
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.vocab import Direction, Split


@click.command()
@root_argument
@click.option("--direction", type=DIRECTION, required=True, help="Source view to destination view.")
@click.option("--split", type=SPLIT, required=True, help="Split of the pairs.")
@click.option("-o", "--out", type=FILE, required=True, help="File to write.")
def command(root: DatasetRoot, direction: Direction, split: Split, out: Path) -> None:
    """Write the official ground-truth file of a root's pairs.

    \b
    Example:
      egoexo-tools ground-truth demo/root --direction ego2exo --split val \\
        -o gt.json
    """
    from egoexo_tools.disk import size_text
    from egoexo_tools.evaluation.ground_truth import write_ground_truth

    write_ground_truth(root.require(), direction=direction, split=split, out=out)
    click.echo(f"wrote {out} ({size_text(out.stat().st_size)})")
