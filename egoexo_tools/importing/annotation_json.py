"""A take's annotation.json, written by other programs → rows of the masks manifest.

Accepts the files of the official script (`masks`, visible ones only, null where one could not be
decoded), of the cached fork (the same with the release's `object_masks`), of LM-EEC (empty masks
where the object is absent) and our own exports (`annotated_frames`, `object_names`). Absent
objects and unannotated frames can be distinguished where the file lists the annotated frames; from
any other file only the frames with a mask are known.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from egoexo_tools.aliases import Row
from egoexo_tools.errors import DataError
from egoexo_tools.formats.benchmark import read_json
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.masks.rle_loops import PROBLEMS
from egoexo_tools.parsing.cameras import unusable_cameras
from egoexo_tools.parsing.json_text import REPEATED, kind_of
from egoexo_tools.parsing.lenient import frame_number, is_text
from egoexo_tools.parsing.mask_json import read_rle
from egoexo_tools.vocab import View, view_of


@dataclass
class ProcessedTake:
    """The content of an annotation.json."""

    masks: pa.Table
    """Columns of the masks manifest without take_uid, in the file's order."""
    faults: list[Row]
    """Rows of exclusions without take_uid."""
    knows_absent: bool
    """Whether the file lists the frames that were annotated."""
    ego_camera: str | None
    exo_cameras: list[str]
    scenario: str | None = None
    take_name: str | None = None

    def source_sizes(self) -> dict[str, tuple[int, int]]:
        """camera → the most common height and width of its masks, which are the video's."""
        groups = self.masks.group_by(["camera", "rle_height", "rle_width"]).aggregate(
            [([], "count_all")]
        )
        # The count comes first in the tuples, so that their maximum is the most common size.
        sizes: dict[str, tuple[int, int, int]] = {}
        for row in groups.to_pylist():
            if row["rle_height"] is not None:
                size = (row["count_all"], row["rle_height"], row["rle_width"])
                sizes[row["camera"]] = max(size, sizes.get(row["camera"], (0, 0, 0)))
        return {camera: (height, width) for camera, (_, height, width) in sizes.items()}


@dataclass
class _MaskRows:
    """The mask rows of a take as columns, and its unusable values."""

    names: list[str] = field(default_factory=list)
    cameras: list[str] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    rles: list[MaskRle | None] = field(default_factory=list)
    annotated: list[bool] = field(default_factory=list)
    """Whether the file lists the frame as annotated."""
    faults: list[Row] = field(default_factory=list)

    def add_fault(self, reason: str, *keys: Any) -> None:
        """`keys`: object_name, camera and frame_idx, as far as they are known."""
        columns = ("object_name", "camera", "frame_idx")
        self.faults.append({**dict(zip(columns, keys, strict=False)), "reason": reason})

    def add_track(
        self, name: str, camera: str, frames: Mapping[str, Any], annotated: list[int]
    ) -> None:
        """Add the rows of one track, frames ascending: those with a mask, and annotated ones."""
        masks: dict[int, MaskRle] = {}
        unusable: set[int] = set()
        for key, value in frames.items():
            frame_idx = frame_number(key)
            if frame_idx is None:
                self.add_fault(f"{key!r:.40} is not a frame number", name, camera)
                continue
            if frame_idx in masks or frame_idx in unusable:
                reason = "two masks of one frame, whose number is written in two ways"
                self.add_fault(reason, name, camera, frame_idx)
                # Neither is used, and a third must not pass for the only one.
                masks.pop(frame_idx, None)
                unusable.add(frame_idx)
                continue
            try:
                masks[frame_idx] = _read_mask(value)
            except DataError as error:
                self.add_fault(str(error), name, camera, frame_idx)
                unusable.add(frame_idx)
        annotated_set = frozenset(annotated)
        for frame_idx in sorted({*masks, *annotated} - unusable):
            self.names.append(name)
            self.cameras.append(camera)
            self.frames.append(frame_idx)
            self.rles.append(masks.get(frame_idx))
            self.annotated.append(frame_idx in annotated_set)

    def to_table(self, *, knows_absent: bool, empty_is_absent: bool) -> pa.Table:
        """The rows as columns of the masks manifest; unusable masks become faults."""
        # All masks of the take in one call of the compiled loop.
        columns = MaskColumns.from_rles(self.rles)
        areas, boxes, problems = columns.measure()
        has_mask = np.array([rle is not None for rle in self.rles], np.bool_)
        is_bad = has_mask & (problems != 0)
        is_empty = has_mask & ~is_bad & (areas == 0)
        keep = ~is_bad
        if knows_absent:
            # An export pads the frames that were not annotated with empty masks.
            keep &= ~is_empty | np.array(self.annotated, np.bool_)
        elif not empty_is_absent:
            keep &= ~is_empty
        # The padding is not reported: it would hide the real faults.
        is_fault = is_bad if knows_absent else is_bad | (is_empty & ~keep)
        for row in np.flatnonzero(is_fault).tolist():
            reason = f"undecodable mask: {PROBLEMS[problems[row]]}" if is_bad[row] else "empty mask"
            self.add_fault(reason, self.names[row], self.cameras[row], self.frames[row])
        visible = has_mask & ~is_bad & (areas > 0)
        hidden = ~visible
        counts = columns.counts.cast(pa.string())
        box_values = pa.FixedSizeListArray.from_arrays(pa.array(boxes.ravel(), pa.float32()), 4)
        table = pa.table(
            {
                "object_name": pa.array(self.names, pa.string()),
                "camera": pa.array(self.cameras, pa.string()),
                "frame_idx": pa.array(self.frames, pa.int32()),
                "view": pa.array([str(view_of(camera)) for camera in self.cameras], pa.string()),
                "visible": pa.array(visible),
                "rle_height": pa.array(columns.heights, pa.int32(), mask=hidden),
                "rle_width": pa.array(columns.widths, pa.int32(), mask=hidden),
                "rle_counts": pc.if_else(pa.array(visible), counts, pa.scalar(None, pa.string())),
                "area": pa.array(areas, pa.int64(), mask=hidden),
                # A null index takes a null row.
                "bbox_xywh": box_values.take(pa.array(np.arange(len(hidden)), mask=hidden)),
            }
        )
        return table.filter(pa.array(keep))


def read_annotation_json(
    path: Path, *, names: Mapping[str, str] | None = None, empty_is_absent: bool
) -> ProcessedTake:
    """Read an annotation.json.

    `names` maps object names that an export changed to the original ones. `empty_is_absent` gives
    the meaning of an empty mask: absent, or unknown. Raises DataError for a file without masks.
    """
    content = read_json(path)
    masks = content.get("masks")
    if not isinstance(masks, dict):
        fault = f": its masks are {masks!r}" if masks is REPEATED else ": it holds no masks"
        raise DataError(f"{path} is not an annotation.json{fault}")
    object_names = content.get("object_names")
    # The list beside the takes wins over the one in the file: both come from the same export.
    original = {**(object_names if isinstance(object_names, dict) else {}), **(names or {})}
    annotated = _annotated_frames(content)
    rows = _MaskRows()
    # Counted before any track is read: of two ego cameras, the one with more masks is used.
    mask_counts: Counter[str] = Counter()
    for cameras in masks.values():
        for camera, frames in cameras.items() if isinstance(cameras, dict) else ():
            mask_counts[camera] += len(frames) if isinstance(frames, dict) else 0
    unusable = unusable_cameras(mask_counts)
    for camera, reason in unusable.items():
        rows.add_fault(reason, None, camera)
    for key, cameras in masks.items():
        name = original[key] if isinstance(original.get(key), str) else key
        if not is_text(name):
            rows.add_fault(f"object {name!r}: its name is not valid text")
            continue
        if not isinstance(cameras, dict):
            rows.add_fault(f"its cameras are {kind_of(cameras)}, not an object", name)
            continue
        for camera, frames in cameras.items():
            if frames is not None and not isinstance(frames, dict):
                rows.add_fault(f"its frames are {kind_of(frames)}, not an object", name, camera)
            elif frames is not None and camera not in unusable:
                frame_idxs = _read_frame_idxs(annotated, key, name, camera, rows)
                rows.add_track(name, camera, frames, frame_idxs)
    table = rows.to_table(knows_absent=annotated is not None, empty_is_absent=empty_is_absent)
    table_cameras = table["camera"].unique().to_pylist()
    ego = [camera for camera in table_cameras if view_of(camera) is View.EGO]
    return ProcessedTake(
        masks=table,
        faults=rows.faults,
        knows_absent=annotated is not None,
        ego_camera=ego[0] if ego else None,
        exo_cameras=sorted(set(table_cameras) - set(ego)),
        scenario=_text(content.get("scenario")),
        take_name=_text(content.get("take_name")),
    )


def _annotated_frames(content: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """object → camera → annotated frames; None where the file does not list them."""
    frames = content.get("annotated_frames")
    if isinstance(frames, dict):
        return frames
    shipped = content.get("object_masks")
    if not isinstance(shipped, dict):
        return None
    return {
        name: {
            camera: track.get("annotated_frames")
            for camera, track in cameras.items()
            if isinstance(track, dict)
        }
        for name, cameras in shipped.items()
        if isinstance(cameras, dict)
    }


def _read_frame_idxs(
    annotated: Mapping[str, Any] | None, key: str, name: str, camera: str, rows: _MaskRows
) -> list[int]:
    """The annotated frames of a track, listed under the object's changed or original name."""
    # Our exports list the changed name, the release's object_masks the original one.
    for spelling in (key, name):
        cameras = (annotated or {}).get(spelling)
        frames = cameras.get(camera) if isinstance(cameras, dict) else None
        if isinstance(frames, list):
            # A set first: lists have thousands of frames, and almost never an invalid one.
            numbers = {frame_number(frame) for frame in frames}
            for frame in frames if None in numbers else ():
                if frame_number(frame) is None:
                    reason = f"{frame!r:.40} in annotated_frames is not a frame number"
                    rows.add_fault(reason, name, camera)
            return sorted(number for number in numbers if number is not None)
    return []


def _read_mask(value: Any) -> MaskRle:
    """A mask; the counts of the usual form are not validated yet, `to_table` does it for all."""
    if value is None:
        raise DataError("undecodable mask: null in its place")
    size, counts = (value.get("size"), value.get("counts")) if isinstance(value, dict) else ("", "")
    # A short cut for nearly all masks, which `to_table` then validates in one call. `b'...'` is how
    # Python prints bytes, which read_rle accepts; type() instead of isinstance refuses True.
    if type(counts) is str and type(size) is list and len(size) == 2 and not counts.startswith("b"):
        height, width = size
        if type(height) is int and type(width) is int:
            return MaskRle(height, width, counts)
    return read_rle(value, "undecodable mask")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
