"""`egoexo-tools validate`"""

import sys
from pathlib import Path

import click

from egoexo_tools.commands import root_argument


@click.command()
@root_argument
@click.option("--files", is_flag=True, help="Also open the header of every frame.")
def command(root: Path, files: bool) -> None:
    """Check the manifests against each other and against the files; repair nothing.

    The exit code is 1 if there are findings.

    Example: egoexo-tools validate demo/root --files
    """
    from egoexo_tools.checks.validate import findings_table, validate
    from egoexo_tools.layout import DatasetRoot

    findings = validate(DatasetRoot(root), files=files)
    click.echo(findings_table(findings))
    sys.exit(1 if findings else 0)
