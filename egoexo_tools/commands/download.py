"""`egoexo-tools download`"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from egoexo_tools.commands import FILE, FOLDER, stage_options
from egoexo_tools.commands.choices import RESOLUTION, SPLIT
from egoexo_tools.errors import SettingsError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from egoexo_tools.download.files import DownloadOptions
    from egoexo_tools.download.plan import DownloadPlan, TakeFilter
    from egoexo_tools.download.s3 import S3
    from egoexo_tools.layout import DatasetRoot, Release
    from egoexo_tools.running.records import RunOptions


@click.command()
@click.argument("release", type=FOLDER)
@click.option("--split-file", type=FILE, help="split.json of `select`.  [default: official]")
@click.option("--split", "splits", multiple=True, type=SPLIT)
@click.option("--take", "take_uids", multiple=True, metavar="UID", help="Only this take.")
@click.option("--scenario", "scenarios", multiple=True, help="Only takes of this scenario.")
@click.option(
    "--resolution",
    type=RESOLUTION,
    default="full",
    show_default=True,
    help="The full-size videos, or the small copies.",
)
@click.option("--dry-run", is_flag=True, help="Stop after the plan (annotation files do come).")
@click.option("--profile", help="AWS profile.  [default: boto3's own search]")
@click.option("--source", metavar="S3_URL", help="Another bucket and prefix.")
@click.option("--connections", type=click.IntRange(1, 64), default=8, show_default=True)
@click.option("--max-rate", metavar="BYTES", help="Bytes a second at most, such as 50MB.")
@click.option("--root", type=FOLDER, help="Dataset root: keeps the exclusions, and the frames.")
@click.option(
    "--disk-budget",
    metavar="BYTES",
    help="Take by take into ROOT: download, cut frames, DELETE the videos; RELEASE and ROOT "
    "together never above this, such as 200GB.",
)
@click.option("--from-s3", is_flag=True, help="Cut ROOT's frames out of the bucket; keep no video.")
@stage_options()
def command(release: Path, dry_run: bool, run: "RunOptions", **choices: Any) -> None:
    """Download the annotations and the annotated cameras' videos, verified and resumable.

    Example: egoexo-tools download data/release --scenario Cooking --dry-run

    Example: egoexo-tools download data/release --root data/root --disk-budget 200GB
    """
    from egoexo_tools.download.files import (
        DownloadOptions,
        download_files,
        exclusions_path,
        prepare_download,
    )
    from egoexo_tools.download.s3 import DEFAULT_SOURCE, S3
    from egoexo_tools.layout import DatasetRoot, Release

    root, budget = choices["root"] and DatasetRoot(choices["root"]), _bytes(choices["disk_budget"])
    if (budget or choices["from_s3"]) and (root is None or (budget and choices["from_s3"])):
        raise SettingsError("--disk-budget and --from-s3 need --root, and not each other")
    if budget and run.shard:
        raise SettingsError("--disk-budget keeps one account of the disk; take --from-s3 in shards")
    s3 = S3(choices["source"] or DEFAULT_SOURCE, profile=choices["profile"])
    options = DownloadOptions(choices["connections"], _bytes(choices["max_rate"]), run.quiet)
    with _turn(root or DatasetRoot(release), run):
        plan = prepare_download(
            s3,
            Release(release),
            selection=_take_filter(choices),
            resolution=choices["resolution"],
            record=root,
            budget_bytes=budget,
            options=options,
        )
    # Frames out of the bucket are cut by camera, and a shard has some of them.
    if run.shard and not choices["from_s3"]:
        plan = plan.for_shard(run.shard)
    click.echo(plan.text())
    if plan.exclusions:
        click.echo(f"  all of it: {exclusions_path(Release(release), root)}")
    if dry_run:
        return
    if budget or choices["from_s3"]:
        click.echo(_frames(s3, root, Release(release), plan, budget, options, run))
    else:
        click.echo(download_files(s3, plan.files, options=options).check().text())


def _turn(record: "DatasetRoot", run: "RunOptions") -> "AbstractContextManager[None]":
    """All shards begin with the same annotation files, which only one at a time may fetch."""
    from egoexo_tools.download.files import STAGE
    from egoexo_tools.running.lock import shared_files_lock

    return shared_files_lock(record.status_dir(STAGE)) if run.shard else nullcontext()


def _frames(
    s3: "S3",
    root: "DatasetRoot",
    release: "Release",
    plan: "DownloadPlan",
    budget: int | None,
    options: "DownloadOptions",
    run: "RunOptions",
) -> str:
    """Frames without keeping videos; the text that says what was done."""
    from egoexo_tools.stages.disk_budget import frames_from_s3, frames_within_budget, share_text

    if budget is None:
        summary = frames_from_s3(s3, root, release, plan, run=run)
    else:
        summary = frames_within_budget(
            s3, root, release, plan, budget_bytes=budget, options=options, run=run
        )
    return "\n".join(filter(None, [summary.check().text(), share_text(summary)]))


def _take_filter(choices: dict[str, Any]) -> "TakeFilter":
    from egoexo_tools.download.plan import TakeFilter
    from egoexo_tools.vocab import Split

    splits: Sequence[str] = choices["splits"]
    return TakeFilter(
        split_file=choices["split_file"],
        splits=tuple(Split(split) for split in splits),
        take_uids=tuple(choices["take_uids"]),
        scenarios=tuple(choices["scenarios"]),
    )


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _bytes(text: str | None) -> int | None:
    """`200GB` → bytes, in units of 1000; SettingsError for other text."""
    if text is None:
        return None
    number = text.strip().upper().rstrip("KMGTB")
    unit = text.strip().upper()[len(number) :]
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise SettingsError(f"{text!r} is no number of bytes; write it as 200GB or 500MB")
    return size
