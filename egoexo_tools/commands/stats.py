"""`egoexo-tools stats`"""

from pathlib import Path

import click

from egoexo_tools.commands import FILE, FOLDER, root_argument
from egoexo_tools.layout import DatasetRoot


@click.command()
@root_argument
@click.option("--parquet", type=FOLDER, help="Also write every table into this folder.")
@click.option("--html", type=FILE, help="Also write a page with plots.")
def command(root: DatasetRoot, parquet: Path | None, html: Path | None) -> None:
    """Count and measure a root's takes, objects, tracks, masks, pairs and exclusions.

    Example: egoexo-tools stats demo/root --html stats.html
    """
    from egoexo_tools.viewing.stats import collect, format_stats, write_parquet

    tables = collect(root)
    click.echo(format_stats(tables))
    if parquet is not None:
        write_parquet(tables, parquet)
        click.echo(f"\nWritten: {len(tables)} tables to {parquet}")
    if html is not None:
        from egoexo_tools.viewing.stats_page import write_page

        write_page(tables, html, title=f"Statistics of {root.path.resolve().name}")
        click.echo(f"\nWritten: {html}")
