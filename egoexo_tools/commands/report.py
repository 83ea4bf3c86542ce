"""`egoexo-tools report`"""

from pathlib import Path

import click

from egoexo_tools.commands import FILE, FOLDER


@click.command()
@click.argument("runs", type=FOLDER, nargs=-1, required=True, metavar="RUN...")
@click.option(
    "-o", "--output", type=FILE, help="Page to write.  [default: report.html next to the first run]"
)
def command(runs: tuple[Path, ...], output: Path | None) -> None:
    """Write an HTML page of tables, curves and pictures about scored runs.

    \b
    Example:
      egoexo-tools report demo/root/runs/ego2exo demo/root/runs/ego2exo-knn \\
        -o report.html
    """
    from egoexo_tools.disk import size_text
    from egoexo_tools.report.page import write_report
    from egoexo_tools.runs import REPORT

    page = output or runs[0].resolve().parent / REPORT
    write_report(runs, page)
    click.echo(f"{page} ({size_text(page.stat().st_size)}); open it in a browser")
