"""Counts what each take of a release holds, without decoding a mask.

Reads takes.json, the relations files (take by take, frame numbers only) and the sizes of the takes'
videos, from the files on disk or from the download manifests. The counts are those of the
annotation as shipped; ingest may exclude a few of its masks.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DOWNSCALED_448, RESOLUTIONS, Release
from egoexo_tools.parsing.bucket import read_manifest_files
from egoexo_tools.parsing.json_text import check_text
from egoexo_tools.parsing.lenient import frame_number, read_bytes
from egoexo_tools.release.annotations import cameras_left_out
from egoexo_tools.release.plan import IngestPlan, PlannedTake
from egoexo_tools.release.relations import TakeSlice, map_file
from egoexo_tools.release.take_relations import TakeRelations
from egoexo_tools.release.takes import ShippedTake
from egoexo_tools.vocab import Split, View, view_of

VIDEO_PARTS: Mapping[int | None, str] = {
    None: "takes",
    DOWNSCALED_448: f"downscaled_takes/{DOWNSCALED_448}",
}
"""Short side of the videos (None: full size) → the part of the bucket whose manifest lists them."""


@dataclass(frozen=True)
class TakeFacts:
    """One take, in numbers."""

    take_uid: str
    take_name: str
    scenario: str
    university: str
    task: str
    split: Split
    """The official one."""
    capture: str
    """The recording session: its uid, or the take_name without its last number."""
    capture_named: bool
    """Whether takes.json names the capture; if not, it is derived from the take_name."""
    participant: str | None
    objects: tuple[str, ...]
    """Objects that are annotated in the ego camera and in an exo camera."""
    cameras: tuple[str, ...]
    """Cameras in which those objects are annotated, ego first."""
    frame_idxs: tuple[int, ...]
    """Every frame in which one of them is annotated, ascending."""
    masks: int
    pairs: int
    """Of both directions."""
    seconds: float
    video_bytes: int | None
    """Size of the cameras' videos; None where it is unknown."""


# msgspec skips keys that a struct does not have, without making Python objects of their values.
class _Mask(msgspec.Struct, gc=False):
    """A mask, of which only the existence is decoded."""


class _TrackOutline(msgspec.Struct, gc=False):
    annotation: dict[str, _Mask] = {}
    annotated_frames: list[int] = []


class _Outline(msgspec.Struct, gc=False):
    """A take's relations without its masks, which are most of its bytes."""

    scenario: str | None = None
    object_masks: dict[str, dict[str, _TrackOutline]] = {}


def survey(
    release: Release, plan: IngestPlan, *, video: str = "full", manifests: Path | None = None
) -> list[TakeFacts]:
    """The facts of every take of the plan, in its order.

    `video` names the copies whose size counts, a key of RESOLUTIONS; `manifests` is a folder of
    download manifests (default: those in the release's folder). A take that is damaged or has no
    object in both views is left out, with a reason in the plan's exclusions.
    """
    sizes = _manifest_sizes(release, VIDEO_PARTS[RESOLUTIONS[video]], manifests)
    facts_of: dict[str, TakeFacts] = {}
    # File by file in the order of the bytes, so that each page is read once; no more than one take
    # is in memory.
    by_file = sorted(plan.takes.values(), key=lambda take: (take.source.path, take.source.start))
    for path, takes in itertools.groupby(by_file, key=lambda take: take.source.path):
        data = map_file(path)
        for planned in takes:
            source = planned.source
            try:
                outline = _decode_outline(source, data[source.start : source.end])
            except DataError as error:
                plan.exclude(source.take_uid, f"its annotation is damaged: {error}")
            else:
                facts_of[source.take_uid] = _count(planned, outline)
    surveyed = []
    for facts in (facts_of[take_uid] for take_uid in plan.takes if take_uid in facts_of):
        if facts.objects:
            size = _video_bytes(release, facts, RESOLUTIONS[video], sizes)
            surveyed.append(replace(facts, video_bytes=size))
        else:
            plan.exclude(facts.take_uid, "no object is annotated in the ego and an exo camera")
    return surveyed


def capture_of(take: ShippedTake) -> tuple[str, bool]:
    """The recording session of a take, and whether takes.json names it."""
    if take.capture_uid is not None:
        return take.capture_uid, True
    head, _, last = take.take_name.rpartition("_")
    return (head, False) if head and last.isdigit() else (take.take_name, False)


_DECODER = msgspec.json.Decoder(_Outline)


def _decode_outline(source: TakeSlice, text: memoryview) -> _Outline | TakeRelations:
    """The take without its masks; a take of an unusual shape is decoded as ingest does it."""
    try:
        return source.decode(text) if check_text(text) else _DECODER.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return source.decode(text)


def _count(planned: PlannedTake, outline: _Outline | TakeRelations) -> TakeFacts:
    take = planned.take
    left_out = cameras_left_out(outline.object_masks, take.cameras)
    usable = {
        name: {camera: track for camera, track in tracks.items() if camera not in left_out}
        for name, tracks in outline.object_masks.items()
    }
    # Objects in one view only have no pairs; ingest excludes them as well.
    objects = {
        name: tracks
        for name, tracks in usable.items()
        if {view_of(camera) for camera in tracks} == set(View)
    }
    tracks = [track for cameras in objects.values() for track in cameras.values()]
    cameras = {camera for cameras in objects.values() for camera in cameras}
    frame_idxs = {
        idx
        for track in tracks
        for idx in [*track.annotated_frames, *map(frame_number, track.annotation)]
        if idx is not None
    }
    # One pair per source mask: each ego mask has every exo camera as a destination, each exo mask
    # has the ego camera.
    pairs = 0
    for cameras_of_object in objects.values():
        counts = {camera: len(track.annotation) for camera, track in cameras_of_object.items()}
        exo = [count for camera, count in counts.items() if view_of(camera) is View.EXO]
        pairs += (sum(counts.values()) - sum(exo)) * len(exo) + sum(exo)
    capture, capture_named = capture_of(take)
    return TakeFacts(
        take_uid=take.take_uid,
        take_name=take.take_name,
        scenario=take.scenario or outline.scenario or "",
        university=take.university or "",
        task=take.task or "",
        split=planned.split,
        capture=capture,
        capture_named=capture_named,
        participant=take.participant_uid,
        objects=tuple(objects),
        cameras=tuple(sorted(cameras, key=lambda camera: (view_of(camera), camera))),
        frame_idxs=tuple(sorted(frame_idxs)),
        masks=sum(len(track.annotation) for track in tracks),
        pairs=pairs,
        seconds=take.duration_seconds or 0.0,
        video_bytes=None,
    )


def _video_bytes(
    release: Release, facts: TakeFacts, short_side: int | None, sizes: Mapping[str, int]
) -> int | None:
    total = 0
    for camera in facts.cameras:
        path = release.video(facts.take_name, camera, short_side=short_side)
        size = sizes.get(path.relative_to(release.path).as_posix())
        # A file on disk wins over the manifest, which may be of another version.
        on_disk = release.find_video(facts.take_name, camera, short_side=short_side)
        if on_disk.is_file():
            size = on_disk.stat().st_size
        if size is None:
            return None
        total += size
    return total


def _manifest_sizes(release: Release, part: str, folder: Path | None) -> dict[str, int]:
    """relative_path → bytes, from the download manifest of the videos; empty without a manifest."""
    name = Path(part) / "manifest.json"
    if folder is None:
        candidates = [release.path / name, release.path / "manifests" / name]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            return {}
    else:
        path = folder / name
        if not path.is_file():
            raise DataError(f"{folder} holds no {name}; give the folder of the manifests")
    rows = read_manifest_files(read_bytes(path), str(path), lambda _: True)
    return {name: row["size"] for name, row in rows.items() if row["size"]}
