"""Cuts frames of a release that the disk cannot hold: per take, download, cut, delete the videos.

A thread downloads further takes while the frames of the present ones are cut. A ledger counts the
bytes of the release's folder and of the root together; a take begins only when its videos and the
largest frames that they can give still fit. Alternatively no video is kept: frames are read from
the bucket by byte ranges.
"""

import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace

import pyarrow.compute as pc

from egoexo_tools.aliases import TakeCamera
from egoexo_tools.disk import size_text
from egoexo_tools.download.files import DownloadOptions
from egoexo_tools.download.ledger import BLOCK_BYTES, Ledger, occupied_bytes, round_to_blocks
from egoexo_tools.download.plan import DownloadPlan
from egoexo_tools.download.s3 import S3
from egoexo_tools.download.transfer import Meter, RemoteFile, fetch_all, open_meter
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.records import RunOptions, StageSummary, UnitResult
from egoexo_tools.running.stage import pending_units
from egoexo_tools.stages import frames
from egoexo_tools.stages.frames import run_frames
from egoexo_tools.stages.ingest import run_ingest
from egoexo_tools.stages.settings import FrameSettings
from egoexo_tools.vocab import View, view_of

_BYTES_PER_PIXEL = 1.0
"""Upper limit for a JPEG of quality 95: photographs take 0.2 to 0.6, noise 0.9."""
_BYTES_PER_CAMERA = 1 << 16
"""Upper limit for a camera's manifest part, status, exclusions and folders."""
_INGEST_GROWTH = 2.5
"""Upper limit for a take's manifests and annotation.json, per byte of its annotation."""
_UNKNOWN_SIDE = 4096
"""Sides in pixels of a video of unknown size: larger than any in the release."""


def frames_within_budget(
    s3: S3,
    root: DatasetRoot,
    release: Release,
    plan: DownloadPlan,
    *,
    budget_bytes: int,
    options: DownloadOptions = DownloadOptions(),
    run: RunOptions = RunOptions(),
) -> StageSummary:
    """Ingest the plan's takes, then cut their frames with at most `budget_bytes` on disk.

    The budget covers everything in the release's folder and the root. A take's videos are deleted
    after its frames are cut, also those that were there before. A take that does not fit, or whose
    files cannot be downloaded, is a failed unit. Raises DataError where the annotations leave no
    room, and S3Error for a failure that affects every take.
    """
    present_bytes = occupied_bytes([release.path, root.path])
    if present_bytes + int(plan.annotation_bytes * _INGEST_GROWTH) >= budget_bytes:
        raise DataError(
            f"{release.path} and {root.path} have {size_text(present_bytes)} already and their "
            f"annotations need room too; a disk budget of {size_text(budget_bytes)} is too small"
        )
    # Ingest first: the masks manifest has the number and the size of a take's frames.
    _ingest(root, release, plan, run)
    todo = _pending_cameras(root, plan, run)
    # Videos whose frames are cut already may be left from a killed run or a plain download. They go
    # before the disk is measured, or their room would stay counted.
    for uid, files in plan.videos.items():
        for file in files:
            if (uid, file.camera) not in todo:
                file.remove()
    ledger = Ledger(budget_bytes, used_bytes=occupied_bytes([release.path, root.path]))
    takes = [
        PendingTake(uid, pending, max_frame_bytes(root, pending, plan.short_side))
        for uid, files in plan.videos.items()
        if (pending := [file for file in files if (uid, file.camera) in todo])
    ]
    skipped = len(plan.video_files) - len(todo)
    summaries = [StageSummary(frames.STAGE, 0, skipped, (), {}, 0.0)]
    failures: list[UnitResult] = []
    with _fetch_ahead(s3, takes, ledger, options) as batches:
        for batch in batches:
            failures += [
                UnitResult(f"{file.take_uid}.{file.camera}", "failed", reason, seconds=0.0)
                for fetched in batch
                for file, reason in fetched.failed.items()
            ]
            cameras = [
                camera for fetched in batch if not fetched.failed for camera in fetched.take.cameras
            ]
            # A take with a failed download waits for the next run, also with its other cameras.
            if cameras:
                quiet = replace(run, quiet=True)  # the download's progress bar is on the screen
                settings = _settings(plan)
                summaries.append(
                    run_frames(root, release, settings=settings, only=cameras, run=quiet)
                )
            _delete_videos(root, batch, ledger)
    return _merge_summaries(summaries, failures)


def frames_from_s3(
    s3: S3,
    root: DatasetRoot,
    release: Release,
    plan: DownloadPlan,
    *,
    run: RunOptions = RunOptions(),
) -> StageSummary:
    """Ingest the plan's takes and cut their frames out of the bucket; no video is kept.

    The counts `bytes_read` and `bytes_of_videos` give the share of the videos that was read. A
    shard does not ingest, because several shards have cameras of one take: it raises SettingsError
    where a take of the plan is not ingested yet.
    """
    if run.shard is None:
        _ingest(root, release, plan, run)
    elif missing := [uid for uid in plan.videos if not root.part("takes", uid).exists()]:
        raise SettingsError(
            f"{len(missing):,} takes are not ingested yet ({missing[0]}); before shards, run "
            f"`egoexo-tools ingest {root.path} --release {release.path}`"
        )
    pending = _pending_cameras(root, plan, run)
    urls = {
        (uid, file.camera or ""): s3.presigned_url(file.url)
        for uid, files in plan.videos.items()
        for file in files
        if (uid, file.camera) in pending
    }
    return run_frames(
        root, release, settings=_settings(plan), only=_cameras(plan), urls=urls, run=run
    )


def share_text(summary: StageSummary) -> str:
    """The share of the bytes that reading by ranges saved; empty where nothing was read."""
    total = summary.counts.get("bytes_of_videos", 0)
    if not total:
        return ""
    read = summary.counts["bytes_read"]
    return (
        f"read {size_text(read)} of {size_text(total)} of video, "
        f"{max(0.0, 1 - read / total):.0%} of the bytes saved"
    )


@dataclass(frozen=True)
class PendingTake:
    """A take with videos to download."""

    take_uid: str
    files: list[RemoteFile]
    frames_bytes: int
    """Upper limit for its frames."""

    @property
    def cameras(self) -> list[TakeCamera]:
        return [(self.take_uid, file.camera or "") for file in self.files]

    @property
    def max_bytes(self) -> int:
        """Upper limit for its videos, each with a small file beside it, and its frames on disk."""
        videos = sum(round_to_blocks(file.size) + 2 * BLOCK_BYTES for file in self.files)
        return videos + self.frames_bytes

    @property
    def missing_bytes(self) -> int:
        """`max_bytes` without the parts of the videos that are on disk."""
        present = sum(
            min(round_to_blocks(file.bytes_on_disk()), round_to_blocks(file.size))
            for file in self.files
        )
        return self.max_bytes - present


def max_frame_bytes(root: DatasetRoot, files: Sequence[RemoteFile], short_side: int | None) -> int:
    """Upper limit for the annotated frames of a take's cameras as pictures on disk."""
    uid = files[0].take_uid or ""
    columns = ["camera", "frame_idx", "rle_height", "rle_width"]
    masks = read_manifest(root, "masks", columns=columns, units=[uid])
    settings = FrameSettings()
    total = 0
    for file in files:
        rows = masks.filter(pc.equal(masks["camera"], file.camera))
        # A camera without a visible mask has no size in the manifest.
        height, width = (pc.max(rows[name]).as_py() or _UNKNOWN_SIDE for name in columns[2:])
        if short_side is not None:
            scale = short_side / min(height, width)
        else:
            is_ego = view_of(file.camera or "") is View.EGO
            scale = settings.ego_scale if is_ego else settings.exo_scale
        picture = round_to_blocks(int(height * width * scale**2 * _BYTES_PER_PIXEL)) + BLOCK_BYTES
        total += picture * len(pc.unique(rows["frame_idx"])) + _BYTES_PER_CAMERA
    return total


@dataclass(frozen=True)
class FetchedTake:
    """A take after its download, which may have failed."""

    take: PendingTake
    is_reserved: bool
    """Whether the ledger counts its bytes."""
    failed: dict[RemoteFile, str]
    """File → reason."""


@contextmanager
def _fetch_ahead(
    s3: S3, takes: Sequence[PendingTake], ledger: Ledger, options: DownloadOptions
) -> Iterator[Iterator[list[FetchedTake]]]:
    """Download in a thread while the caller iterates; leaving the block stops the thread."""
    arrivals: queue.SimpleQueue[FetchedTake | BaseException | None] = queue.SimpleQueue()
    files = [file for take in takes for file in take.files]
    rate = options.max_bytes_per_second
    with open_meter(files, quiet=options.quiet, max_bytes_per_second=rate) as meter:

        def fetch_all_takes() -> None:
            try:
                for take in takes:
                    arrivals.put(_fetch(s3, take, ledger, meter, options))
                arrivals.put(None)
            except BaseException as error:  # the main thread raises it; it would wait forever
                arrivals.put(error)

        thread = threading.Thread(target=fetch_all_takes, name="fetch takes", daemon=True)
        thread.start()
        try:
            yield _batches(arrivals)
        finally:
            # The thread may be reading from the network or waiting for room. It is stopped and
            # joined, so that no file grows after the budget was accounted for.
            meter.stop.set()
            ledger.close()
            thread.join()


def _fetch(
    s3: S3, take: PendingTake, ledger: Ledger, meter: Meter, options: DownloadOptions
) -> FetchedTake:
    """Download a take when the ledger has room for it, or fail all of its files."""
    if not ledger.reserve(take.missing_bytes):
        free = size_text(max(0, ledger.total_bytes - ledger.used_bytes))
        reason = (
            f"its videos and frames need {size_text(take.missing_bytes)} and the disk budget has "
            f"{free} left; increase --disk-budget"
        )
        return FetchedTake(take, is_reserved=False, failed={file: reason for file in take.files})
    transfers = fetch_all(s3, take.files, meter, connections=options.connections)
    return FetchedTake(take, is_reserved=True, failed=transfers.failed)


def _batches(
    arrivals: "queue.SimpleQueue[FetchedTake | BaseException | None]",
) -> Iterator[list[FetchedTake]]:
    """All takes that have arrived, whenever there is one; ends at None, raises an error.

    Single takes would be slower: each batch starts the worker processes of the frames stage.
    """
    while True:
        items = [arrivals.get()]
        with suppress(queue.Empty):
            while items[-1] is not None:
                items.append(arrivals.get_nowait())
        batch = [item for item in items if isinstance(item, FetchedTake)]
        # The frames of takes before an error are cut, so that the next run need not fetch them.
        if batch:
            yield batch
        for item in items:
            if isinstance(item, BaseException):
                raise item
        if items[-1] is None:
            return


def _delete_videos(root: DatasetRoot, batch: Sequence[FetchedTake], ledger: Ledger) -> None:
    """Delete the takes' videos, also where one is missing, and release their reservations."""
    for fetched in batch:
        if fetched.is_reserved:
            take = fetched.take
            for file in take.files:
                file.remove()
            folders = [root.frame(*camera, 0).parent for camera in take.cameras]
            frames_bytes = occupied_bytes(folders) + _BYTES_PER_CAMERA * len(folders)
            # Of the reserved maximum, the real frames stay counted. Not `missing_bytes`: the parts
            # of videos that were there before are in the ledger's first count.
            ledger.release(take.max_bytes - frames_bytes)


def _ingest(root: DatasetRoot, release: Release, plan: DownloadPlan, run: RunOptions) -> None:
    split_file = plan.selection.split_file
    run_ingest(root, release, split_file=split_file, take_uids=list(plan.videos), run=run).check()


def _cameras(plan: DownloadPlan) -> set[TakeCamera]:
    return {(uid, file.camera or "") for uid, files in plan.videos.items() for file in files}


def _settings(plan: DownloadPlan) -> FrameSettings:
    return FrameSettings.choose(short_side=plan.short_side)


def _pending_cameras(root: DatasetRoot, plan: DownloadPlan, run: RunOptions) -> set[TakeCamera]:
    """The plan's cameras whose frames are not cut yet."""
    units = frames.units(root, only=_cameras(plan))
    settings = asdict(_settings(plan))
    pending = pending_units(root, frames.STAGE, units, settings=settings, options=run)
    return {(unit.key[0], unit.key[1]) for unit in pending}


def _merge_summaries(
    summaries: Sequence[StageSummary], failures: Sequence[UnitResult]
) -> StageSummary:
    """One summary of several runs of the stage, and of takes that could not be downloaded."""
    counts: Counter[str] = Counter()
    for summary in summaries:
        counts.update(summary.counts)
    return StageSummary(
        stage=frames.STAGE,
        done=sum(summary.done for summary in summaries),
        skipped=sum(summary.skipped for summary in summaries),
        failed=(*(unit for summary in summaries for unit in summary.failed), *failures),
        counts=dict(counts),
        seconds=sum(summary.seconds for summary in summaries),
    )
