"""The official ground-truth file: written from a root's manifests, read take by take.

`{"version", "challenge", "annotations": {take_uid: {"masks": {object: {camera: {frame: {"size",
"counts"}}}}, "subsample_idx", "annotated_frames": {object: {camera: [frame]}}}}}`. The files that
we write hold "split" and "direction" too, which other readers ignore.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import msgspec

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, atomic_path
from egoexo_tools.manifests import read_manifest
from egoexo_tools.parsing.json_text import check_text, has_repeated_keys, parse_json
from egoexo_tools.parsing.lenient import check_utf8, frame_number, without_mark
from egoexo_tools.vocab import Direction, Split, View, view_of

VERSION = {"version": "xx", "challenge": "xx"}
"""What the benchmark's own files hold there, and what its server expects."""


_LARGE_BYTES = 1 << 24
"""Of a take's JSON; a smaller one fits into memory, whatever it holds."""


@dataclass(frozen=True)
class GroundTruth:
    """A ground-truth file whose takes are parsed when they are asked for."""

    path: Path
    annotations: Mapping[str, Any]
    split: str | None
    direction: Direction | None

    def take(self, take_uid: str) -> Mapping[str, Any]:
        """{"masks", "annotated_frames"} of one take; DataError where its shape is another."""
        value = parsed(self.annotations[take_uid], f"{self.path}: take {take_uid}")
        if not isinstance(value, dict) or not isinstance(value.get("masks"), dict):
            raise DataError(f"{self.path}: take {take_uid} has no masks; is this a ground truth?")
        return _plain_truth(value, f"{self.path}: take {take_uid}")


def read_ground_truth(path: Path) -> GroundTruth:
    """Open a ground-truth file; DataError if it is none."""
    value = read_json(path)
    annotations = members(value.get("annotations"))
    if annotations is None:
        hint = "; it holds predictions" if {"ego-exo", "exo-ego"} & set(value) else ""
        raise DataError(
            f"{path} is no ground-truth file: it has no annotations{hint}; "
            "write one with `egoexo-tools ground-truth ROOT`"
        )
    direction, split = (
        None if key not in value else str(parsed(value[key])) for key in ("direction", "split")
    )
    return GroundTruth(
        path=path,
        annotations=annotations,
        split=split,
        direction=None if direction is None else Direction.parse(direction),
    )


def write_ground_truth(root: DatasetRoot, *, direction: Direction, split: Split, out: Path) -> Path:
    """Write the ground truth of a split's pairs in one direction; returns `out`.

    Where pairs were sampled, it holds the sampled source frames only, so that predictions for
    these pairs are complete. Raises DataError where ingest or pairs has not been run.
    """
    pairs = read_manifest(root, "pairs", units=[f"{split}.{direction}"])
    if not pairs.num_rows:
        raise DataError(f"{root.path} has no {direction} pairs in split {split}")
    head = json.dumps({**VERSION, "split": split.value, "direction": direction.value})
    with atomic_path(out) as partial, partial.open("wb") as file:
        file.write(head[:-1].encode() + b', "annotations": {')
        for number, (take_uid, wanted) in enumerate(_wanted(pairs)):
            take = _take(root, take_uid, wanted, direction)
            file.write(b"," * (number > 0) + msgspec.json.encode(take_uid) + b":")
            file.write(msgspec.json.encode(take))
        file.write(b"}}")
    return out


def read_json(path: Path) -> dict[str, Any]:
    """The top level of a JSON object, its values unparsed where they can be (see `parsed`)."""
    try:
        data = without_mark(path.read_bytes())
        check_utf8(data)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text ({error})") from error
    return _decode(data, path)


def parsed(value: Any, where: str = "a value") -> Any:
    """A value out of `read_json`, parsed now; the pieces are large and one is kept at a time.

    Raises DataError, with `where`, for what is no JSON or takes too much memory.
    """
    if not isinstance(value, msgspec.Raw):
        return value
    try:
        if len(value) > _LARGE_BYTES:
            check_text(memoryview(value))
        with suppress(msgspec.DecodeError):
            return msgspec.json.decode(value)
        return parse_json(bytes(value))
    except (DataError, ValueError, RecursionError) as error:
        raise DataError(f"{where} cannot be read: {error}") from error


def members(value: Any) -> dict[str, Any] | None:
    """One level down: a JSON object with unparsed values; None if it is something else."""
    if isinstance(value, msgspec.Raw):
        try:
            value = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
        except msgspec.DecodeError:
            value = parsed(value)
    return value if isinstance(value, dict) else None


def _plain_truth(take: dict[str, Any], where: str) -> dict[str, Any]:
    """The take with plain frame numbers, as text in masks and as numbers in annotated_frames.

    DataError, with `where`, for what is no such tree: a truth is used whole or not at all.
    """
    try:
        masks = {
            name: {camera: _plain_keys(frames) for camera, frames in cameras.items()}
            for name, cameras in take["masks"].items()
        }
        annotated = {
            name: {camera: _plain_numbers(frames) for camera, frames in cameras.items()}
            for name, cameras in (take.get("annotated_frames") or {}).items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{where} is damaged ({error})") from error
    return {**take, "masks": masks, "annotated_frames": annotated}


def _plain_keys(frames: Any) -> Any:
    if frames is None:
        return None
    # Whole loops in C: there are two million of these keys.
    if all(map(str.isdecimal, frames)) and not any(map(str.startswith, frames, repeat("0"))):
        return frames
    plain = {str(_plain_number(key)): mask for key, mask in frames.items()}
    if len(plain) < len(frames):
        raise ValueError("a frame is there twice, its number written in two ways")
    return plain


def _plain_numbers(frames: Any) -> list[int]:
    if set(map(type, frames or ())) <= {int}:
        return list(frames or ())
    return [_plain_number(frame) for frame in frames]


def _plain_number(value: Any) -> int:
    number = frame_number(value)
    if number is None:
        raise ValueError(f"{value!r:.40} is no frame number")
    return number


def _decode(data: bytes, path: Path) -> dict[str, Any]:
    try:
        if not has_repeated_keys(data):
            return msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except msgspec.DecodeError:
        pass  # Python's json module writes NaN, which is no JSON: read it to be able to say where
    try:
        value = parse_json(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object")
    return value


Wanted = dict[tuple[str, str], set[int]]
"""(object_name, camera) → the frames to keep."""


def _wanted(pairs: Any) -> Iterator[tuple[str, Wanted]]:
    """Take → frames of source and destination that its pairs name, in take order."""
    takes: dict[str, Wanted] = {}
    columns = ("take_uid", "object_name", "source_camera", "dest_camera", "frame_idx")
    for take_uid, name, source, dest, frame_idx in zip(
        *(pairs.column(column).to_pylist() for column in columns), strict=True
    ):
        wanted = takes.setdefault(take_uid, {})
        wanted.setdefault((name, source), set()).add(frame_idx)
        wanted.setdefault((name, dest), set()).add(frame_idx)
    yield from sorted(takes.items())


def _take(root: DatasetRoot, take_uid: str, wanted: Wanted, direction: Direction) -> dict[str, Any]:
    rows = read_manifest(root, "masks", units=[take_uid]).to_pylist()
    masks: dict[str, dict[str, dict[str, Any]]] = {}
    annotated: dict[str, dict[str, list[int]]] = {}
    for name, camera in wanted:
        masks.setdefault(name, {})[camera] = {}
        annotated.setdefault(name, {})[camera] = []
    for row in rows:
        name, camera, frame_idx = row["object_name"], row["camera"], row["frame_idx"]
        if frame_idx not in wanted.get((name, camera), ()):
            continue
        annotated[name][camera].append(frame_idx)
        if row["visible"]:
            size = [row["rle_height"], row["rle_width"]]
            masks[name][camera][str(frame_idx)] = {"size": size, "counts": row["rle_counts"]}
    frames = {frame_idx for frame_idxs in wanted.values() for frame_idx in frame_idxs}
    return {"masks": masks, "subsample_idx": sorted(frames), "annotated_frames": annotated}


def cameras_of(cameras: Mapping[str, Any], view: View) -> list[str]:
    """The cameras of one view, in file order."""
    return [camera for camera in cameras if view_of(camera) is view]
