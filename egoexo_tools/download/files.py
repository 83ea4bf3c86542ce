"""Stage `download`: a release's bucket → `RELEASE/`, only what the correspondence task needs.

takes.json, splits.json and the relations files come first, because only they say which cameras
of which takes are annotated. Then the plan is made, shown and written to exclusions, and then
the videos come. The truth is the files themselves: every run checks those that are here by size
and by opening them, so there is no status to go stale and nothing to reset.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from egoexo_tools.disk import existing_folder, free_bytes, size_text
from egoexo_tools.download.plan import (
    DownloadPlan,
    TakeFilter,
    annotation_files,
    plan_download,
)
from egoexo_tools.download.s3 import S3
from egoexo_tools.download.transfer import CONNECTIONS, Fetched, RemoteFile, fetch_all, open_meter
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
    """How to download; none of it changes what comes."""

    connections: int = CONNECTIONS
    max_bytes_per_second: float | None = None
    quiet: bool = False


@dataclass
class DownloadSummary:
    """What a download did."""

    fetched: Fetched = field(default_factory=Fetched)
    bytes_received: int = 0
    seconds: float = 0.0

    def text(self) -> str:
        """One line, and one for each file that is missing."""
        rate = self.bytes_received / max(self.seconds, 1e-9)
        parts = [f"{len(self.fetched.came):,} files fetched"]
        if self.fetched.were_here:
            parts.append(f"{len(self.fetched.were_here):,} already here and right")
        if self.fetched.failed:
            parts.append(f"{len(self.fetched.failed):,} missing")
        lines = [
            f"download: {', '.join(parts)} ({size_text(self.bytes_received)} in "
            f"{self.seconds:.1f} s, {size_text(rate)}/s)"
        ]
        lines.extend(f"  missing {file.path}: {why}" for file, why in self.fetched.failed.items())
        return "\n".join(lines)

    def check(self) -> "DownloadSummary":
        """self if every file is here; else raise StageFailed with the list."""
        if self.fetched.failed:
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
    """Fetch the annotations and plan the rest; the exclusions go to `record`.

    Without `record` they go to `RELEASE/manifests/exclusions/`. Raises StageFailed where an
    annotation file cannot be had, and DataError and S3Error as the plan and the bucket do, or
    where the annotation files alone are above `budget_bytes`.
    """
    files = annotation_files(s3, release)
    size = sum(file.size for file in files)
    if budget_bytes is not None and size > budget_bytes:
        raise DataError(
            f"the annotation files take {size_text(size)}, the disk budget is "
            f"{size_text(budget_bytes)}; give it more"
        )
    # Whole and right, or nothing is planned: a relations file that is cut off hides takes.
    download_files(s3, files, options=options).check()
    plan = plan_download(s3, release, files, selection=selection, resolution=resolution)
    write_exclusions(record or DatasetRoot(release.path), STAGE, PLAN_UNIT, plan.exclusions)
    return plan


def download_files(
    s3: S3, files: Sequence[RemoteFile], *, options: DownloadOptions = DownloadOptions()
) -> DownloadSummary:
    """Fetch what is not here yet; the answer names what is missing in the end.

    Raises DataError where the disk has no room for it, before anything comes.
    """
    check_room(files)
    started = time.monotonic()
    with open_meter(
        files, quiet=options.quiet, max_bytes_per_second=options.max_bytes_per_second
    ) as meter:
        fetched = fetch_all(s3, files, meter, connections=options.connections)
    return DownloadSummary(fetched, meter.received, time.monotonic() - started)


def check_room(files: Sequence[RemoteFile]) -> None:
    """Raise DataError if the files do not fit on the disk that they go to."""
    if not files:
        return
    folder = existing_folder(files[0].path.parent)
    needed = sum(max(0, file.size - file.bytes_on_disk()) for file in files)
    free = free_bytes(folder) - _SPARE_BYTES
    if needed > max(free, 0):
        raise DataError(
            f"{size_text(needed)} are to come and {folder} has {size_text(max(free, 0))} free; "
            "select fewer takes (--take, --scenario, --split), take --resolution 448, or use "
            "--disk-budget"
        )


def exclusions_path(release: Release, record: DatasetRoot | None = None) -> Path:
    """Where the plan's exclusions lie."""
    return (record or DatasetRoot(release.path)).part("exclusions", f"{STAGE}.{PLAN_UNIT}")
