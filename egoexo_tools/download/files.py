"""The `download` stage: a release's bucket → `RELEASE/`, only what the correspondence task needs.

takes.json, splits.json and the relations files are fetched first, because only they say which
cameras of which takes are annotated. The plan is then made, printed and written to exclusions, and
the videos follow. There are no status files: every run checks the files on disk by their size and
by opening them, so that nothing can become outdated and nothing has to be reset.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from egoexo_tools.disk import existing_folder, free_bytes, size_text
from egoexo_tools.download.plan import DownloadPlan, TakeFilter, annotation_files, plan_download
from egoexo_tools.download.s3 import S3
from egoexo_tools.download.transfer import (
    CONNECTIONS,
    FetchResult,
    RemoteFile,
    fetch_all,
    open_meter,
)
from egoexo_tools.errors import DataError, StageFailed
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.manifests import write_exclusions

STAGE = "download"
PLAN_UNIT = "plan"
"""Exclusions of the plan: part `download.plan`."""
_SPARE_BYTES = 10**8
"""Left free on the disk."""


@dataclass(frozen=True)
class DownloadOptions:
    """How to download; none of it changes which files are fetched."""

    connections: int = CONNECTIONS
    max_bytes_per_second: float | None = None
    quiet: bool = False


@dataclass
class DownloadSummary:
    """The result of a download."""

    result: FetchResult = field(default_factory=FetchResult)
    bytes_received: int = 0
    seconds: float = 0.0

    def text(self) -> str:
        """One line, and one more for each missing file."""
        rate = self.bytes_received / max(self.seconds, 1e-9)
        parts = [f"{len(self.result.fetched):,} files fetched"]
        if self.result.present:
            parts.append(f"{len(self.result.present):,} already present and correct")
        if self.result.failed:
            parts.append(f"{len(self.result.failed):,} missing")
        lines = [
            f"download: {', '.join(parts)} ({size_text(self.bytes_received)} in "
            f"{self.seconds:.1f} s, {size_text(rate)}/s)"
        ]
        for file, reason in self.result.failed.items():
            lines.append(f"  missing {file.path}: {reason}")
        return "\n".join(lines)

    def check(self) -> "DownloadSummary":
        """Return self; raises StageFailed with the list of missing files if there are any."""
        if self.result.failed:
            raise StageFailed(self.text())
        return self


def prepare_download(
    s3: S3,
    release: Release,
    *,
    selection: TakeFilter = TakeFilter(),
    resolution: str = "full",
    record: DatasetRoot | None = None,
    budget_bytes: int | None = None,
    options: DownloadOptions = DownloadOptions(),
) -> DownloadPlan:
    """Fetch the annotation files, plan the videos, and write the exclusions to `record`.

    Without `record` they go to `RELEASE/manifests/exclusions/`. Raises StageFailed where an
    annotation file cannot be fetched, DataError where the annotation files alone exceed
    `budget_bytes`, and the errors of `plan_download` and S3.
    """
    files = annotation_files(s3, release)
    size = sum(file.size for file in files)
    if budget_bytes is not None and size > budget_bytes:
        raise DataError(
            f"the annotation files take {size_text(size)}, the disk budget is "
            f"{size_text(budget_bytes)}; give a larger budget"
        )
    # A relations file that is cut off hides takes, so nothing is planned before all are complete.
    download_files(s3, files, options=options).check()
    plan = plan_download(s3, release, files, selection=selection, resolution=resolution)
    write_exclusions(record or DatasetRoot(release.path), STAGE, PLAN_UNIT, plan.exclusions)
    return plan


def download_files(
    s3: S3, files: Sequence[RemoteFile], *, options: DownloadOptions = DownloadOptions()
) -> DownloadSummary:
    """Fetch the files that are not on disk yet; the summary names those that are missing.

    Raises DataError before the first byte where the disk has too little space.
    """
    # A full disk would otherwise be noticed after hours, in the middle of a file.
    check_room(files)
    start = time.monotonic()
    with open_meter(
        files, quiet=options.quiet, max_bytes_per_second=options.max_bytes_per_second
    ) as meter:
        result = fetch_all(s3, files, meter, connections=options.connections)
    return DownloadSummary(result, meter.received, time.monotonic() - start)


def check_room(files: Sequence[RemoteFile]) -> None:
    """Raise DataError if the files do not fit on their disk."""
    if not files:
        return
    folder = existing_folder(files[0].path.parent)
    needed = sum(max(0, file.size - file.bytes_on_disk()) for file in files)
    free = max(free_bytes(folder) - _SPARE_BYTES, 0)
    if needed > free:
        raise DataError(
            f"{size_text(needed)} have to be fetched and {folder} has {size_text(free)} free; "
            "select fewer takes (--take, --scenario, --split), or use --resolution 448 or "
            "--disk-budget"
        )


def exclusions_path(release: Release, record: DatasetRoot | None = None) -> Path:
    """The file with the exclusions of the plan."""
    return (record or DatasetRoot(release.path)).part("exclusions", f"{STAGE}.{PLAN_UNIT}")
