"""`egoexo-tools ingest`"""

from pathlib import Path

import click

from egoexo_tools.commands import (
    release_option,
    root_argument,
    scenarios_option,
    split_file_option,
    stage_options,
    takes_option,
)
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.running.records import RunOptions


@click.command()
@root_argument
@release_option
@split_file_option
@takes_option
@scenarios_option
@stage_options()
def command(
    root: DatasetRoot,
    release: Release,
    split_file: Path | None,
    take_uids: tuple[str, ...],
    scenarios: tuple[str, ...],
    run: RunOptions,
) -> None:
    """Read a release's annotations into the takes and masks manifests.

    \b
    Example:
      egoexo-tools ingest health_root --release demo/release --scenario Health
    """
    from egoexo_tools.stages.ingest import STAGE, run_ingest
    from egoexo_tools.stages.left_out import left_out_text

    summary = run_ingest(
        root,
        release,
        split_file=split_file,
        take_uids=take_uids or None,
        scenarios=scenarios or None,
        run=run,
    )
    if left_out := left_out_text(root, STAGE):
        click.echo(left_out, err=True)
    click.echo(summary.check().text())
