"""The official ground-truth file: written from a root's manifests, and read take by take.

`{"version", "challenge", "annotations": {take_uid: {"masks": {object: {camera: {frame: {"size",
"counts"}}}}, "subsample_idx", "annotated_frames": {object: {camera: [frame]}}}}}`. Files written
here also contain "split" and "direction", which other readers ignore.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import msgspec

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.large_json import open_json, open_members, parse_value
from egoexo_tools.layout import DatasetRoot, atomic_path
from egoexo_tools.manifests import read_manifest
from egoexo_tools.masks.columns import RLE_COLUMNS
from egoexo_tools.parsing.lenient import frame_number
from egoexo_tools.vocab import Direction, Split, View, view_of

VERSION = {"version": "xx", "challenge": "xx"}
"""The values in the benchmark's own files, which its server expects."""


@dataclass(frozen=True)
class GroundTruth:
    """The takes of a ground truth; each is read when it is needed."""

    path: Path
    direction: Direction | None
    """None if the file does not name one."""
    split: str | None
    take_uids: tuple[str, ...]
    read_take: Callable[[str], Mapping[str, Any]] = field(repr=False)
    """take_uid → {"masks", "annotated_frames"}; DataError if the take is damaged."""


def read_ground_truth(path: Path) -> GroundTruth:
    """Open a ground-truth file; DataError if it is not one."""
    value = open_json(path)
    annotations = open_members(value.get("annotations"))
    if annotations is None:
        hint = "; it contains predictions" if {"ego-exo", "exo-ego"} & set(value) else ""
        raise DataError(
            f"{path} is not a ground-truth file: it has no annotations{hint}; "
            "write one with `egoexo-tools ground-truth ROOT`"
        )
    direction, split = (
        None if key not in value else str(parse_value(value[key])) for key in ("direction", "split")
    )

    def read_take(take_uid: str) -> dict[str, Any]:
        where = f"{path}: take {take_uid}"
        take = parse_value(annotations[take_uid], where)
        if not isinstance(take, dict) or not isinstance(take.get("masks"), dict):
            raise DataError(f"{where} has no masks; is this a ground truth?")
        return _normalize_take(take, where)

    return GroundTruth(
        path=path,
        direction=None if direction is None else Direction.parse(direction),
        split=split,
        take_uids=tuple(annotations),
        read_take=read_take,
    )


def write_ground_truth(
    root: DatasetRoot, *, direction: Direction, split: Split, out: Path
) -> GroundTruth:
    """Write the ground truth of a split's pairs in one direction to `out`.

    The returned ground truth reads its takes from the manifests, not from the file. If pairs were
    sampled, it contains only their source frames, so that predictions for these pairs are complete.
    Raises DataError if `ingest` or `pairs` has not been run.
    """
    pairs = read_manifest(root, "pairs", units=[f"{split}.{direction}"])
    if not pairs.num_rows:
        raise DataError(f"{root.path} has no {direction} pairs in split {split}")
    # take_uid → (object_name, camera) → frames
    frames_by_take: dict[str, dict[tuple[str, str], set[int]]] = {}
    columns = ("take_uid", "object_name", "source_camera", "dest_camera", "frame_idx")
    for take_uid, name, source, dest, frame_idx in zip(
        *(pairs.column(column).to_pylist() for column in columns), strict=True
    ):
        # Both views: the truth needs the input masks and the masks to compare with.
        frames = frames_by_take.setdefault(take_uid, {})
        frames.setdefault((name, source), set()).add(frame_idx)
        frames.setdefault((name, dest), set()).add(frame_idx)
    truth = GroundTruth(
        path=out,
        direction=direction,
        split=str(split),
        take_uids=tuple(sorted(frames_by_take)),
        read_take=lambda take_uid: _take_from_manifest(root, take_uid, frames_by_take[take_uid]),
    )
    head = json.dumps({**VERSION, "split": split.value, "direction": direction.value})
    # Written take by take: a whole split does not fit into memory as Python objects.
    with atomic_path(out) as partial, partial.open("wb") as file:
        file.write(head[:-1].encode() + b', "annotations": {')
        for number, take_uid in enumerate(truth.take_uids):
            file.write(b"," * (number > 0) + msgspec.json.encode(take_uid) + b":")
            file.write(msgspec.json.encode(truth.read_take(take_uid)))
        file.write(b"}}")
    return truth


def cameras_of_view(cameras: Mapping[str, Any], view: View) -> list[str]:
    """The cameras of one view, in the order of the file."""
    return [camera for camera in cameras if view_of(camera) is view]


def _take_from_manifest(
    root: DatasetRoot, take_uid: str, frames: Mapping[tuple[str, str], set[int]]
) -> dict[str, Any]:
    """A take as the file stores it, with the masks of these frames."""
    masks: dict[str, dict[str, dict[str, Any]]] = {}
    annotated: dict[str, dict[str, list[int]]] = {}
    # Cameras without a mask are listed too: absent everywhere is not the same as not annotated.
    for name, camera in frames:
        masks.setdefault(name, {})[camera] = {}
        annotated.setdefault(name, {})[camera] = []
    columns = ("object_name", "camera", "frame_idx", "visible", *RLE_COLUMNS)
    table = read_manifest(root, "masks", columns=columns, units=[take_uid])
    for name, camera, frame_idx, visible, height, width, counts in zip(
        *(table.column(column).to_pylist() for column in columns), strict=True
    ):
        if frame_idx not in frames.get((name, camera), ()):
            continue
        annotated[name][camera].append(frame_idx)
        if visible:
            masks[name][camera][str(frame_idx)] = {"size": [height, width], "counts": counts}
    frame_idxs = sorted(set().union(*frames.values()))
    return {"masks": masks, "subsample_idx": frame_idxs, "annotated_frames": annotated}


def _normalize_take(take: dict[str, Any], where: str) -> dict[str, Any]:
    """The take with unpadded frame numbers: text in masks, integers in annotated_frames.

    Raises DataError for any other structure: a damaged truth is never used in part.
    """
    try:
        masks = {
            name: {
                camera: None if frames is None else _unpadded_keys(frames)
                for camera, frames in cameras.items()
            }
            for name, cameras in take["masks"].items()
        }
        annotated = {
            name: {
                # Most files store plain integers, and there are two million of them.
                camera: list(frames or ())
                if set(map(type, frames or ())) <= {int}
                else [_parse_frame(frame) for frame in frames]
                for camera, frames in cameras.items()
            }
            for name, cameras in (take.get("annotated_frames") or {}).items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{where} is damaged ({error})") from error
    return {**take, "masks": masks, "annotated_frames": annotated}


def _unpadded_keys(frames: Any) -> Any:
    # Loops in C: there are two million of these keys, and they are rarely padded.
    if all(map(str.isdecimal, frames)) and not any(map(str.startswith, frames, repeat("0"))):
        return frames
    unpadded = {str(_parse_frame(key)): mask for key, mask in frames.items()}
    if len(unpadded) < len(frames):
        raise ValueError("two keys stand for the same frame, such as 30 and 030")
    return unpadded


def _parse_frame(value: Any) -> int:
    number = frame_number(value)
    if number is None:
        raise ValueError(f"{value!r:.40} is not a frame number")
    return number
