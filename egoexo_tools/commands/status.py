"""`egoexo-tools status`"""

from pathlib import Path

import click

from egoexo_tools.commands import root_argument


@click.command()
@root_argument
def command(root: Path) -> None:
    """Show what is done, per stage and take.

    Example: egoexo-tools status demo/root
    """
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.pipeline import status_table

    click.echo(status_table(DatasetRoot(root)))
