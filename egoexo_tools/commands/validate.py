"""`egoexo-tools validate`"""

import sys

import click

from egoexo_tools.commands import root_argument
from egoexo_tools.layout import DatasetRoot


@click.command()
@root_argument
@click.option("--files", is_flag=True, help="Also open the header of every frame.")
def command(root: DatasetRoot, files: bool) -> None:
    """Check the manifests against each other and against the files; repair nothing.

    The exit code is 1 if there are findings.

    Example: egoexo-tools validate demo/root --files
    """
    from egoexo_tools.checks.validate import findings_table, validate

    findings = validate(root, files=files)
    click.echo(findings_table(findings))
    # Findings are a result, not an error; scripts see them in the exit code.
    sys.exit(1 if findings else 0)
