"""What each take of a release holds, counted without decoding a mask.

Reads takes.json and the relations files (take by take, frame numbers only), and the sizes of the
takes' videos: from the files on disk, else from the download manifests. Counts are those of the
annotation as shipped; ingest may leave out a few masks more.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DOWNSCALED_448, Release
from egoexo_tools.parsing.bucket import read_manifest_files
from egoexo_tools.parsing.cameras import unusable_cameras
from egoexo_tools.parsing.json_text import check_text
from egoexo_tools.parsing.lenient import frame_number, read_bytes
from egoexo_tools.release.annotations import masks_by_camera
from egoexo_tools.release.plan import IngestPlan, PlannedTake
from egoexo_tools.release.relations import TakeSlice, mapped
from egoexo_tools.release.take_relations import ShippedTrack, TakeRelations
from egoexo_tools.release.takes import ShippedTake
from egoexo_tools.vocab import Split, View, view_of

VIDEO_PARTS: Mapping[str, int | None] = {"full": None, "448": DOWNSCALED_448}
"""Which copy of the videos → its short side, as `Release.video` takes it."""
_MANIFESTS = {"full": "takes", "448": f"downscaled_takes/{DOWNSCALED_448}"}


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
    """takes.json names the capture; else it is derived from the take_name."""
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
    """Size of the cameras' videos; None where it is not known."""


class _Mask(msgspec.Struct, gc=False):
    """A mask of which nothing is kept."""


class _TrackOutline(msgspec.Struct, gc=False):
    annotation: dict[str, _Mask] = {}
    annotated_frames: list[int] = []


class _Outline(msgspec.Struct, gc=False):
    scenario: str | None = None
    object_masks: dict[str, dict[str, _TrackOutline]] = {}


def survey(
    release: Release, plan: IngestPlan, *, video: str = "full", manifests: Path | None = None
) -> list[TakeFacts]:
    """The facts of every take of the plan, in its order.

    `video` says which copies count, one of VIDEO_PARTS; `manifests` is a folder of download
    manifests (default: those in the release's folder). A take that is damaged or has no object
    in both views is left out, with a reason in the plan's exclusions.
    """
    sizes = _manifest_sizes(_manifest(release, video, manifests))
    found = []
    facts_of = _read_facts(plan)
    for facts in (facts_of[take_uid] for take_uid in plan.takes if take_uid in facts_of):
        if facts.objects:
            count = _video_bytes(release, facts, VIDEO_PARTS[video], sizes)
            found.append(replace(facts, video_bytes=count))
        else:
            plan.leave_out(facts.take_uid, "no object is annotated in the ego and an exo camera")
    return found


def capture_of(take: ShippedTake) -> tuple[str, bool]:
    """The recording session of a take, and whether takes.json names it."""
    if take.capture_uid is not None:
        return take.capture_uid, True
    head, _, last = take.take_name.rpartition("_")
    return (head, False) if head and last.isdigit() else (take.take_name, False)


def _read_facts(plan: IngestPlan) -> dict[str, TakeFacts]:
    """The facts by take_uid, read file by file; no more than one take is in memory."""
    by_file = sorted(plan.takes.values(), key=lambda take: (take.source.path, take.source.start))
    decoder = msgspec.json.Decoder(_Outline)
    found = {}
    for path, takes in itertools.groupby(by_file, key=lambda take: take.source.path):
        with mapped(path) as data:
            for planned in takes:
                source = planned.source
                try:
                    outline = _outline(decoder, source, data[source.start : source.end])
                except DataError as error:
                    plan.leave_out(source.take_uid, f"its annotation is damaged: {error}")
                else:
                    found[source.take_uid] = _facts(planned, outline)
    return found


def _outline(
    decoder: "msgspec.json.Decoder[_Outline]", source: TakeSlice, text: memoryview
) -> "_Outline | TakeRelations":
    """The take without its masks; one of an unusual shape is read as ingest reads it."""
    try:
        return source.decode(text) if check_text(text) else decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return source.decode(text)


def _facts(planned: PlannedTake, outline: "_Outline | TakeRelations") -> TakeFacts:
    take = planned.take
    left_out = unusable_cameras(masks_by_camera(outline.object_masks), take.cameras)
    usable = {
        name: {camera: track for camera, track in tracks.items() if camera not in left_out}
        for name, tracks in outline.object_masks.items()
    }
    objects = {
        name: tracks
        for name, tracks in usable.items()
        if {view_of(camera) for camera in tracks} == set(View)
    }
    tracks = [track for cameras in objects.values() for track in cameras.values()]
    cameras = {camera for cameras in objects.values() for camera in cameras}
    capture, named = capture_of(take)
    return TakeFacts(
        take_uid=take.take_uid,
        take_name=take.take_name,
        scenario=take.scenario or outline.scenario or "",
        university=take.university or "",
        task=take.task or "",
        split=planned.split,
        capture=capture,
        capture_named=named,
        participant=take.participant_uid,
        objects=tuple(objects),
        cameras=tuple(sorted(cameras, key=lambda camera: (view_of(camera), camera))),
        frame_idxs=tuple(sorted({idx for track in tracks for idx in _frames(track)})),
        masks=sum(len(track.annotation) for track in tracks),
        pairs=sum(_pairs(cameras) for cameras in objects.values()),
        seconds=take.duration_seconds or 0.0,
        video_bytes=None,
    )


def _frames(track: "_TrackOutline | ShippedTrack") -> Iterator[int]:
    yield from track.annotated_frames
    for key in track.annotation:
        if (number := frame_number(key)) is not None:
            yield number


def _pairs(tracks: Mapping[str, "_TrackOutline | ShippedTrack"]) -> int:
    """One pair a source mask: ego2exo for each exo camera, exo2ego for each exo mask."""
    masks = {camera: len(track.annotation) for camera, track in tracks.items()}
    exo = [count for camera, count in masks.items() if view_of(camera) is View.EXO]
    return (sum(masks.values()) - sum(exo)) * len(exo) + sum(exo)


def _video_bytes(
    release: Release, facts: TakeFacts, short_side: int | None, sizes: Mapping[str, int]
) -> int | None:
    total = 0
    for camera in facts.cameras:
        path = release.video(facts.take_name, camera, short_side=short_side)
        size = sizes.get(path.relative_to(release.path).as_posix())
        here = release.find_video(facts.take_name, camera, short_side=short_side)
        if here.is_file():
            size = here.stat().st_size
        if size is None:
            return None
        total += size
    return total


def _manifest(release: Release, video: str, folder: Path | None) -> Path | None:
    """The download manifest of the videos; None where there is none beside the release."""
    name = Path(_MANIFESTS[video]) / "manifest.json"
    if folder is not None:
        if not (folder / name).is_file():
            raise DataError(f"{folder} holds no {name}; give the folder of the manifests")
        return folder / name
    beside = [release.path / name, release.path / "manifests" / name]
    return next((path for path in beside if path.is_file()), None)


def _manifest_sizes(path: Path | None) -> dict[str, int]:
    """relative_path → bytes."""
    if path is None:
        return {}
    rows = read_manifest_files(read_bytes(path), str(path), lambda _: True)
    return {name: row["size"] for name, row in rows.items() if row["size"]}
