"""`egoexo-tools status`"""

from pathlib import Path

import click

from egoexo_tools.commands import root_argument


@click.command()
@root_argument
@click.option("--all", "all_takes", is_flag=True, help="Show all takes instead of the first 40.")
def command(root: Path, all_takes: bool) -> None:
    """Show the finished work of each stage and take, and the scores of the root's runs.

    Example: egoexo-tools status demo/root
    """
    from egoexo_tools.evaluation.score_table import score_table
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.running.status import status_text
    from egoexo_tools.vocab import Direction

    dataset = DatasetRoot(root)
    click.echo(status_text(dataset, most_takes=1_000_000 if all_takes else 40))
    if scores := score_table(dataset, tuple(Direction)):
        click.echo("\n" + scores)
