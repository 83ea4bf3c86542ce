"""`egoexo-tools download`"""

from contextlib import nullcontext
from typing import Any

import click

from egoexo_tools.commands import (
    ROOT,
    release_argument,
    scenarios_option,
    split_file_option,
    stage_options,
    takes_option,
)
from egoexo_tools.commands.choices import RESOLUTION, SPLIT
from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.running.records import RunOptions


@click.command()
@release_argument
@split_file_option
@click.option("--split", "splits", multiple=True, type=SPLIT, help="Only this split. Repeatable.")
@takes_option
@scenarios_option
@click.option(
    "--resolution",
    type=RESOLUTION,
    default="full",
    help="Full-size videos, or the release's small copies.",
)
@click.option(
    "--dry-run", is_flag=True, help="Download the annotation files only and print the plan."
)
@click.option("--profile", help="AWS profile.  [default: boto3's usual search]")
@click.option("--source", metavar="S3_URL", help="Bucket and prefix to download from.")
@click.option("--connections", type=click.IntRange(1, 64), default=8, help="Files at a time.")
@click.option("--max-rate", metavar="BYTES", help="Greatest rate in bytes a second, such as 50MB.")
@click.option("--root", type=ROOT, help="Dataset root that receives exclusions and frames.")
@click.option(
    "--disk-budget",
    metavar="BYTES",
    help="Extract frames take by take into ROOT and DELETE each take's videos afterwards, so that "
    "RELEASE and ROOT together stay below this size, such as 200GB.",
)
@click.option(
    "--from-s3", is_flag=True, help="Extract ROOT's frames from the bucket; store no video."
)
@stage_options()
def command(
    release: Release, root: DatasetRoot | None, dry_run: bool, run: RunOptions, **choices: Any
) -> None:
    """Download annotations and the annotated cameras' videos; verifies and resumes.

    \b
    Examples (need the dataset):
      egoexo-tools download data/release --scenario Cooking --dry-run
      egoexo-tools download data/release --root data/root --disk-budget 200GB
    """
    from egoexo_tools.download.files import (
        STAGE,
        DownloadOptions,
        download_files,
        exclusions_path,
        prepare_download,
    )
    from egoexo_tools.download.plan import TakeFilter
    from egoexo_tools.download.s3 import DEFAULT_SOURCE, S3
    from egoexo_tools.running.lock import shared_files_lock

    from_s3, budget_bytes = choices["from_s3"], _parse_bytes(choices["disk_budget"])
    if (from_s3 or budget_bytes) and root is None or (from_s3 and budget_bytes):
        raise SettingsError("--disk-budget and --from-s3 need --root and exclude each other")
    if budget_bytes and run.shard:
        # One process has to account for all of the disk.
        raise SettingsError("--disk-budget does not work in shards; use --from-s3 with --shard")
    s3 = S3(choices["source"] or DEFAULT_SOURCE, profile=choices["profile"])
    options = DownloadOptions(choices["connections"], _parse_bytes(choices["max_rate"]), run.quiet)
    # All shards need the same annotation files; only one shard at a time may fetch them.
    status_dir = (root or DatasetRoot(release.path)).status_dir(STAGE)
    with shared_files_lock(status_dir) if run.shard else nullcontext():
        plan = prepare_download(
            s3,
            release,
            selection=TakeFilter(
                split_file=choices["split_file"],
                splits=choices["splits"],
                take_uids=choices["take_uids"],
                scenarios=choices["scenarios"],
            ),
            resolution=choices["resolution"],
            record=root,
            budget_bytes=budget_bytes,
            options=options,
        )
    # With --from-s3 the unit is a camera, and run_stage chooses the shard's cameras.
    if run.shard and not from_s3:
        plan = plan.for_shard(run.shard)
    click.echo(plan.text())
    if plan.exclusions:
        click.echo(f"  all exclusions: {exclusions_path(release, root)}")
    if dry_run:
        return
    if root is None or not (from_s3 or budget_bytes):
        click.echo(download_files(s3, plan.files, options=options).check().text())
        return

    from egoexo_tools.stages.disk_budget import frames_from_s3, frames_within_budget, share_text

    if budget_bytes is None:
        summary = frames_from_s3(s3, root, release, plan, run=run)
    else:
        summary = frames_within_budget(
            s3, root, release, plan, budget_bytes=budget_bytes, options=options, run=run
        )
    click.echo(summary.check().text())
    if text := share_text(summary):
        click.echo(text)


def _parse_bytes(text: str | None) -> int | None:
    """`200GB` → bytes, in units of 1000; SettingsError for other text."""
    if text is None:
        return None
    factors = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    number = text.strip().upper().rstrip("KMGTB")
    unit = text.strip().upper()[len(number) :]
    try:
        size = int(float(number) * factors[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise SettingsError(f"{text!r} is not a number of bytes; write it as 200GB or 500MB")
    return size
