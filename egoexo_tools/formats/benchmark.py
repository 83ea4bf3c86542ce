"""The file formats of the benchmark's own code, and of programs that follow it.

- `annotation.json` of a take: `{"masks": {object: {camera: {frame: {size, counts}}}},
  "subsample_idx": [frame]}`, masks at the source's resolution, visible ones only.
- pair files: a list of `[ego_rgb, ego_mask, exo_rgb, exo_mask]`, ego first in both directions,
  each entry `<folder>//<take_uid>//<camera>//<object>//<rgb|mask>//<frame>`. Readers replace the
  first part by their own folder; it is written as `processed`, so that a root may move.
- mask folders: `<take_uid>/<camera>/<frame>_masks.npz` with `arr_0` (N, H, W) uint8 at the size
  of the frame, and `<frame>_boxes.npy` (N, 4) float32 x1, y1, w, h.
- `split.json`: `{"train": [take_uid], "val": [...], "test": [...]}`.

Files that are read are untrusted: DataError names the file and its problem.
"""

import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from egoexo_tools.errors import DataError
from egoexo_tools.layout import atomic_path, write_atomic
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.parsing.json_text import list_items
from egoexo_tools.parsing.lenient import frame_number, load_json, read_bytes
from egoexo_tools.vocab import Direction, Split, View, view_of

_CHUNK_PAIRS = 50_000
_MAX_PAIR_BYTES = 1 << 29
"""A million pairs take 350 MB."""
_MAX_FAULTS = 100
"""Entries that are described one by one."""
_ENTRIES = [(View.EGO, "rgb"), (View.EGO, "mask"), (View.EXO, "rgb"), (View.EXO, "mask")]
"""The four entries of a pair, in the order of the file."""


def write_splits(path: Path, splits: Mapping[str, Sequence[str]]) -> None:
    content = {str(split): list(splits.get(split, ())) for split in Split}
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; DataError where it holds something else."""
    content = load_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def write_annotation(
    path: Path,
    masks: Sequence[Mapping[str, Any]],
    subsample_idx: Sequence[int],
    *,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a take's annotation.json from rows of the masks manifest, in their order.

    A camera in which the object is never visible gets an empty entry, as in the original files.
    `extra` adds keys that some programs need, such as scenario and take_name.
    """
    tree: dict[str, dict[str, dict[str, Any]]] = {}
    for row in masks:
        track = tree.setdefault(row["object_name"], {}).setdefault(row["camera"], {})
        if row["visible"]:
            size = [row["rle_height"], row["rle_width"]]
            track[str(row["frame_idx"])] = {"size": size, "counts": row["rle_counts"]}
    content = {"masks": tree, "subsample_idx": list(subsample_idx), **(extra or {})}
    write_atomic(path, msgspec.json.encode(content))


def pair_file_names(split: Split, direction: Direction) -> tuple[str, ...]:
    """The names of a split's pair file: ours, which a fork uses too, then O-MaMa's."""
    omama_names = {
        Split.TRAIN: (f"train_{direction.joined}_20percent_pairs.json",),
        Split.VAL: (f"custom_val_{direction.joined}_pairs_10.json",),
    }
    return (f"{split}_{direction.joined}_pairs.json", *omama_names.get(split, ()))


def names_fit(object_names: Any) -> Any:
    """Arrow booleans: which object names a pair file can hold, whose separator is "//"."""
    return pc.invert(pc.match_substring_regex(object_names, "//|^/|/$"))


def write_pairs(path: Path, pairs: pa.Table) -> None:
    """Write rows of the pairs manifest as a pair file, in their order, one pair per line."""
    with atomic_path(path) as partial, partial.open("wb") as file:
        file.write(b"[")
        # In chunks: a million pairs as Python strings would take gigabytes.
        for start in range(0, pairs.num_rows, _CHUNK_PAIRS):
            file.write(b"\n" if start == 0 else b",\n")
            lines = _pair_lines(pairs.slice(start, _CHUNK_PAIRS))
            file.write(",\n".join(lines.to_pylist()).encode("ascii"))
        file.write(b"\n]\n")


def read_pair_table(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """A pair file as a table, and descriptions of its entries that are not pairs.

    Columns: take_uid, object_name, frame_idx, ego_camera, exo_camera. Raises DataError where the
    file is not a list, or begins with many entries of which none is a pair.
    """
    rows: list[tuple[Any, ...]] = []
    faults: list[str] = []
    fault_count = 0
    try:
        for number, text in enumerate(list_items(read_bytes(path, most=_MAX_PAIR_BYTES))):
            # Entry by entry: one damaged entry is reported, and the others are used.
            try:
                rows.append(_parse_pair(msgspec.json.decode(text)))
            except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
                fault_count += 1
                if fault_count <= _MAX_FAULTS:
                    faults.append(f"{path.name}, entry {number} is not a pair ({error})")
                if fault_count == _MAX_FAULTS and not rows:
                    raise DataError(f"{path} is not a pair file: {faults[0]}") from error
    except ValueError as error:
        raise DataError(f"{path} is not a pair file: {error}") from error
    if fault_count > _MAX_FAULTS:
        faults.append(f"{path.name}: {fault_count - _MAX_FAULTS:,} more entries are not pairs")
    columns = ["take_uid", "object_name", "frame_idx", "ego_camera", "exo_camera"]
    return pd.DataFrame.from_records(rows, columns=columns), faults


def write_proposals(
    folder: Path, frame_idx: int, rles: Sequence[MaskRle], *, height: int, width: int
) -> None:
    """Write the proposals of a frame of `height` x `width` pixels.

    A proposal of another size is resized to the frame (nearest). No proposals: N = 0.
    """
    masks = np.zeros((len(rles), height, width), np.uint8)
    boxes = np.zeros((len(rles), 4), np.float32)
    for idx, rle in enumerate(rles):
        masks[idx] = rle.decode_at(height, width)
        # The box of the proposal itself, where resizing does not change it.
        same_size = (rle.height, rle.width) == (height, width)
        boxes[idx] = rle.box_xywh() if same_size else MaskRle.encode(masks[idx]).box_xywh()
    with atomic_path(folder / f"{frame_idx}_boxes.npy") as partial, partial.open("wb") as file:
        np.save(file, boxes)
    # The masks are written last: where they exist, the boxes do too. Not by np.savez_compressed,
    # which stores the time: the same masks must give the same bytes.
    with (
        atomic_path(folder / f"{frame_idx}_masks.npz") as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        member = zipfile.ZipInfo("arr_0.npy", date_time=(1980, 1, 1, 0, 0, 0))
        member.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(member, "w", force_zip64=True) as file:
            np.lib.format.write_array(file, masks, allow_pickle=False)


def _pair_lines(pairs: pa.Table) -> Any:
    """One JSON list of four entries for each row, as an Arrow string array."""
    names = pairs["object_name"].combine_chunks().dictionary_encode()
    escaped = [json.dumps(name)[1:-1] for name in names.dictionary.to_pylist()]
    object_names = pa.array(escaped, pa.string()).take(names.indices)
    # Only object names need escaping: take_uids and cameras are checked file names.
    source_is_ego = pc.match_substring(pairs["source_camera"], "aria", ignore_case=True)
    cameras = {
        View.EGO: pc.if_else(source_is_ego, pairs["source_camera"], pairs["dest_camera"]),
        View.EXO: pc.if_else(source_is_ego, pairs["dest_camera"], pairs["source_camera"]),
    }
    frames = pc.binary_join_element_wise(pairs["frame_idx"].cast(pa.string()), '"', "")
    entries = [
        pc.binary_join_element_wise(
            pa.scalar('"processed'), pairs["take_uid"], cameras[view], object_names, kind, frames,
            "//",
        )
        for view, kind in _ENTRIES
    ]  # fmt: skip
    return pc.binary_join_element_wise("[", pc.binary_join_element_wise(*entries, ", "), "]", "")


def _parse_pair(entry: Any) -> tuple[str, str, int, str, str]:
    """take_uid, object_name, frame_idx, ego_camera, exo_camera of an entry; else ValueError."""
    if not isinstance(entry, list) or len(entry) != 4:
        raise ValueError("an entry has four parts")
    # Split from the end: the folder may contain "//", the other parts cannot.
    paths = [text.rsplit("//", 5)[1:] for text in entry]
    if any(len(parts) != 5 for parts in paths):
        raise ValueError(f"{entry[0]!r} is not <folder>//<take>//<camera>//<object>//rgb//<frame>")
    (take_uid, ego, object_name, _, frame), exo = paths[0], paths[2][1]
    if view_of(ego) != View.EGO or view_of(exo) != View.EXO:
        raise ValueError(f"cameras {ego}, {exo} are not an ego and an exo camera")
    frame_idx = frame_number(frame)
    object_name.encode()  # ValueError for lone surrogates, which no table can hold
    if frame_idx is None:
        raise ValueError(f"{frame!r:.40} is not a frame number")
    keys = {(parts[0], parts[2], frame_number(parts[4])) for parts in paths}
    if len(keys) > 1 or (paths[1][1], paths[3][1]) != (ego, exo):
        raise ValueError("its parts are of different takes, cameras, objects or frames")
    # Interned: a file has a million pairs of a thousand names.
    intern = sys.intern
    return intern(take_uid), intern(object_name), frame_idx, intern(ego), intern(exo)
