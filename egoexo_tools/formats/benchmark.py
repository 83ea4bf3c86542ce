"""The file formats that other code for this benchmark reads and writes, in and out.

- `annotation.json` of a take: `{"masks": {object: {camera: {frame: {size, counts}}}},
  "subsample_idx": [frame]}`, masks at the source's resolution, visible ones only.
- pair files: a list of `[ego_rgb, ego_mask, exo_rgb, exo_mask]`, ego first in both directions,
  each entry `<folder>//<take_uid>//<camera>//<object>//<rgb|mask>//<frame>`. Readers put their
  own folder in place of the first part; here it is `processed`, so that a root may move.
- mask folders: `<take_uid>/<camera>/<frame>_masks.npz` with `arr_0` (N, H, W) uint8 at the size
  of the frame, and `<frame>_boxes.npy` (N, 4) float32 x1, y1, w, h.
- `split.json`: `{"train": [take_uid], "val": [...], "test": [...]}`.

Everything read here is untrusted: DataError says which file and what is wrong with it.
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

from egoexo_tools.arrays import Bytes, Float32
from egoexo_tools.errors import DataError
from egoexo_tools.layout import atomic_path, write_atomic
from egoexo_tools.masks.columns import mask_to_row
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.parsing.json_text import list_items
from egoexo_tools.parsing.lenient import frame_number, load_json, read_bytes
from egoexo_tools.vocab import Direction, Split, View, view_of

_CHUNK_PAIRS = 50_000
_MOST_PAIR_BYTES = 1 << 29
"""A million pairs take 350 MB."""
_MOST_FAULTS = 100
"""Entries that are no pairs, each named."""
_ENTRIES = [(View.EGO, "rgb"), (View.EGO, "mask"), (View.EXO, "rgb"), (View.EXO, "mask")]
"""The four entries of a pair, in the order of the file."""


def read_splits(path: Path) -> dict[str, list[str]]:
    """split.json → the take_uids of train, val and test, in the file's order."""
    content = read_json(path)
    splits = {str(split): content.get(split, []) for split in Split}
    for name, take_uids in splits.items():
        if not isinstance(take_uids, list) or not all(isinstance(uid, str) for uid in take_uids):
            raise DataError(f"{path}: {name} must be a list of take_uids")
    return splits


def write_splits(path: Path, splits: Mapping[str, Sequence[str]]) -> None:
    content = {str(split): list(splits.get(split, ())) for split in Split}
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; else DataError."""
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

    A camera in which the object was never visible stays as an empty entry, as in the original.
    `extra` adds keys of other programs, such as scenario and take_name.
    """
    tree: dict[str, dict[str, dict[str, Any]]] = {}
    for row in masks:
        track = tree.setdefault(row["object_name"], {}).setdefault(row["camera"], {})
        if row["visible"]:
            size = [row["rle_height"], row["rle_width"]]
            track[str(row["frame_idx"])] = {"size": size, "counts": row["rle_counts"]}
    content = {"masks": tree, "subsample_idx": list(subsample_idx), **(extra or {})}
    write_atomic(path, msgspec.json.encode(content))


def read_annotation(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """annotation.json → rows for the masks manifest (without take_uid), and subsample_idx.

    The file holds visible masks only, so every row is visible. Null masks, which the official
    script leaves where a mask did not decode, and masks that are not valid raise DataError.
    """
    content = read_json(path)
    rows = []
    try:
        for object_name, cameras in content["masks"].items():
            for camera, frames in cameras.items():
                for frame, value in frames.items():
                    where = f"{path}: {object_name}, {camera}, frame {frame}"
                    key = {"object_name": object_name, "camera": camera, "frame_idx": int(frame)}
                    rows.append({**key, **_mask_columns(value, where)})
        return rows, [int(idx) for idx in content.get("subsample_idx", [])]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} is not an annotation.json: it must hold masks{{object: {{camera: {{frame: "
            f"{{size, counts}}}}}}}} ({type(error).__name__}: {error})"
        ) from error


def pair_file_names(split: Split, direction: Direction) -> tuple[str, ...]:
    """The names of a split's pair file: the cached fork's (and ours), then O-MaMa's own."""
    own = {
        Split.TRAIN: (f"train_{direction.joined}_20percent_pairs.json",),
        Split.VAL: (f"custom_val_{direction.joined}_pairs_10.json",),
    }
    return (f"{split}_{direction.joined}_pairs.json", *own.get(split, ()))


def names_fit(object_names: Any) -> Any:
    """Which object names a pair file can hold (Arrow booleans): its separator is "//"."""
    return pc.invert(pc.match_substring_regex(object_names, "//|^/|/$"))


def write_pairs(path: Path, pairs: pa.Table) -> None:
    """Write rows of the pairs manifest as a pair file, in their order, one pair a line."""
    with atomic_path(path) as partial, partial.open("wb") as file:
        file.write(b"[")
        for start in range(0, pairs.num_rows, _CHUNK_PAIRS):
            file.write(b"\n" if start == 0 else b",\n")
            lines = _pair_lines(pairs.slice(start, _CHUNK_PAIRS))
            file.write(",\n".join(lines.to_pylist()).encode("ascii"))
        file.write(b"\n]\n")


def read_pairs(path: Path) -> list[dict[str, Any]]:
    """A pair file → take_uid, object_name, frame_idx, ego_camera, exo_camera of each pair."""
    try:
        return [_read_pair(entry) for entry in load_json(path)]
    except (DataError, ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} is not a pair file: it must hold a list of "
            f"[ego_rgb, ego_mask, exo_rgb, exo_mask] ({error})"
        ) from error


def read_pair_table(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The same as columns, and what of the file is no pair; DataError where it is no list."""
    rows: list[tuple[Any, ...]] = []
    faults: list[str] = []
    more = 0
    try:
        for number, text in enumerate(list_items(read_bytes(path, most=_MOST_PAIR_BYTES))):
            try:
                rows.append(tuple(_read_pair(msgspec.json.decode(text)).values()))
            except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
                if len(faults) < _MOST_FAULTS:
                    faults.append(f"{path.name}, entry {number} is no pair ({error})")
                more += len(faults) == _MOST_FAULTS
                if not rows and more:
                    raise DataError(f"{path} is not a pair file: {faults[0]}") from error
    except ValueError as error:
        raise DataError(f"{path} is not a pair file: {error}") from error
    if more > 1:
        faults.append(f"{path.name}: {more - 1:,} entries more are no pairs")
    columns = ["take_uid", "object_name", "frame_idx", "ego_camera", "exo_camera"]
    return pd.DataFrame.from_records(rows, columns=columns), faults


def mask_files(folder: Path, frame_idx: int) -> tuple[Path, Path]:
    """The masks and boxes files of a frame, in `Masks_<SPLIT>_<DIRECTION>/<take>/<camera>`."""
    return folder / f"{frame_idx}_masks.npz", folder / f"{frame_idx}_boxes.npy"


def write_proposals(
    folder: Path, frame_idx: int, rles: Sequence[MaskRle], *, height: int, width: int
) -> None:
    """Write one frame's proposals at the frame's size (pixels).

    A proposal of another size is brought to it (nearest). Without proposals: N = 0.
    """
    masks = np.zeros((len(rles), height, width), np.uint8)
    boxes = np.zeros((len(rles), 4), np.float32)
    for idx, rle in enumerate(rles):
        masks[idx] = rle.decode_at(height, width)
        same_size = (rle.height, rle.width) == (height, width)
        boxes[idx] = rle.box_xywh() if same_size else MaskRle.encode(masks[idx]).box_xywh()
    masks_path, boxes_path = mask_files(folder, frame_idx)
    with atomic_path(boxes_path) as partial, partial.open("wb") as file:
        np.save(file, boxes)
    # The masks come last: where they are, the boxes are too.
    with atomic_path(masks_path) as partial, partial.open("wb") as file:
        _save_npz(file, masks)


def read_proposals(folder: Path, frame_idx: int) -> tuple[list[MaskRle], Float32]:
    """One frame's proposals and their boxes (N, 4) x1, y1, w, h; DataError for damaged files."""
    masks_path, boxes_path = mask_files(folder, frame_idx)
    try:
        with (
            masks_path.open("rb") as file,  # np.load leaves it open where the archive is damaged
            np.load(file, allow_pickle=False) as archive,
        ):
            masks = archive["arr_0"]
        boxes = np.load(boxes_path, allow_pickle=False)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{masks_path} cannot be read ({error})") from error
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        raise DataError(
            f"{masks_path} and its boxes have shapes {masks.shape} and {boxes.shape}; "
            "they must be (N, H, W) and (N, 4)"
        )
    return [MaskRle.encode(mask) for mask in masks], boxes.astype(np.float32)


def _save_npz(file: Any, masks: Bytes) -> None:
    """np.savez_compressed(file, masks), with a fixed time: the same masks, the same bytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        entry = zipfile.ZipInfo("arr_0.npy", date_time=(1980, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(entry, "w", force_zip64=True) as member:
            np.lib.format.write_array(member, masks, allow_pickle=False)


def _mask_columns(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        raise DataError(f"{where} holds null in place of a mask; make the file anew")
    try:
        rle = MaskRle.from_json(value).validate()
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return {
        "visible": True,
        **mask_to_row(rle),
        "area": rle.area(),
        "bbox_xywh": list(rle.box_xywh()),
    }


def _pair_lines(pairs: pa.Table) -> Any:
    """One JSON list of four entries for each row, as an Arrow string array."""
    names = pairs["object_name"].combine_chunks().dictionary_encode()
    escaped = [json.dumps(name)[1:-1] for name in names.dictionary.to_pylist()]
    object_names = pa.array(escaped, pa.string()).take(names.indices)
    # Nothing but object names needs escaping: take_uids and cameras are checked file names.
    source_is_ego = pc.match_substring(pairs["source_camera"], "aria", ignore_case=True)
    cameras = {
        View.EGO: pc.if_else(source_is_ego, pairs["source_camera"], pairs["dest_camera"]),
        View.EXO: pc.if_else(source_is_ego, pairs["dest_camera"], pairs["source_camera"]),
    }
    frame_idx = pairs["frame_idx"].cast(pa.string())
    entries = [
        pc.binary_join_element_wise(
            pa.scalar('"processed'), pairs["take_uid"], cameras[view], object_names, kind,
            pc.binary_join_element_wise(frame_idx, '"', ""), "//"
        )
        for view, kind in _ENTRIES
    ]  # fmt: skip
    joined = pc.binary_join_element_wise(*entries, ", ")
    return pc.binary_join_element_wise("[", joined, "]", "")


def _read_pair(entry: Any) -> dict[str, Any]:
    """Texts that many pairs share are kept once: a file has a million pairs of a thousand names."""
    if not isinstance(entry, list) or len(entry) != 4:
        raise ValueError("an entry has four parts")
    # The folder may hold "//", the rest cannot: counted from the end.
    split = [text.rsplit("//", 5)[1:] for text in entry]
    if any(len(parts) != 5 for parts in split):
        raise ValueError(f"{entry[0]!r} is not <folder>//<take>//<camera>//<object>//rgb//<frame>")
    (take_uid, ego, object_name, _, frame), exo = split[0], split[2][1]
    if view_of(ego) != View.EGO or view_of(exo) != View.EXO:
        raise ValueError(f"cameras {ego}, {exo} are not an ego and an exo camera")
    frame_idx = frame_number(frame)
    object_name.encode()  # a ValueError for what is no text
    if frame_idx is None:
        raise ValueError(f"{frame!r:.40} is no frame number")
    whole = {(parts[0], parts[2], frame_number(parts[4])) for parts in split}
    if len(whole) > 1 or (split[1][1], split[3][1]) != (ego, exo):
        raise ValueError("its parts are of different takes, cameras, objects or frames")
    return {
        "take_uid": sys.intern(take_uid),
        "object_name": sys.intern(object_name),
        "frame_idx": frame_idx,
        "ego_camera": sys.intern(ego),
        "exo_camera": sys.intern(exo),
    }
