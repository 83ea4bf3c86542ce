"""Stage `frames`: videos → `processed/<take_uid>/<camera>/<frame_idx>.jpg` and their manifest.

A unit is one camera of one take. It writes the annotated frames (every row of the masks manifest,
visible or absent), or one frame per second of the whole video. Frames are scaled with bilinear
interpolation, ego to 1/2 and exo to 1/4, and saved as JPEG of quality 95, as in the benchmark's own
script. Only a few pictures are in memory at a time.

A video is an input: if its size, time or index changes, its frames are made again. If it is gone,
they stay. Pictures that changed since they were written are made again too.

A video that is shorter than its annotations, truncated or damaged gives the frames that it holds;
each missing frame is a row in exclusions with its reason. A video that does not exist or gives no
frame fails its unit.
"""

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from egoexo_tools.aliases import Row, TakeCamera
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.manifests import read_manifest, write_exclusions, write_manifest
from egoexo_tools.running.executors import available_cores
from egoexo_tools.running.inputs import FileDigests, hash_texts
from egoexo_tools.running.owned_files import Ownership, is_of_takes
from egoexo_tools.running.pictures import changed_pictures, remember_pictures
from egoexo_tools.running.records import (
    RunOptions,
    StageSummary,
    Unit,
    former_fingerprint,
    read_status,
)
from egoexo_tools.running.stage import run_stage
from egoexo_tools.stages.settings import FrameSettings
from egoexo_tools.video.frames import MissingFrames, ReadReport, probe, read_frames
from egoexo_tools.video.pictures import write_jpeg
from egoexo_tools.video.source import read_identity
from egoexo_tools.vocab import FPS, View, view_of

STAGE = "frames"
TIME_LIMIT_SECONDS = 3600.0
"""For one camera of one take. An hour of 4K video takes about half of it on one core."""
_SIZES = ("height", "width", "source_height", "source_width")
_REQUESTS_AT_ONCE = 16


def run_frames(
    root: DatasetRoot,
    release: Release,
    *,
    settings: FrameSettings = FrameSettings(),
    only: Collection[TakeCamera] | None = None,
    urls: Mapping[TakeCamera, str] | None = None,
    run: RunOptions = RunOptions(),
) -> StageSummary:
    """Write the frames of every take of the root, or of the cameras in `only`.

    A camera in `urls` is read from its URL by byte ranges; the counts then include the bytes that
    were read. Without a time limit in `run`, a unit has TIME_LIMIT_SECONDS.
    """
    todo = units(root.require(), sampling=settings.sampling, only=only)
    todo = _compare_files(root, release, todo, settings, urls or {})
    if run.time_limit_seconds is None:
        run = replace(run, time_limit_seconds=TIME_LIMIT_SECONDS)
    task = partial(
        work,
        root=root,
        release=release,
        settings=settings,
        threads=_threads(root, todo, run),
        urls=urls or {},
    )
    takes = {path.stem for path in root.table("takes").glob("*.parquet")}
    return run_stage(
        root,
        STAGE,
        todo,
        task,
        settings=asdict(settings),
        options=run,
        owned=Ownership(root.path, lambda status: not is_of_takes(status.unit, takes)),
    )


def units(
    root: DatasetRoot, *, sampling: str = "annotated", only: Collection[TakeCamera] | None = None
) -> list[Unit]:
    """One unit for each camera (of `only`) with frames to cut."""
    takes = read_manifest(root, "takes", columns=["take_uid", "ego_camera", "exo_cameras"])
    only_takes = None if only is None else {take_uid for take_uid, _ in only}
    todo = []
    for take in takes.to_pylist():
        take_uid = take["take_uid"]
        if only_takes is not None and take_uid not in only_takes:
            continue
        if sampling == "annotated":
            inputs: tuple[Path, ...] = (root.part("masks", take_uid),)
            masks = read_manifest(root, "masks", columns=["camera"], units=[take_uid])
            cameras = masks.column("camera").unique().to_pylist()
        else:
            inputs = ()
            cameras = [take["ego_camera"], *(take["exo_cameras"] or ())]
        for camera in sorted(filter(None, cameras)):
            if only is not None and (take_uid, camera) not in only:
                continue
            unit = Unit((take_uid, camera), inputs=inputs)
            outputs = (root.part("frames", unit.name),)
            fingerprint = former_fingerprint(root, STAGE, unit.name)
            todo.append(replace(unit, outputs=outputs, fingerprint=fingerprint))
    return todo


def _compare_files(
    root: DatasetRoot,
    release: Release,
    todo: list[Unit],
    settings: FrameSettings,
    urls: Mapping[TakeCamera, str],
) -> list[Unit]:
    """The units with their videos as inputs; with changed pictures they are incomplete."""
    digests = FileDigests(root.status_dir(STAGE) / ".videos")
    names = read_manifest(root, "takes", columns=["take_uid", "take_name"])
    take_names = dict(zip(*names.to_pydict().values(), strict=True))

    def identify(unit: Unit) -> str:
        """A hash of the video; of one that is gone or cannot be read, the former hash."""
        take_uid, camera = unit.key
        url = urls.get((take_uid, camera))
        path = release.find_video(take_names[take_uid], camera, short_side=settings.short_side)
        # A problem of the video is reported by the unit, if it has to read it.
        with suppress(DataError, OSError):
            if url is not None:
                return hash_texts([str(read_identity(url))])
            if path.is_file():
                stat = path.stat()
                index = digests.of(path, read_identity).hex()
                return hash_texts([f"{stat.st_size} {stat.st_mtime_ns} {index}"])
        return unit.fingerprint

    # In threads, because each URL takes a request.
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        identities = list(pool.map(identify, todo))
    digests.save()
    changed = changed_pictures(root, [unit.name for unit in todo])
    return [
        replace(unit, fingerprint=identity, is_incomplete=unit.name in changed)
        for unit, identity in zip(todo, identities, strict=True)
    ]


def work(
    unit: Unit,
    *,
    root: DatasetRoot,
    release: Release,
    settings: FrameSettings,
    threads: int,
    urls: Mapping[TakeCamera, str],
) -> Mapping[str, int]:
    """Write one camera's frames, its exclusions and its part of the frames manifest."""
    take_uid, camera = unit.key
    url = urls.get((take_uid, camera))
    video = url or _find_video(root, release, take_uid, camera, settings)
    if settings.sampling == "annotated":
        frame_idxs = annotated_frames(root, take_uid, camera)
    else:
        frame_idxs = list(range(0, probe(video).frames, FPS))
    scale = settings.ego_scale if view_of(camera) is View.EGO else settings.exo_scale
    key = {"take_uid": take_uid, "camera": camera}
    rows: list[Row] = []
    missing: dict[int, str] = {}
    report = ReadReport()
    try:
        for frame_idx, rgb in read_frames(video, frame_idxs, threads=threads, report=report):
            path = root.frame(take_uid, camera, frame_idx)
            frame_hw, digest = write_jpeg(path, rgb, scale=scale, quality=settings.jpeg_quality)
            rows.append({
                **key, "frame_idx": frame_idx,
                "view": view_of(camera).value, "path": root.relative(path),
                **dict(zip(_SIZES, (*frame_hw, *rgb.shape[:2]), strict=True)),
                "digest": digest,
            })  # fmt: skip
            del rgb  # 25 MB at 4K, which would stay until the next frame is decoded
    except MissingFrames as error:
        # A video that gives none of the frames it claims to have is damaged as a whole. It must be
        # downloaded again, so the unit fails instead of excluding every frame.
        if not rows and any(frame_idx < error.frames for frame_idx in error.reasons):
            raise DataError(f"{error}; download the video again") from error
        missing = error.reasons
    # Frames of an earlier run with other settings go before the manifest is written: other programs
    # read the folder, and must find only the frames that the manifest lists.
    names = {f"{row['frame_idx']}.jpg" for row in rows}
    for path in root.frame(take_uid, camera, 0).parent.glob("*.jpg"):
        if path.stem.isdigit() and path.name not in names:
            path.unlink()
    exclusions = [
        {**key, "frame_idx": frame_idx, "reason": reason} for frame_idx, reason in missing.items()
    ]
    write_exclusions(root, STAGE, unit.name, exclusions)
    write_manifest(root, "frames", unit.name, rows)
    remember_pictures(root, unit.name, rows)
    counts = {"frames": len(rows), "frames_excluded": len(exclusions)}
    if url is not None:
        counts |= {"bytes_read": report.bytes_read, "bytes_of_videos": report.bytes_total}
    return counts


def annotated_frames(root: DatasetRoot, take_uid: str, camera: str) -> list[int]:
    """The annotated frames of a camera, visible or absent, ascending."""
    masks = read_manifest(root, "masks", columns=["camera", "frame_idx"], units=[take_uid])
    camera_rows = masks.to_pandas().query("camera == @camera")
    return [int(frame_idx) for frame_idx in np.unique(camera_rows["frame_idx"])]


def _find_video(
    root: DatasetRoot, release: Release, take_uid: str, camera: str, settings: FrameSettings
) -> Path:
    takes = read_manifest(root, "takes", columns=["take_name"], units=[take_uid])
    take_name = takes.column("take_name")[0].as_py()
    video = release.find_video(take_name, camera, short_side=settings.short_side)
    if not video.exists():
        raise DataError(
            f"there is no video {video}; fetch it with `egoexo-tools download {release.path}`"
        )
    return video


def _threads(root: DatasetRoot, todo: list[Unit], run: RunOptions) -> int:
    """Decoder threads per unit: all cores are busy, with one video left or with forty.

    A Dask worker on another machine runs a unit in each of its threads, so one decoder thread.
    """
    if run.executor == "dask":
        return 1
    cores = available_cores()
    pending = sum(
        run.overwrite
        or (status := read_status(root, STAGE, unit.name)) is None
        or status.status == "failed"
        for unit in run.in_shard(todo)
    )
    at_once = 1 if run.executor == "inline" else min(run.workers or cores, max(pending, 1))
    return max(1, cores // at_once)
