"""`egoexo-tools ingest`"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from egoexo_tools.commands import FILE, release_option, root_argument, stage_options

if TYPE_CHECKING:
    from egoexo_tools.running.records import RunOptions


@click.command()
@root_argument
@release_option
@click.option(
    "--split-file",
    type=FILE,
    help="split.json of `select`.  [default: the release's splits.json, or its file names]",
)
@click.option("--take", "takes", multiple=True, metavar="UID", help="Only this take. Repeatable.")
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    metavar="NAME",
    help="Only takes of this scenario. Repeatable.",
)
@stage_options()
def command(
    root: Path,
    release: Path,
    split_file: Path | None,
    takes: tuple[str, ...],
    scenarios: tuple[str, ...],
    run: "RunOptions",
) -> None:
    """Read a release's annotations into the takes and masks manifests.

    \b
    Example:
      egoexo-tools ingest my_root --release demo/release --scenario Health
    """
    from egoexo_tools.layout import DatasetRoot, Release
    from egoexo_tools.stages.ingest import STAGE, run_ingest
    from egoexo_tools.stages.left_out import left_out_text

    dataset = DatasetRoot(root)
    summary = run_ingest(
        dataset,
        Release(release),
        split_file=split_file,
        take_uids=takes or None,
        scenarios=scenarios or None,
        run=run,
    )
    if left_out := left_out_text(dataset, STAGE):
        click.echo(left_out, err=True)
    click.echo(summary.check().text())
