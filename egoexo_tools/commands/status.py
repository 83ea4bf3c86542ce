"""`egoexo-tools status`"""

import click

from egoexo_tools.commands import root_argument
from egoexo_tools.layout import DatasetRoot


@click.command()
@root_argument
@click.option("--all", "all_takes", is_flag=True, help="Show all takes instead of the first 40.")
def command(root: DatasetRoot, all_takes: bool) -> None:
    """Show the finished work of each stage and take, and the scores of the root's runs.

    Example: egoexo-tools status demo/root
    """
    from egoexo_tools.evaluation.score_table import score_table
    from egoexo_tools.running.status import status_text
    from egoexo_tools.vocab import Direction

    click.echo(status_text(root, most_takes=1_000_000 if all_takes else 40))
    if scores := score_table(root, tuple(Direction)):
        click.echo("\n" + scores)
