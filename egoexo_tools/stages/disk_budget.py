"""Frames of a release that the disk cannot hold: take by take, download, cut frames, delete.

One thread fetches takes ahead while the frames of those that came are cut. A ledger holds what
the release's folder and the root occupy together; a take is only begun when all that it will
add (its videos, and its frames at the most that they can take) still fits. Or no video is kept
at all: frames are read straight from the bucket, by byte ranges.
"""

import queue
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
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
"""Of a JPEG of quality 95, at most: pictures take 0.2 to 0.6, noise 0.9."""
_BYTES_PER_CAMERA = 1 << 16
"""Manifest part, status, exclusions, folders."""
_INGEST_GROWTH = 2.5
"""Manifests and annotation.json of a take, at most, per byte of its annotation."""


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
    """Ingest the plan's takes, then cut their frames with never more than the budget on disk.

    What counts is everything under the release and the root, together. The videos of a take,
    those too that were here before, are deleted when its frames are cut. A take that does not
    fit, or whose files cannot be had, is a failed unit. Raises DataError where the annotations
    leave no room, and S3Error for a trouble that all takes would meet.
    """
    _check_ingest(root, release, plan, budget_bytes)
    # First of all: how many frames a take has, and of what size, is in the masks manifest.
    _ingest(root, release, plan, run)
    todo = _pending(root, plan, run)
    # Videos whose frames are cut, of a run that was killed before it deleted them or of a plain
    # download: gone before the disk is measured, or their room would stay taken.
    for uid, files in plan.videos.items():
        for file in files:
            if (uid, file.camera) not in todo:
                file.remove()
    ledger = Ledger(budget_bytes, used_bytes=occupied_bytes([release.path, root.path]))
    loads = _loads(root, plan, todo)
    done_before = len(plan.video_files) - len(todo)
    summaries = [StageSummary(frames.STAGE, 0, done_before, (), {}, 0.0)]
    failures: list[UnitResult] = []
    with _fetching(s3, loads, ledger, options) as arrivals:
        for arrived in arrivals:
            failures.extend(_failures(arrived))
            cameras = [camera for item in arrived if not item.failed for camera in item.cameras]
            if cameras:
                quiet = replace(run, quiet=True)  # the download's bar is on the screen
                settings = _settings(plan)
                summaries.append(
                    run_frames(root, release, settings=settings, only=cameras, run=quiet)
                )
            _give_back(root, arrived, ledger)
    return _merged(summaries, failures)


def frames_from_s3(
    s3: S3,
    root: DatasetRoot,
    release: Release,
    plan: DownloadPlan,
    *,
    run: RunOptions = RunOptions(),
) -> StageSummary:
    """Ingest the plan's takes and cut their frames out of the bucket; no video is kept.

    The counts `bytes_read` and `bytes_of_videos` say what share of the videos had to come.
    A shard does not ingest: its cameras are of takes that others would have in hand. It raises
    SettingsError where a take of the plan is not ingested yet.
    """
    if run.shard is None:
        _ingest(root, release, plan, run)
    elif missing := [uid for uid in plan.videos if not root.part("takes", uid).exists()]:
        raise SettingsError(
            f"{len(missing):,} takes are not ingested yet ({missing[0]}); before shards, run "
            f"`egoexo-tools ingest {root.path} --release {release.path}`"
        )
    cameras = _pending(root, plan, run)
    urls = {
        (uid, file.camera or ""): s3.presigned_url(file.url)
        for uid, files in plan.videos.items()
        for file in files
        if (uid, file.camera) in cameras
    }
    return run_frames(
        root,
        release,
        settings=_settings(plan),
        only=_planned(plan),
        urls=urls,
        run=run,
    )


def share_text(summary: StageSummary) -> str:
    """What reading by ranges saved, or an empty text where nothing was read."""
    total = summary.counts.get("bytes_of_videos", 0)
    if not total:
        return ""
    read = summary.counts["bytes_read"]
    return (
        f"read {size_text(read)} of {size_text(total)} of video, "
        f"{max(0.0, 1 - read / total):.0%} of the bytes saved"
    )


@dataclass(frozen=True)
class Load:
    """A take's videos that are to come, and what its frames may take."""

    take_uid: str
    files: list[RemoteFile]
    frames_bytes: int

    @property
    def size(self) -> int:
        """Bytes of its videos, each with a small file beside it."""
        return sum(round_to_blocks(file.size) + 2 * BLOCK_BYTES for file in self.files)

    @property
    def reserved(self) -> int:
        """The most that it has on disk at any moment."""
        return self.size + self.frames_bytes

    @property
    def to_come(self) -> int:
        """The same without what lies there already."""
        here = sum(
            min(round_to_blocks(file.bytes_on_disk()), round_to_blocks(file.size))
            for file in self.files
        )
        return self.reserved - here


def frames_reserve(root: DatasetRoot, files: Sequence[RemoteFile], short_side: int | None) -> int:
    """The most bytes that the annotated frames of a take's cameras can take as pictures."""
    uid = files[0].take_uid or ""
    columns = ["camera", "frame_idx", "rle_height", "rle_width"]
    masks = read_manifest(root, "masks", columns=columns, units=[uid])
    total = 0
    for file in files:
        rows = masks.filter(pc.equal(masks["camera"], file.camera))
        # A camera without a visible mask has no size in the manifest: 4096 is above any video.
        height, width = (pc.max(rows[name]).as_py() or 4096 for name in columns[2:])
        if short_side is None:
            settings = FrameSettings()
            ego = view_of(file.camera or "") is View.EGO
            scale = settings.ego_scale if ego else settings.exo_scale
        else:
            scale = short_side / min(height, width)
        picture = round_to_blocks(int(height * width * scale**2 * _BYTES_PER_PIXEL)) + BLOCK_BYTES
        total += picture * len(pc.unique(rows["frame_idx"])) + _BYTES_PER_CAMERA
    return total


@dataclass(frozen=True)
class FetchedTake:
    """A take whose files have come, or could not be had."""

    load: Load
    reserved: bool
    """It counts in the ledger."""
    failed: dict[RemoteFile, str]

    @property
    def cameras(self) -> list[TakeCamera]:
        return [(self.load.take_uid, file.camera or "") for file in self.load.files]


@contextmanager
def _fetching(
    s3: S3, loads: Sequence[Load], ledger: Ledger, options: DownloadOptions
) -> Iterator[Iterator[list[FetchedTake]]]:
    """Fetch in a thread, ahead of whoever iterates; leaving the block stops it."""
    arrivals: queue.SimpleQueue[FetchedTake | BaseException | None] = queue.SimpleQueue()
    files = [file for load in loads for file in load.files]
    rate = options.max_bytes_per_second
    with open_meter(files, quiet=options.quiet, max_bytes_per_second=rate) as meter:

        def work() -> None:
            try:
                for load in loads:
                    arrivals.put(_fetch(s3, load, ledger, meter, options))
                arrivals.put(None)
            except BaseException as error:  # handed to the thread that waits: it must not hang
                arrivals.put(error)

        thread = threading.Thread(target=work, name="fetch takes", daemon=True)
        thread.start()
        try:
            yield _batches(arrivals)
        finally:
            # The thread may be reading from the network or waiting for room: both are woken, and
            # it is waited for, so that no file grows after the budget has been accounted for.
            meter.stop.set()
            ledger.close()
            thread.join()


def _fetch(
    s3: S3, load: Load, ledger: Ledger, meter: Meter, options: DownloadOptions
) -> FetchedTake:
    if not ledger.reserve(load.to_come):
        left = size_text(max(0, ledger.total_bytes - ledger.used_bytes))
        reason = (
            f"its videos and frames need {size_text(load.to_come)} and the disk budget leaves "
            f"{left}; give --disk-budget more"
        )
        return FetchedTake(load, reserved=False, failed={file: reason for file in load.files})
    fetched = fetch_all(s3, load.files, meter, connections=options.connections)
    return FetchedTake(load, reserved=True, failed=fetched.failed)


def _batches(
    arrivals: "queue.SimpleQueue[FetchedTake | BaseException | None]",
) -> Iterator[list[FetchedTake]]:
    """All that has arrived, whenever something has.

    One by one would be slower: each batch starts the worker processes of the frames stage anew.
    """
    while True:
        items = [arrivals.get()]
        with suppress(queue.Empty):
            while items[-1] is not None:
                items.append(arrivals.get_nowait())
        batch = [item for item in items if isinstance(item, FetchedTake)]
        # What came before an error has its frames cut first, so that a next run need not fetch it.
        if batch:
            yield batch
        for item in items:
            if isinstance(item, BaseException):
                raise item
        if items[-1] is None:
            return


def _ingest(root: DatasetRoot, release: Release, plan: DownloadPlan, run: RunOptions) -> None:
    split_file = plan.selection.split_file
    run_ingest(root, release, split_file=split_file, take_uids=list(plan.videos), run=run).check()


def _check_ingest(
    root: DatasetRoot, release: Release, plan: DownloadPlan, budget_bytes: int
) -> None:
    used = occupied_bytes([release.path, root.path])
    room = budget_bytes - used - int(plan.annotation_bytes * _INGEST_GROWTH)
    if room <= 0:
        raise DataError(
            f"{release.path} and {root.path} take {size_text(used)} already and their "
            f"annotations need room too; a disk budget of {size_text(budget_bytes)} is too small"
        )


def _loads(root: DatasetRoot, plan: DownloadPlan, todo: Collection[TakeCamera]) -> list[Load]:
    """The takes that have frames to cut, each with those of its videos that this needs."""
    return [
        Load(uid, wanted, frames_reserve(root, wanted, plan.short_side))
        for uid, files in plan.videos.items()
        if (wanted := [file for file in files if (uid, file.camera) in todo])
    ]


def _give_back(root: DatasetRoot, arrived: Sequence[FetchedTake], ledger: Ledger) -> None:
    """Delete the videos, also those of a take of which a file is missing, and free their room."""
    for item in arrived:
        if item.reserved:
            for file in item.load.files:
                file.remove()
            # The reserve was the most that could come; what the frames really take stays counted.
            # Bytes that were here before came in with `occupied_bytes`.
            ledger.release(item.load.reserved - _frames_size(root, item.load))


def _planned(plan: DownloadPlan) -> set[TakeCamera]:
    return {(uid, file.camera or "") for uid, files in plan.videos.items() for file in files}


def _settings(plan: DownloadPlan) -> FrameSettings:
    return FrameSettings.choose(short_side=plan.short_side)


def _pending(root: DatasetRoot, plan: DownloadPlan, run: RunOptions) -> Collection[TakeCamera]:
    """The planned cameras whose frames are not cut yet."""
    found = pending_units(
        root,
        frames.STAGE,
        frames.units(root, only=_planned(plan)),
        settings=asdict(_settings(plan)),
        options=run,
    )
    return {(unit.key[0], unit.key[1]) for unit in found}


def _failures(arrived: Sequence[FetchedTake]) -> Iterator[UnitResult]:
    for item in arrived:
        for file, reason in item.failed.items():
            name = f"{file.take_uid}.{file.camera}"
            yield UnitResult(unit=name, status="failed", error=reason, seconds=0.0)


def _merged(summaries: Sequence[StageSummary], failures: Sequence[UnitResult]) -> StageSummary:
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


def _frames_size(root: DatasetRoot, load: Load) -> int:
    """What the take's frames came to, with what belongs to them."""
    folders = [root.frame(load.take_uid, file.camera or "", 0).parent for file in load.files]
    return occupied_bytes(folders) + _BYTES_PER_CAMERA * len(folders)
