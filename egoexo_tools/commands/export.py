"""`egoexo-tools export`"""

from pathlib import Path

import click

from egoexo_tools.commands import FOLDER, root_argument, stage_options
from egoexo_tools.commands.choices import EXPORT_FORMAT
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import RunOptions


@click.command()
@root_argument
@click.option("--format", "format_name", type=EXPORT_FORMAT, required=True, help="Format to write.")
@click.option("-o", "--out", type=FOLDER, required=True, help="Folder to write or resume.")
@stage_options()
def command(root: DatasetRoot, format_name: str, out: Path, run: RunOptions) -> None:
    """Write a root in another tool's format.

    Frames are hard links if the file system supports them. With --format omama the folder may be
    the root itself: then only the mask folders and O-MaMa's names of the pair files are added.

    Example: egoexo-tools export demo/root --format coco -o demo/coco
    """
    from egoexo_tools.stages.export import LEFT_OUT, left_out_count, run_export

    summary = run_export(root, format_name, out, run=run).check()
    click.echo(summary.text())
    if count := left_out_count(out):
        click.echo(f"{count:,} left out, for the reasons in {out / LEFT_OUT}")
