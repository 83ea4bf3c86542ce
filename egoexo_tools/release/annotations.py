"""Checks the annotations of one take and converts them to rows of the masks manifest.

Everything that cannot be used becomes a row of exclusions with a reason. The remaining rows are
consistent: every mask decodes, fills its image and is not empty; all masks of a camera have one
size; every frame is inside the video; the take has one ego camera; every object has frames in an
ego and in an exo camera. A frame whose mask is excluded gets no row at all: it is neither visible
nor absent.

All masks of a take are decoded, checked and measured together, by compiled loops over their run
lengths.
"""

from collections.abc import Mapping, Sequence
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
from egoexo_tools.release.take_relations import ShippedMask, TakeRelations
from egoexo_tools.vocab import View, view_of

Exclusion: TypeAlias = dict[str, Any]
"""A row of the exclusions manifest, without `stage` and `take_uid`."""

_ASPECT_TOLERANCE = 0.01
"""The 448p copies are 796x448, 0.05 % off 16:9. A rotated or wrong video is far outside this."""
_MAX_FRAME_IDX = 2**31 - 1
_MAX_TAKE_BYTES = 2**31 - 1
"""Of the run lengths of one take, because Arrow's string offsets are int32. The largest real takes
have about 20 MB."""


class AnnotatedTrack(Protocol):
    """An object in a camera, with one mask per frame in which it is visible."""

    @property
    def annotation(self) -> Mapping[str, object]: ...


@dataclass(frozen=True)
class CameraLimits:
    """Length and size of a camera's video; None where they are unknown."""

    frames: int | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class CheckedTake:
    """The usable annotations of a take, and the reasons for what was excluded."""

    masks: pa.Table
    """Columns of the masks manifest without take_uid: objects and cameras in the file's order,
    frames ascending."""
    exclusions: list[Exclusion]
    ego_camera: str | None
    exo_cameras: list[str]
    frame_idxs: list[int]
    """Every frame that is annotated in at least one camera, ascending."""


def check_take(
    relations: TakeRelations,
    *,
    cameras: frozenset[str] = frozenset(),
    limits: Mapping[str, CameraLimits] | None = None,
) -> CheckedTake:
    """Check the annotations of one take.

    `cameras` are the cameras that takes.json lists (empty: unknown). `limits` holds the length and
    the size of the cameras' videos, for those that are known. Raises DataError where the masks of
    the take are larger together than any real take.
    """
    left_out = cameras_left_out(relations.object_masks, cameras)
    rows = _collect_rows(relations, left_out)
    counts = _check_masks(rows)
    for camera in dict.fromkeys(camera for _, camera in rows.tracks):
        _check_camera(rows, camera, (limits or {}).get(camera, CameraLimits()))
    # Last, because the checks above may have removed all frames that an object has in a view.
    usable_tracks = [rows.tracks[idx] for idx in np.unique(rows.track_idx[rows.usable]).tolist()]
    views = {(name, view_of(camera)) for name, camera in usable_tracks}
    unpaired = {
        name: f"object without {' or '.join(missing)} frames that can be used"
        for name in relations.object_masks
        if (missing := [view for view in View if (name, view) not in views])
    }
    exclusions = [
        *relations.faults,
        *({"camera": camera, "reason": reason} for camera, reason in left_out.items()),
        *rows.exclusions(),
        *({"object_name": name, "reason": reason} for name, reason in unpaired.items()),
    ]
    in_pairs = rows.in_tracks([name not in unpaired for name, _ in rows.tracks])
    table = _mask_table(rows, counts, rows.usable & in_pairs)
    present = table.column("camera").unique().to_pylist()
    ego = [camera for camera in present if view_of(camera) is View.EGO]
    return CheckedTake(
        masks=table,
        exclusions=exclusions,
        ego_camera=ego[0] if ego else None,
        exo_cameras=sorted(set(present) - set(ego)),
        frame_idxs=np.unique(table.column("frame_idx").to_numpy()).tolist(),
    )


def cameras_left_out(
    object_masks: Mapping[str, Mapping[str, AnnotatedTrack]], cameras: frozenset[str]
) -> dict[str, str]:
    """Camera → why none of its annotations are used, by `parsing.cameras.unusable_cameras`.

    `object_masks` is object_name → camera → track; `cameras` are those of takes.json.
    """
    mask_counts: dict[str, int] = {}
    for tracks in object_masks.values():
        for camera, track in tracks.items():
            mask_counts[camera] = mask_counts.get(camera, 0) + len(track.annotation)
    return unusable_cameras(mask_counts, cameras)


@dataclass(frozen=True)
class _AnnotationRows:
    """One row for each annotated frame of an object in a camera, as columns of length n."""

    tracks: list[tuple[str, str]]
    """(object_name, camera) of each track; `track_idx` is an index into this list."""
    track_idx: Int64
    frame_idx: Int64
    """-1 where the key in the file is not a frame number."""
    masks: list[ShippedMask | None]
    """None: the frame was annotated and the object is absent."""
    visible: Bool
    heights: Int64
    """In pixels; 0 where the file gives no valid number, like `widths`."""
    widths: Int64
    areas: Int64
    boxes: Float32
    """(n, 4) xywh in pixels."""
    reason_idx: Int32
    """Index into `reasons`: why a row is excluded, 0 for a row that is used."""
    reasons: list[str] = field(default_factory=lambda: [""])

    @property
    def usable(self) -> Bool:
        return np.equal(self.reason_idx, 0)

    def in_tracks(self, selected: Sequence[bool]) -> Bool:
        """(n,) whether each row belongs to a selected track; `selected` has a flag per track."""
        return np.asarray(np.array(selected, np.bool_)[self.track_idx], np.bool_)

    def exclude(self, mask: Bool, reason: str) -> None:
        """Exclude rows; a row that is excluded already keeps its first reason."""
        mask = mask & self.usable
        if mask.any():
            self.reason_idx[mask] = len(self.reasons)
            self.reasons.append(reason)

    def exclusions(self) -> list[Exclusion]:
        rows = []
        for row in np.flatnonzero(~self.usable).tolist():
            object_name, camera = self.tracks[self.track_idx[row]]
            frame_idx = int(self.frame_idx[row])
            rows.append(
                {
                    "camera": camera,
                    "object_name": object_name,
                    # The exclusions manifest stores int32.
                    "frame_idx": frame_idx if 0 <= frame_idx <= _MAX_FRAME_IDX else None,
                    "reason": self.reasons[self.reason_idx[row]],
                }
            )
        return rows


def _collect_rows(relations: TakeRelations, left_out: Mapping[str, str]) -> _AnnotationRows:
    tracks: list[tuple[str, str]] = []
    lengths: list[int] = []
    frame_idxs: list[int] = []
    masks: list[ShippedMask | None] = []
    for object_name, cameras in relations.object_masks.items():
        for camera, track in cameras.items():
            if camera in left_out:
                continue
            visible_idxs = [_frame_number(key) for key in track.annotation]
            annotated = {
                idx if 0 <= idx <= _MAX_FRAME_IDX else -1 for idx in track.annotated_frames
            }
            # Absent: somebody looked at the frame and the object is not there. A frame in neither
            # list is unannotated and gets no row.
            absent_idxs = annotated.difference(visible_idxs)
            frame_idxs += [*visible_idxs, *absent_idxs]
            masks += [*track.annotation.values(), *[None] * len(absent_idxs)]
            tracks.append((object_name, camera))
            lengths.append(len(visible_idxs) + len(absent_idxs))
    track_idx = np.repeat(np.arange(len(tracks)), lengths)
    frames = np.array(frame_idxs, np.int64)
    # The file lists visible frames before absent ones; the manifest has them by frame number.
    order = np.lexsort((frames, track_idx))
    masks = [masks[row] for row in order.tolist()]
    return _AnnotationRows(
        tracks=tracks,
        track_idx=track_idx,
        frame_idx=frames[order],
        masks=masks,
        visible=np.array([mask is not None for mask in masks], bool),
        heights=np.array([0 if mask is None else _side(mask.height) for mask in masks], np.int64),
        widths=np.array([0 if mask is None else _side(mask.width) for mask in masks], np.int64),
        areas=np.zeros(len(masks), np.int64),
        boxes=np.zeros((len(masks), 4), np.float32),
        reason_idx=np.zeros(len(masks), np.int32),
    )


def _frame_number(key: str) -> int:
    """The frame number of a key ("030" is 30), or -1."""
    # A fast path for the 1.8 million keys of a real release; the lenient reader handles the rest.
    if key.isascii() and key.isdigit() and len(key) < 10:
        return int(key)
    number = frame_number(key)
    return -1 if number is None else number


def _side(value: Any) -> int:
    side = value if type(value) is int else whole_number(value)
    return side if side is not None and 0 < side <= MAX_SIDE else 0


def _check_masks(rows: _AnnotationRows) -> pa.StringArray:
    """Decode, check and measure the visible masks; returns the counts of each of them."""
    texts = [
        mask.encoded if isinstance(mask.encoded, str) else ""
        for mask in rows.masks
        if mask is not None
    ]
    data, offsets, unpack_problems = lzstring.decompress_many(texts)
    if data.size > _MAX_TAKE_BYTES:
        raise DataError(f"its masks unpack to {data.size:,} characters, which no real take needs")
    columns = MaskColumns(rows.heights[rows.visible], rows.widths[rows.visible], data, offsets)
    areas, boxes, rle_problems = columns.measure()
    rows.areas[rows.visible], rows.boxes[rows.visible] = areas, boxes
    # A row keeps the first reason that it gets, so the order is from the cause to its effects.
    rows.exclude(rows.frame_idx < 0, "its frame number is not a whole number from 0 up")
    # "30" and "030" in one track: nobody can say which of the two masks is meant.
    equal_next = (rows.track_idx[1:] == rows.track_idx[:-1]) & (
        rows.frame_idx[1:] == rows.frame_idx[:-1]
    )
    ambiguous = np.zeros(rows.frame_idx.size, np.bool_)
    ambiguous[1:] |= equal_next
    ambiguous[:-1] |= equal_next
    rows.exclude(ambiguous, "two masks of one frame, whose number is written in two ways")
    without_text = [mask is not None and not isinstance(mask.encoded, str) for mask in rows.masks]
    reason = "null in its place, encodedMask that is not text, or two different masks"
    rows.exclude(np.array(without_text, np.bool_), f"undecodable mask: {reason}")
    for code, text in enumerate(lzstring.PROBLEMS[1:], start=1):
        rows.exclude(_among(rows.visible, unpack_problems == code), f"undecodable mask: {text}")
    no_size = rows.visible & ((rows.heights == 0) | (rows.widths == 0))
    rows.exclude(no_size, "wrong size: the mask has no valid width and height")
    for code, text in enumerate(PROBLEMS[1:], start=1):
        kind = "wrong size" if code == WRONG_TOTAL else "undecodable mask"
        rows.exclude(_among(rows.visible, rle_problems == code), f"{kind}: {text}")
    rows.exclude(rows.visible & (rows.areas == 0), "empty mask")
    # The unpacked text is already laid out as Arrow's string buffers: no copy per mask.
    ends = pa.py_buffer(offsets.astype(np.int32))
    return pa.StringArray.from_buffers(len(texts), ends, pa.py_buffer(data))


def _among(visible: Bool, selected: Bool) -> Bool:
    """A selection among the visible rows → the same selection among all rows."""
    mask = np.zeros(visible.size, bool)
    mask[visible] = selected
    return mask


def _check_camera(rows: _AnnotationRows, camera: str, limits: CameraLimits) -> None:
    """Exclude frames beyond the end of the video, and masks of another size than the camera's."""
    of_camera = rows.in_tracks([name == camera for _, name in rows.tracks])
    end = _MAX_FRAME_IDX if limits.frames is None else limits.frames
    rows.exclude(of_camera & (rows.frame_idx >= end), f"frame beyond the video's end, at {end:,}")
    with_mask = of_camera & rows.visible & rows.usable
    if not with_mask.any():
        return
    sizes, counts = np.unique(
        np.stack([rows.heights[with_mask], rows.widths[with_mask]], axis=1),
        axis=0,
        return_counts=True,
    )
    fits = np.ones(len(sizes), np.bool_)
    expected = f"the video is {limits.width}x{limits.height}"
    if limits.height and limits.width:
        ratios = (sizes[:, 1] / sizes[:, 0]) / (limits.width / limits.height)
        fits = np.asarray(np.abs(ratios - 1) <= _ASPECT_TOLERANCE, np.bool_)
    if fits.any():
        # The camera's size is the most frequent one with the video's aspect ratio. Its pixels do
        # not have to match the video's: masks have the full size also beside the small copies.
        height, width = sizes[np.where(fits, counts, 0).argmax()].tolist()
        fits &= (sizes == (height, width)).all(axis=1)
        expected = f"most of its camera's are {width}x{height}"
    for height, width in sizes[~fits].tolist():
        rows.exclude(
            with_mask & (rows.heights == height) & (rows.widths == width),
            f"wrong size: the mask is {width}x{height}, {expected}",
        )


def _mask_table(rows: _AnnotationRows, counts: pa.StringArray, selected: Bool) -> pa.Table:
    """The selected rows as columns of the masks manifest."""
    row_idx = np.flatnonzero(selected)
    hidden = ~rows.visible[row_idx]
    # Position of each mask among the visible ones; taking a null position gives a null value.
    mask_idx = pa.array((np.cumsum(rows.visible) - 1)[row_idx], mask=hidden)
    track_idx = pa.array(rows.track_idx[row_idx])
    boxes = pa.FixedSizeListArray.from_arrays(pa.array(rows.boxes[rows.visible].ravel()), 4)
    names, cameras = [name for name, _ in rows.tracks], [camera for _, camera in rows.tracks]
    views = [view_of(camera) for camera in cameras]
    return pa.table(
        {
            "object_name": pa.array(names, pa.string()).take(track_idx),
            "camera": pa.array(cameras, pa.string()).take(track_idx),
            "frame_idx": pa.array(rows.frame_idx[row_idx], pa.int32()),
            "view": pa.array(views, pa.string()).take(track_idx),
            "visible": pa.array(~hidden),
            "rle_height": pa.array(rows.heights[row_idx], pa.int32(), mask=hidden),
            "rle_width": pa.array(rows.widths[row_idx], pa.int32(), mask=hidden),
            "rle_counts": counts.take(mask_idx),
            "area": pa.array(rows.areas[row_idx], mask=hidden),
            "bbox_xywh": boxes.take(mask_idx),
        }
    )
