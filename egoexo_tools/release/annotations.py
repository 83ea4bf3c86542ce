"""Checks the annotations of one take and turns them into rows of the masks manifest.

Everything that cannot be used becomes a row of exclusions with its reason; what is left is
consistent: every mask decodes, fills its image and is not empty, all masks of a camera have one
size, every frame lies in the video, the take has one ego camera, every object has frames in an
ego and in an exo camera. A frame whose mask is excluded gets no row at all: it is neither
visible nor absent.

Masks are decoded, checked and measured all at once, in compiled code on their run lengths.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from egoexo_tools.arrays import Bool, Float32, Int32, Int64
from egoexo_tools.errors import DataError
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle_loops import MAX_SIDE, PROBLEMS, WRONG_TOTAL
from egoexo_tools.parsing.cameras import unusable_cameras
from egoexo_tools.parsing.lenient import frame_number, whole_number
from egoexo_tools.release import lzstring
from egoexo_tools.release.take_relations import ShippedMask, ShippedTrack, TakeRelations
from egoexo_tools.vocab import View, view_of

Exclusion: TypeAlias = dict[str, Any]
"""A row of the exclusions manifest, without `stage` and `take_uid`."""

_ASPECT_TOLERANCE = 0.01
"""The 448p copies are 796x448, 0.05 % off 16:9; a turned or a wrong video is far off."""
_MAX_FRAME_IDX = 2**31 - 1
_MAX_TAKE_BYTES = 2**31 - 1
"""Of all run lengths of a take: Arrow's offsets. The largest real takes have some 20 MB."""


class Annotated(Protocol):
    """Anything that has a mask a frame."""

    @property
    def annotation(self) -> Mapping[str, object]: ...


@dataclass(frozen=True)
class CameraLimits:
    """What is known of a camera's video; None where it is not."""

    frames: int | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class CheckedTake:
    """What of a take can be used, and what cannot."""

    masks: pa.Table
    """Columns of the masks manifest without take_uid: objects and cameras in the file's order,
    frames ascending."""
    exclusions: list[Exclusion]
    ego_camera: str | None
    exo_cameras: list[str]
    frame_idxs: list[int]
    """Every frame that is annotated in some camera, ascending."""


def check_take(
    relations: TakeRelations,
    *,
    cameras: frozenset[str] = frozenset(),
    limits: Mapping[str, CameraLimits] | None = None,
) -> CheckedTake:
    """Check one take; `cameras` are those that takes.json lists (empty: unknown).

    `limits` says how long and how large the cameras' videos are, as far as that is known.
    """
    left_out = left_out_cameras(relations, cameras)
    rows = _collect(relations, left_out)
    counts = _check_masks(rows)
    for camera in dict.fromkeys(camera for _, camera in rows.tracks):
        _check_camera(rows, camera, (limits or {}).get(camera, CameraLimits()))
    lonely = _lonely_objects(relations, rows)
    exclusions = [
        *relations.faults,
        *({"camera": camera, "reason": reason} for camera, reason in left_out.items()),
        *rows.exclusions(),
        *({"object_name": name, "reason": reason} for name, reason in lonely.items()),
    ]
    table = _table(rows, counts, rows.usable() & rows.of_tracks(lambda name, _: name not in lonely))
    present = table.column("camera").unique().to_pylist()
    ego = [camera for camera in present if view_of(camera) is View.EGO]
    return CheckedTake(
        masks=table,
        exclusions=exclusions,
        ego_camera=ego[0] if ego else None,
        exo_cameras=sorted(set(present) - set(ego)),
        frame_idxs=np.unique(table.column("frame_idx").to_numpy()).tolist(),
    )


@dataclass(frozen=True)
class _Rows:
    """One row for every annotated frame of an object in a camera, as columns."""

    tracks: list[tuple[str, str]]
    """(object_name, camera); `track_idx` points here."""
    track_idx: Int64
    frame_idx: Int64
    """-1 where the file has no frame number."""
    shipped: list[ShippedMask | None]
    """None: checked and absent."""
    visible: Bool
    heights: Int64
    widths: Int64
    areas: Int64
    boxes: Float32
    reason_idx: Int32
    """Why a row is left out: an index into `reasons`, 0 for a row that stays."""
    reasons: list[str] = field(default_factory=lambda: [""])

    def usable(self) -> Bool:
        return np.equal(self.reason_idx, 0)

    def of_tracks(self, wanted: Callable[[str, str], bool]) -> Bool:
        """The rows whose track fulfils wanted(object_name, camera)."""
        chosen = np.array([wanted(*track) for track in self.tracks], np.bool_)
        return np.asarray(chosen[self.track_idx], np.bool_)

    def leave_out(self, which: Bool, reason: str) -> None:
        """Give rows a reason, those that have none yet."""
        which = which & self.usable()
        if which.any():
            self.reason_idx[which] = len(self.reasons)
            self.reasons.append(reason)

    def exclusions(self) -> list[Exclusion]:
        found = []
        for row in np.flatnonzero(~self.usable()).tolist():
            object_name, camera = self.tracks[self.track_idx[row]]
            frame_idx = int(self.frame_idx[row])
            found.append(
                {
                    "camera": camera,
                    "object_name": object_name,
                    "frame_idx": frame_idx if 0 <= frame_idx <= _MAX_FRAME_IDX else None,
                    "reason": self.reasons[self.reason_idx[row]],
                }
            )
        return found


def left_out_cameras(relations: TakeRelations, known: frozenset[str]) -> dict[str, str]:
    """`parsing.cameras.unusable_cameras` of a take; `known` are those that takes.json lists."""
    return unusable_cameras(masks_by_camera(relations.object_masks), known)


def masks_by_camera(objects: Mapping[str, Mapping[str, Annotated]]) -> dict[str, int]:
    """Camera → how many masks it has over all objects, in the file's order."""
    counts: dict[str, int] = {}
    for cameras in objects.values():
        for camera, track in cameras.items():
            counts[camera] = counts.get(camera, 0) + len(track.annotation)
    return counts


def _collect(relations: TakeRelations, left_out: Mapping[str, str]) -> _Rows:
    tracks: list[tuple[str, str]] = []
    lengths: list[int] = []
    frame_idxs: list[int] = []
    shipped: list[ShippedMask | None] = []
    for object_name, cameras in relations.object_masks.items():
        for camera, track in cameras.items():
            if camera not in left_out:
                before = len(frame_idxs)
                _append_track(track, frame_idxs, shipped)
                tracks.append((object_name, camera))
                lengths.append(len(frame_idxs) - before)
    track_idx = np.repeat(np.arange(len(tracks)), lengths)
    frames = np.array(frame_idxs, np.int64)
    order = np.lexsort((frames, track_idx))
    ordered = [shipped[row] for row in order.tolist()]
    return _Rows(
        tracks=tracks,
        track_idx=track_idx,
        frame_idx=frames[order],
        shipped=ordered,
        visible=np.array([mask is not None for mask in ordered], bool),
        heights=np.array([0 if mask is None else _side(mask.height) for mask in ordered], np.int64),
        widths=np.array([0 if mask is None else _side(mask.width) for mask in ordered], np.int64),
        areas=np.zeros(len(ordered), np.int64),
        boxes=np.zeros((len(ordered), 4), np.float32),
        reason_idx=np.zeros(len(ordered), np.int32),
    )


def _append_track(
    track: ShippedTrack, frame_idxs: list[int], shipped: list[ShippedMask | None]
) -> None:
    visible = [_frame_number(key) for key in track.annotation]
    looked_at = {idx if 0 <= idx <= _MAX_FRAME_IDX else -1 for idx in track.annotated_frames}
    # Looked for and not found; a frame in neither list was never looked at and gets no row.
    absent = looked_at.difference(visible)
    frame_idxs.extend(visible)
    shipped.extend(track.annotation.values())
    frame_idxs.extend(absent)
    shipped.extend([None] * len(absent))


def _frame_number(key: str) -> int:
    """-1 for a key that is none; "030" is 30."""
    # The way of every real key, 1.8 million of them; the tolerant reader is for the others.
    if key.isascii() and key.isdigit() and len(key) < 10:
        return int(key)
    number = frame_number(key)
    return -1 if number is None else number


def _side(value: Any) -> int:
    side = value if type(value) is int else whole_number(value)
    return side if side is not None and 0 < side <= MAX_SIDE else 0


def _check_masks(rows: _Rows) -> pa.StringArray:
    """Decode, check and measure the visible masks; returns the counts of each of them."""
    texts = [
        mask.encoded if isinstance(mask.encoded, str) else ""
        for mask in rows.shipped
        if mask is not None
    ]
    data, offsets, unpacking = lzstring.decompress_many(texts)
    if data.size > _MAX_TAKE_BYTES:
        raise DataError(f"its masks unpack to {data.size:,} characters, which no real take needs")
    masks = MaskColumns(rows.heights[rows.visible], rows.widths[rows.visible], data, offsets)
    areas, boxes, problems = masks.measure()
    rows.areas[rows.visible], rows.boxes[rows.visible] = areas, boxes
    # A row keeps the first reason that it gets, so the plainest come first.
    rows.leave_out(rows.frame_idx < 0, "its frame number is no number from 0 up")
    rows.leave_out(
        _written_twice(rows), "two masks of one frame, whose number is written in two ways"
    )
    missing = [mask is not None and not isinstance(mask.encoded, str) for mask in rows.shipped]
    empty = "undecodable mask: null in its place, no text as encodedMask, or two different masks"
    rows.leave_out(np.array(missing, np.bool_), empty)
    for problem, words in enumerate(lzstring.PROBLEMS[1:], start=1):
        rows.leave_out(_among(rows.visible, unpacking == problem), f"undecodable mask: {words}")
    no_size = rows.visible & ((rows.heights == 0) | (rows.widths == 0))
    rows.leave_out(no_size, "wrong size: the mask has no valid width and height")
    for problem, words in enumerate(PROBLEMS[1:], start=1):
        kind = "wrong size" if problem == WRONG_TOTAL else "undecodable mask"
        rows.leave_out(_among(rows.visible, problems == problem), f"{kind}: {words}")
    rows.leave_out(rows.visible & (rows.areas == 0), "empty mask")
    ends = pa.py_buffer(offsets.astype(np.int32))
    return pa.StringArray.from_buffers(len(texts), ends, pa.py_buffer(data))


def _written_twice(rows: _Rows) -> Bool:
    """Visible rows of one track and frame: "30" and "030", of which either may be meant."""
    same = (rows.track_idx[1:] == rows.track_idx[:-1]) & (rows.frame_idx[1:] == rows.frame_idx[:-1])
    twice = np.zeros(rows.frame_idx.size, np.bool_)
    twice[1:] |= same
    twice[:-1] |= same
    return twice


def _among(visible: Bool, which: Bool) -> Bool:
    """A choice among the visible rows → among all rows."""
    chosen = np.zeros(visible.size, bool)
    chosen[visible] = which
    return chosen


def _check_camera(rows: _Rows, camera: str, limits: CameraLimits) -> None:
    """Frames beyond the video's end, and masks that are not of the camera's size."""
    here = rows.of_tracks(lambda _, name: name == camera)
    end = _MAX_FRAME_IDX if limits.frames is None else limits.frames
    rows.leave_out(here & (rows.frame_idx >= end), f"frame beyond the video's end, at {end:,}")
    sized = here & rows.visible & rows.usable()
    if not sized.any():
        return
    sizes, counts = np.unique(
        np.stack([rows.heights[sized], rows.widths[sized]], axis=1), axis=0, return_counts=True
    )
    video = f"the video is {limits.width}x{limits.height}"
    fits = _has_aspect(sizes, limits)
    if fits.any():
        # The commonest of the sizes that have the video's shape is the camera's own. The shape
        # decides, not the size: the small copies' videos go with masks of the full size.
        height, width = sizes[np.where(fits, counts, 0).argmax()].tolist()
        fits &= (sizes == (height, width)).all(axis=1)
        video = f"most of its camera's are {width}x{height}"
    for height, width in sizes[~fits].tolist():
        rows.leave_out(
            sized & (rows.heights == height) & (rows.widths == width),
            f"wrong size: the mask is {width}x{height}, {video}",
        )


def _has_aspect(sizes: Int64, limits: CameraLimits) -> Bool:
    """Which (height, width) have the shape of the video; all, where it is not known."""
    if not limits.height or not limits.width:
        return np.ones(len(sizes), np.bool_)
    ratios = (sizes[:, 1] / sizes[:, 0]) / (limits.width / limits.height)
    return np.asarray(np.abs(ratios - 1) <= _ASPECT_TOLERANCE, np.bool_)


def _lonely_objects(relations: TakeRelations, rows: _Rows) -> dict[str, str]:
    """Objects that cannot be in any pair, and why."""
    used = np.unique(rows.track_idx[rows.usable()]).tolist()
    views = {(rows.tracks[idx][0], view_of(rows.tracks[idx][1])) for idx in used}
    found = {}
    for name in relations.object_masks:
        missing = [view for view in View if (name, view) not in views]
        if missing:
            found[name] = f"object without {' or '.join(missing)} frames that can be used"
    return found


def _table(rows: _Rows, counts: pa.StringArray, keep: Bool) -> pa.Table:
    kept = np.flatnonzero(keep)
    hidden = ~rows.visible[kept]
    # Row of each kept mask among the visible ones; null for absent ones, which makes nulls.
    mask_idx = pa.array((np.cumsum(rows.visible) - 1)[kept], mask=hidden)
    track_idx = pa.array(rows.track_idx[kept])
    boxes = pa.FixedSizeListArray.from_arrays(pa.array(rows.boxes[rows.visible].ravel()), 4)
    names, cameras = [name for name, _ in rows.tracks], [camera for _, camera in rows.tracks]
    views = [view_of(camera) for camera in cameras]
    return pa.table(
        {
            "object_name": pa.array(names, pa.string()).take(track_idx),
            "camera": pa.array(cameras, pa.string()).take(track_idx),
            "frame_idx": pa.array(rows.frame_idx[kept], pa.int32()),
            "view": pa.array(views, pa.string()).take(track_idx),
            "visible": pa.array(~hidden),
            "rle_height": pa.array(rows.heights[kept], pa.int32(), mask=hidden),
            "rle_width": pa.array(rows.widths[kept], pa.int32(), mask=hidden),
            "rle_counts": counts.take(mask_idx),
            "area": pa.array(rows.areas[kept], mask=hidden),
            "bbox_xywh": boxes.take(mask_idx),
        }
    )
