"""O-MaMa's mask folders → the proposals manifest, a unit for each take and camera.

Reads `Masks_<SPLIT>_<DIRECTION>/<take_uid>/<camera>/<frame>_{masks.npz,boxes.npy}` for the frames
that the root has. Who proposed them is not known: the proposer is `imported`, scores are null.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import SCHEMAS, read_manifest, write_exclusions, write_manifest
from egoexo_tools.masks.encoding import encode_stack
from egoexo_tools.parsing.lenient import list_folder
from egoexo_tools.parsing.mask_folders import find_frames, read_stack
from egoexo_tools.running.lock import shared_files_lock
from egoexo_tools.running.records import RunOptions, StageSummary, Unit
from egoexo_tools.running.stage import run_stage

STAGE = "import-proposals"
PROPOSER = "imported"
SHARED_UNIT = "source"
"""Exclusions of what belongs to no camera of the root."""


def run_import_proposals(
    root: DatasetRoot, home: Path, *, run: RunOptions = RunOptions()
) -> StageSummary:
    """Import every camera's proposals of `home`'s mask folders, of the takes that the root has."""
    todo = units(root, home)
    summary = run_stage(
        root,
        STAGE,
        todo,
        partial(work, root=root, home=home),
        settings={"source": str(home.resolve())},
        options=run,
    )
    with shared_files_lock(root.status_dir(STAGE)):
        write_exclusions(root, STAGE, SHARED_UNIT, _not_read(home, {unit.key for unit in todo}))
    return summary


def units(root: DatasetRoot, home: Path) -> list[Unit]:
    """One unit a take and camera, each named once however many folders hold it."""
    found: dict[tuple[str, str], Unit] = {}
    frames = {path.stem for path in root.table("frames").glob("*.parquet")}
    for folder in _camera_folders(home):
        key = (folder.parent.name, folder.name)
        if f"{key[0]}.{key[1]}" in frames:
            unit = ".".join(key)
            inputs = (root.part("frames", unit),)
            # With its take, whose frames it needs: another shard may not have imported them yet.
            found[key] = Unit(
                key,
                inputs,
                (root.part("proposals", unit),),
                _listing(home, *key),
                shard_key=key[0],
            )
    return list(found.values())


def work(unit: Unit, *, root: DatasetRoot, home: Path) -> dict[str, int]:
    """Import one camera's proposals."""
    take_uid, camera = unit.key
    rows = read_manifest(root, "frames", units=[unit.name]).to_pylist()
    sizes = {row["frame_idx"]: (row["height"], row["width"]) for row in rows}
    left_out: list[dict[str, Any]] = []
    tables = []
    done: set[int] = set()
    for folder in _folders_of(home, take_uid, camera):
        for frame_idx, masks_path, boxes_path in find_frames(folder, left_out):
            if frame_idx in done:
                continue
            if frame_idx not in sizes:
                left_out.append({"frame_idx": frame_idx, "reason": "its frame is not there"})
                continue
            done.add(frame_idx)
            try:
                tables.append(_frame_table(masks_path, boxes_path, sizes[frame_idx], frame_idx))
            except DataError as error:
                left_out.append({"frame_idx": frame_idx, "reason": str(error)})
    table = pa.concat_tables(tables) if tables else SCHEMAS["proposals"].empty_table()
    if tables:
        for name, value in (("take_uid", take_uid), ("camera", camera), ("proposer", PROPOSER)):
            table = table.append_column(name, pa.repeat(pa.scalar(value), table.num_rows))
    write_manifest(root, "proposals", unit.name, table)
    keys = {"take_uid": take_uid, "camera": camera}
    write_exclusions(root, STAGE, unit.name, [{**keys, **row} for row in left_out])
    counts = {"frames": len(done), "proposals": table.num_rows}
    return counts | ({"excluded": len(left_out)} if left_out else {})


def _frame_table(
    masks_path: Path, boxes_path: Path | None, frame_hw: tuple[int, int], frame_idx: int
) -> pa.Table:
    masks, boxes = read_stack(masks_path, boxes_path)
    if len(masks) and masks.shape[1:] != frame_hw:
        height, width = frame_hw
        raise DataError(
            f"{masks_path.name} holds masks of {masks.shape[1]}x{masks.shape[2]} pixels, its frame "
            f"has {height}x{width}"
        )
    columns = encode_stack(masks)
    areas, measured, _ = columns.measure()
    sides = measured if boxes is None else boxes
    count = len(masks)
    return pa.table(
        {
            "frame_idx": pa.repeat(pa.scalar(frame_idx, pa.int32()), count),
            "proposal_idx": pa.array(np.arange(count), pa.int32()),
            "rle_height": pa.array(columns.heights, pa.int32()),
            "rle_width": pa.array(columns.widths, pa.int32()),
            "rle_counts": columns.counts.cast(pa.string()),
            "area": pa.array(areas, pa.int64()),
            "bbox_xywh": pa.FixedSizeListArray.from_arrays(
                pa.array(np.ascontiguousarray(sides, np.float32).ravel()), 4
            ),
        }
    )


def _not_read(home: Path, done: set[tuple[str, ...]]) -> list[dict[str, Any]]:
    """Rows of exclusions for what lies in the mask folders and belongs to no frame of the root."""
    rows: list[dict[str, Any]] = []
    for masks in _mask_folders(home):
        for take in list_folder(masks):
            if not take.is_dir():
                rows.append({"reason": f"{take} is no take's folder; it is not read"})
                continue
            for camera in list_folder(take):
                if not camera.is_dir():
                    rows.append({"reason": f"{camera} is no camera's folder; it is not read"})
                elif (take.name, camera.name) not in done:
                    reason = f"{camera}: the root has no frames of this camera"
                    rows.append({"take_uid": take.name, "camera": camera.name, "reason": reason})
    return rows


def _camera_folders(home: Path) -> Iterator[Path]:
    for masks in _mask_folders(home):
        for take in filter(Path.is_dir, list_folder(masks)):
            yield from filter(Path.is_dir, list_folder(take))


def _folders_of(home: Path, take_uid: str, camera: str) -> list[Path]:
    folders = [masks / take_uid / camera for masks in _mask_folders(home)]
    return [folder for folder in folders if folder.is_dir()]


def _mask_folders(home: Path) -> list[Path]:
    return [p for p in list_folder(home) if p.is_dir() and p.name.upper().startswith("MASKS_")]


def _listing(home: Path, take_uid: str, camera: str) -> str:
    """What the result depends on, without reading it: names, sizes and times of the files."""
    import hashlib

    digest = hashlib.sha256()
    for folder in _folders_of(home, take_uid, camera):
        for path in list_folder(folder):
            stat = path.stat() if path.exists() else path.lstat()
            name = path.name.encode(errors="surrogateescape")
            digest.update(name + f" {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
