"""A take's annotation.json from other people's programs → rows of the masks manifest.

Read: that of the official script (`masks`, visible ones only, null where one did not decode), of
the cached fork (the same, and the release's untouched `object_masks`), of LM-EEC (masks without a
pixel where the object is not there) and our own exports (`annotated_frames`, `object_names`).
Whether an object is absent or was never looked for is told apart where the file says which frames
were annotated; else only what has a mask is known.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

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
    """What an annotation.json says of a take."""

    masks: pa.Table
    """Columns of the masks manifest without take_uid, in the file's order."""
    faults: list[Row]
    """Rows of exclusions without take_uid."""
    knows_absent: bool
    """Whether the file says where an object was looked for and not found."""
    ego_camera: str | None
    exo_cameras: list[str]
    scenario: str | None = None
    take_name: str | None = None


@dataclass
class _Gathered:
    """The rows of the take so far, as columns, and what of it could not be used."""

    names: list[str] = field(default_factory=list)
    cameras: list[str] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    rles: list[MaskRle | None] = field(default_factory=list)
    looked_at: list[bool] = field(default_factory=list)
    """Whether the file says that somebody looked for the object there."""
    faults: list[Row] = field(default_factory=list)

    def fault(self, reason: str, *keys: Any) -> None:
        named = dict(zip(("object_name", "camera", "frame_idx"), keys, strict=False))
        self.faults.append({**named, "reason": reason})


def read_annotation_json(
    path: Path, *, names: Mapping[str, str] | None = None, empty_is_absent: bool
) -> ProcessedTake:
    """Read an annotation.json; `names` brings object names back that an export changed.

    `empty_is_absent` says what a mask without a pixel means. Raises DataError for a file without
    masks at all.
    """
    content = read_json(path)
    masks = content.get("masks")
    if not isinstance(masks, dict):
        why = f": its masks are {masks!r}" if masks is REPEATED else ": it holds no masks"
        raise DataError(f"{path} is not an annotation.json{why}")
    own = content.get("object_names")
    back = {**(own if isinstance(own, dict) else {}), **(names or {})}
    annotated = _annotated(content)
    found = _Gathered()
    left_out = _extra_cameras(masks, found)
    for key, cameras in masks.items():
        name = back[key] if isinstance(back.get(key), str) else key
        if not is_text(name):
            found.fault(f"object {name!r}: its name is no text that can be written")
            continue
        for camera, frames in _members(cameras, found, name):
            if camera not in left_out:
                frames_known = _looked_at(annotated, key, name, camera, found)
                _collect(found, name, camera, frames, frames_known)
    table = _table(found, knows_absent=annotated is not None, empty_is_absent=empty_is_absent)
    cameras = table["camera"].unique().to_pylist()
    ego = [camera for camera in cameras if view_of(camera) is View.EGO]
    return ProcessedTake(
        masks=table,
        faults=found.faults,
        knows_absent=annotated is not None,
        ego_camera=ego[0] if ego else None,
        exo_cameras=sorted(set(cameras) - set(ego)),
        scenario=_text(content.get("scenario")),
        take_name=_text(content.get("take_name")),
    )


def _annotated(content: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """object → camera → frames that somebody looked at; None where the file does not say."""
    listed = content.get("annotated_frames")
    if isinstance(listed, dict):
        return listed
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


def _looked_at(
    annotated: Mapping[str, Any] | None, key: str, name: str, camera: str, found: _Gathered
) -> list[int]:
    for spelling in (key, name):
        cameras = (annotated or {}).get(spelling)
        frames = cameras.get(camera) if isinstance(cameras, dict) else None
        if isinstance(frames, list):
            numbers = {frame_number(frame) for frame in frames}
            for frame in frames if None in numbers else ():
                if frame_number(frame) is None:
                    reason = f"{frame!r:.40} in annotated_frames is no frame number"
                    found.fault(reason, name, camera)
            return sorted(number for number in numbers if number is not None)
    return []


def _extra_cameras(masks: Mapping[str, Any], found: _Gathered) -> set[str]:
    """Cameras that cannot be used: the second ego camera, and names that are none."""
    counts: dict[str, int] = {}
    for cameras in masks.values():
        for camera, frames in cameras.items() if isinstance(cameras, dict) else ():
            counts[camera] = counts.get(camera, 0) + (
                len(frames) if isinstance(frames, dict) else 0
            )
    left_out = unusable_cameras(counts)
    for camera, reason in left_out.items():
        found.fault(reason, None, camera)
    return set(left_out)


def _members(cameras: Any, found: _Gathered, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(cameras, dict):
        found.fault(f"its cameras are {kind_of(cameras)}, not an object", name)
        return
    for camera, frames in cameras.items():
        if isinstance(frames, dict):
            yield camera, frames
        elif frames is not None:
            found.fault(f"its frames are {kind_of(frames)}, not an object", name, camera)


def _collect(
    found: _Gathered, name: str, camera: str, frames: Mapping[str, Any], looked_at: list[int]
) -> None:
    """The rows of one track, frames ascending: with a mask, or looked at without."""
    masks: dict[int, MaskRle] = {}
    seen = frozenset(looked_at)
    broken: set[int] = set()
    for key, value in frames.items():
        frame_idx = frame_number(key)
        if frame_idx is None:
            found.fault(f"{key!r:.40} is no frame number", name, camera)
            continue
        if frame_idx in masks or frame_idx in broken:
            found.fault("two masks of one frame, whose number is written in two ways", name,
                        camera, frame_idx)  # fmt: skip
            # Nobody can say which is meant, and a third must not pass for the only one.
            masks.pop(frame_idx, None)
            broken.add(frame_idx)
            continue
        try:
            masks[frame_idx] = _rle(value)
        except DataError as error:
            found.fault(str(error), name, camera, frame_idx)
            broken.add(frame_idx)
    for frame_idx in sorted({*masks, *looked_at} - broken):
        found.names.append(name)
        found.cameras.append(camera)
        found.frames.append(frame_idx)
        found.rles.append(masks.get(frame_idx))
        found.looked_at.append(frame_idx in seen)


def _rle(value: Any) -> MaskRle:
    """The usual shape without a check of its counts, which comes for all masks at once."""
    if value is None:
        raise DataError("undecodable mask: null in its place")
    size, counts = (value.get("size"), value.get("counts")) if isinstance(value, dict) else ("", "")
    # `b'...'` is how Python prints bytes, which read_rle understands.
    if type(counts) is str and type(size) is list and len(size) == 2 and not counts.startswith("b"):
        height, width = size
        if type(height) is int and type(width) is int:
            return MaskRle(height, width, counts)
    return read_rle(value, "undecodable mask")


def _table(found: _Gathered, *, knows_absent: bool, empty_is_absent: bool) -> pa.Table:
    columns = MaskColumns.from_rles(found.rles)
    areas, boxes, problems = columns.measure()
    has_mask = np.array([rle is not None for rle in found.rles], np.bool_)
    bad = has_mask & (problems != 0)
    is_empty = has_mask & ~bad & (areas == 0)
    keep = ~bad
    if knows_absent:
        # The padding of an export, where nobody has looked.
        keep &= ~is_empty | np.array(found.looked_at, np.bool_)
    elif not empty_is_absent:
        keep &= ~is_empty
    # An export pads every frame: told one by one, its padding would drown the faults.
    told = bad if knows_absent else bad | (is_empty & ~keep)
    for row in np.flatnonzero(told).tolist():
        reason = f"undecodable mask: {PROBLEMS[problems[row]]}" if bad[row] else "empty mask"
        found.fault(reason, found.names[row], found.cameras[row], found.frames[row])
    visible = has_mask & ~bad & (areas > 0)
    hidden = ~visible
    table = pa.table(
        {
            "object_name": pa.array(found.names, pa.string()),
            "camera": pa.array(found.cameras, pa.string()),
            "frame_idx": pa.array(found.frames, pa.int32()),
            "view": pa.array([str(view_of(camera)) for camera in found.cameras], pa.string()),
            "visible": pa.array(visible),
            "rle_height": pa.array(columns.heights, pa.int32(), mask=hidden),
            "rle_width": pa.array(columns.widths, pa.int32(), mask=hidden),
            "rle_counts": _masked(columns, hidden),
            "area": pa.array(areas, pa.int64(), mask=hidden),
            "bbox_xywh": _boxes(boxes, hidden),
        }
    )
    return table.filter(pa.array(keep))


def _masked(columns: MaskColumns, hidden: Any) -> pa.Array:
    counts = columns.counts.cast(pa.string())
    return pa.compute.if_else(pa.array(hidden), pa.scalar(None, pa.string()), counts)


def _boxes(boxes: Any, hidden: Any) -> pa.Array:
    values = pa.FixedSizeListArray.from_arrays(pa.array(boxes.ravel(), pa.float32()), 4)
    # A null index takes a null row.
    rows = pa.array(np.arange(len(hidden)), mask=hidden)
    return values.take(rows)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
