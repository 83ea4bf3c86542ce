"""O-MaMa's mask folders → the proposals manifest, one unit per take and camera.

Reads `Masks_<SPLIT>_<DIRECTION>/<take_uid>/<camera>/<frame>_{masks.npz,boxes.npy}` for the root's
frames. The folders do not name their proposer: it is recorded as `imported`, with null scores.
"""

from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from egoexo_tools.aliases import Row
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import SCHEMAS, read_manifest, write_exclusions, write_manifest
from egoexo_tools.masks.encoding import encode_stack
from egoexo_tools.parsing.lenient import list_folder
from egoexo_tools.parsing.mask_folders import find_frames, read_stack
from egoexo_tools.running.inputs import file_stamp, hash_texts
from egoexo_tools.running.lock import shared_files_lock
from egoexo_tools.running.records import RunOptions, StageSummary, Unit
from egoexo_tools.running.stage import run_stage

STAGE = "import-proposals"
PROPOSER = "imported"
SHARED_UNIT = "source"
"""Exclusions of files that belong to no camera of the root."""


def run_import_proposals(
    root: DatasetRoot, home: Path, *, run: RunOptions = RunOptions()
) -> StageSummary:
    """Import the proposals in `home`'s mask folders, for the takes of the root."""
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
    """One unit per take and camera, also where several mask folders hold it."""
    todo: dict[tuple[str, str], Unit] = {}
    frames = {path.stem for path in root.table("frames").glob("*.parquet")}
    takes = [take for masks in _mask_folders(home) for take in list_folder(masks) if take.is_dir()]
    for folder in [path for take in takes for path in list_folder(take) if path.is_dir()]:
        key = (folder.parent.name, folder.name)
        name = ".".join(key)
        if name in frames:
            files = [file for path in _camera_folders(home, *key) for file in list_folder(path)]
            # Names, sizes and times of the files count as inputs; reading them all takes minutes.
            stats = [(path.name, path.stat() if path.exists() else path.lstat()) for path in files]
            lines = [f"{name} {file_stamp(stat)}" for name, stat in stats]
            todo[key] = Unit(
                key,
                (root.part("frames", name),),
                (root.part("proposals", name),),
                fingerprint=hash_texts([*lines, ""]),
                # The unit needs its take's frames, which another shard may not have imported yet.
                shard_key=key[0],
            )
    return list(todo.values())


def work(unit: Unit, *, root: DatasetRoot, home: Path) -> dict[str, int]:
    """Import one camera's proposals."""
    take_uid, camera = unit.key
    rows = read_manifest(root, "frames", units=[unit.name]).to_pylist()
    sizes = {row["frame_idx"]: (row["height"], row["width"]) for row in rows}
    left_out: list[Row] = []
    tables = []
    frame_idxs: set[int] = set()
    for folder in _camera_folders(home, take_uid, camera):
        for frame_idx, masks_path, boxes_path in find_frames(folder, left_out):
            # A frame may be in the folders of several splits or directions; the first one is used.
            if frame_idx in frame_idxs:
                continue
            if frame_idx not in sizes:
                left_out.append({"frame_idx": frame_idx, "reason": "the root has no such frame"})
                continue
            frame_idxs.add(frame_idx)
            try:
                tables.append(_read_frame(masks_path, boxes_path, sizes[frame_idx], frame_idx))
            except DataError as error:
                left_out.append({"frame_idx": frame_idx, "reason": str(error)})
    table = pa.concat_tables(tables) if tables else SCHEMAS["proposals"].empty_table()
    if tables:
        for name, value in (("take_uid", take_uid), ("camera", camera), ("proposer", PROPOSER)):
            table = table.append_column(name, pa.repeat(pa.scalar(value), table.num_rows))
    write_manifest(root, "proposals", unit.name, table)
    key = {"take_uid": take_uid, "camera": camera}
    write_exclusions(root, STAGE, unit.name, [{**key, **row} for row in left_out])
    counts = {"frames": len(frame_idxs), "proposals": table.num_rows}
    return counts | ({"excluded": len(left_out)} if left_out else {})


def _read_frame(
    masks_path: Path, boxes_path: Path | None, frame_hw: tuple[int, int], frame_idx: int
) -> pa.Table:
    """One frame's proposals as columns of the manifest, without those that name the camera."""
    masks, boxes = read_stack(masks_path, boxes_path)
    if len(masks) and masks.shape[1:] != frame_hw:
        height, width = frame_hw
        raise DataError(
            f"{masks_path.name} holds masks of {masks.shape[1]}x{masks.shape[2]} pixels, its frame "
            f"has {height}x{width}"
        )
    columns = encode_stack(masks)
    areas, mask_boxes, _ = columns.measure()
    # The proposer's own boxes are kept, although its masks may have been resized since.
    boxes = mask_boxes if boxes is None else boxes
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
                pa.array(np.ascontiguousarray(boxes, np.float32).ravel()), 4
            ),
        }
    )


def _not_read(home: Path, cameras: Collection[tuple[str, ...]]) -> list[Row]:
    """Rows of exclusions for everything in the mask folders but the imported `cameras`."""
    rows: list[Row] = []
    for masks in _mask_folders(home):
        for take in list_folder(masks):
            if not take.is_dir():
                rows.append({"reason": f"{take} is not a take's folder; it is not read"})
                continue
            for camera in list_folder(take):
                if not camera.is_dir():
                    rows.append({"reason": f"{camera} is not a camera's folder; it is not read"})
                elif (take.name, camera.name) not in cameras:
                    reason = f"{camera}: the root has no frames of this camera"
                    rows.append({"take_uid": take.name, "camera": camera.name, "reason": reason})
    return rows


def _mask_folders(home: Path) -> list[Path]:
    return [p for p in list_folder(home) if p.is_dir() and p.name.upper().startswith("MASKS_")]


def _camera_folders(home: Path, take_uid: str, camera: str) -> list[Path]:
    """The folders of one camera; a take's proposals may be in one mask folder per direction."""
    folders = [masks / take_uid / camera for masks in _mask_folders(home)]
    return [folder for folder in folders if folder.is_dir()]
