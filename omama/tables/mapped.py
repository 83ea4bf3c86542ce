"""Tables as files that all processes of a machine map and share: `<root>/tables/`.

`frames-<key>/` holds the frames of some cameras with their masks and proposals (`frames.arrow`,
`masks.arrow`, `proposals.arrow`) and `made_from.json`, the digests of the manifest parts that they
were made from. `<split>.<direction>.arrow` holds the pairs with their positions in such a folder,
and the folder's name. A file is used while its digests are equal to those of the manifests.

Files are written under another name and renamed, under a lock: if several ranks start at once, one
writes and the others wait. A process that has mapped an older file keeps it; files that no pairs
use any more are deleted. A root that cannot be written to is read from Parquet.
"""

import json
import logging
import shutil
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from egoexo_tools.aliases import TakeCamera
from egoexo_tools.errors import DataError
from egoexo_tools.layout import PARTIAL_SUFFIX, DatasetRoot, atomic_path, path_component
from egoexo_tools.running.inputs import MISSING, FileDigests, hash_texts
from egoexo_tools.running.lock import file_lock
from egoexo_tools.running.progress import open_progress
from omama.dataset import Dataset, FrameTable, PairPositions, make_dataset
from omama.tables.arrow_files import MaskWriter, map_batch, map_masks, write_batch
from omama.tables.parquet import find_pair_positions, load_frames

logger = logging.getLogger(__name__)

FORMAT = "2"
"""Version of the files; part of their keys."""
DIGESTS = "digests.json"
_FRAMES, _MASKS, _PROPOSALS, _MADE_FROM = (
    "frames.arrow", "masks.arrow", "proposals.arrow", "made_from.json"
)  # fmt: skip
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, pa.ArrowException, DataError)
"""Raised for a file that is missing, damaged or of another form."""
_POSITIONS = [item.name for item in fields(PairPositions)]
"""Columns of a pairs file beside the manifest's."""
_PROGRESS_TAKES = 20
"""With fewer takes the work ends before a progress bar could be read."""


@dataclass(frozen=True)
class TableRequest:
    """The frames and pairs that a split and direction needs."""

    root: DatasetRoot
    unit: str
    """`<split>.<direction>`."""
    rows: pd.DataFrame
    """The unit's rows of the pairs manifest."""
    cameras: tuple[TakeCamera, ...]
    """The cameras of the pairs, ascending."""
    need_proposals: tuple[TakeCamera, ...]
    """The cameras that must have proposals."""
    proposals: bool
    """Whether proposals are loaded."""


def open_digests(root: DatasetRoot) -> FileDigests:
    """Digests of the root's files, which are kept on disk between processes."""
    return FileDigests(root.mapped / DIGESTS)


def open_tables(root: DatasetRoot, unit: str, *, proposals: bool) -> Dataset | None:
    """The mapped dataset of the unit `<split>.<direction>`; None if its files must be (re)made."""
    digests = open_digests(root)
    try:
        pairs = map_batch(_pairs_file(root, unit, proposals))
        if pairs.schema.metadata[b"made_from"] != _pairs_key(root, unit, digests).encode():
            return None
        folder = _frames_folder(root, pairs)
        if not _is_fresh(root, folder, digests):
            return None
        return _map_dataset(_map_frames(root, folder), pairs)
    except FileNotFoundError:
        return None
    except _READ_ERRORS as error:
        logger.warning("the tables of %s in %s are made again (%s)", unit, root.mapped, error)
        return None
    finally:
        digests.save()  # so that the next process need not hash unchanged manifests


def make_tables(request: TableRequest) -> Dataset | None:
    """Write the files and map them; None if the root cannot be written to."""
    root = request.root
    try:
        root.mapped.mkdir(exist_ok=True)
        with file_lock(root.mapped / ".lock", "the tables"):
            # Another process may have made them while this one waited for the lock.
            dataset = open_tables(root, request.unit, proposals=request.proposals)
            return dataset or _make_tables(request)
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s): this process reads the tables into its own memory",
            root.mapped,
            error,
        )
        return None


def _make_tables(request: TableRequest) -> Dataset:
    root = request.root
    # This process holds the lock, so that a partial file is left by a killed process.
    _remove(root.mapped.glob(f"*{PARTIAL_SUFFIX}"))
    digests = open_digests(root)
    pairs_key = _pairs_key(root, request.unit, digests)
    folder = _make_frames(request, digests)
    frames = _map_frames(root, folder)
    positions = find_pair_positions(frames, request.rows)
    rows = pa.Table.from_pandas(request.rows, preserve_index=False).combine_chunks()
    arrays = {name: rows[name].combine_chunks() for name in rows.column_names}
    arrays |= {name: pa.array(getattr(positions, name)) for name in _POSITIONS}
    # The pairs file comes last: while it is missing or old, the tables count as not made.
    path = _pairs_file(root, request.unit, request.proposals)
    with atomic_path(path) as partial:
        write_batch(partial, arrays, {"made_from": pairs_key, "frames": folder.name})
    _remove_stale(root, digests)
    digests.save()
    return _map_dataset(frames, map_batch(path))


def _make_frames(request: TableRequest, digests: FileDigests) -> Path:
    """The folder of the request's frames: one that another direction has made, or a new one."""
    root = request.root
    names = [".".join(camera) for camera in request.cameras]
    parts = [root.part("masks", take) for take in sorted({take for take, _ in request.cameras})]
    parts += [root.part("frames", name) for name in names]
    parts += [root.part("proposals", name) for name in names if request.proposals]
    inputs = {part: digests.of(part).hex() for part in parts}
    for camera in request.need_proposals:
        if inputs[root.part("proposals", ".".join(camera))] == MISSING.hex():
            load_frames(root, [camera], need_proposals=[camera])  # raises with advice
    made_from = {root.relative(part): digest for part, digest in inputs.items()}
    cameras = map(str, request.cameras)
    key = hash_texts([FORMAT, str(request.proposals), *cameras, *made_from.values()])
    folder = root.mapped / f"frames-{key}"
    if _is_intact(root, folder, digests):
        return folder
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")
    partial.mkdir()
    try:
        _write_frames(partial, request)
        (partial / _MADE_FROM).write_text(json.dumps(made_from))
        _remove([folder])
        partial.rename(folder)
    finally:
        _remove([partial])
    return folder


def _write_frames(folder: Path, request: TableRequest) -> None:
    """Read Parquet take by take, so that RAM holds one take."""
    takes = [list(cameras) for _, cameras in groupby(request.cameras, key=lambda camera: camera[0])]
    rows: list[pd.DataFrame] = []
    counts: list[np.ndarray] = []
    with (
        open_progress(
            total=len(takes), desc="tables", unit="take", quiet=len(takes) < _PROGRESS_TAKES
        ) as bar,
        MaskWriter(folder / _MASKS, named=True) as masks,
        MaskWriter(folder / _PROPOSALS, named=False) as proposals,
    ):
        for cameras in takes:
            take = load_frames(
                request.root,
                cameras,
                proposals=request.proposals,
                need_proposals=set(request.need_proposals) & set(cameras),
            )
            rows.append(take.rows)
            counts.append(np.stack([np.diff(take.masks.start), np.diff(take.proposals.start)]))
            masks.add(take.masks)
            proposals.add(take.proposals)
            bar.update()
        masks.write()
        proposals.write()
    # The frames themselves fit in RAM; only their masks do not.
    table = pa.Table.from_pandas(pd.concat(rows, ignore_index=True), preserve_index=False)
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    mask_counts, proposal_counts = np.concatenate(counts, axis=1)
    columns["mask_end"] = pa.array(np.cumsum(mask_counts))
    columns["proposal_end"] = pa.array(np.cumsum(proposal_counts))
    write_batch(folder / _FRAMES, columns)


def _map_dataset(frames: FrameTable, pairs: pa.RecordBatch) -> Dataset:
    positions = PairPositions(*(pairs.column(name).to_numpy() for name in _POSITIONS))
    return make_dataset(frames, _to_pandas(pairs, _POSITIONS), positions)


def _map_frames(root: DatasetRoot, folder: Path) -> FrameTable:
    table = map_batch(folder / _FRAMES)
    starts = {
        name: np.concatenate([[0], table.column(name).to_numpy()])
        for name in ("mask_end", "proposal_end")
    }
    return FrameTable(
        root=root,
        rows=_to_pandas(table, list(starts)),
        masks=map_masks(folder / _MASKS, starts["mask_end"]),
        proposals=map_masks(folder / _PROPOSALS, starts["proposal_end"]),
    )


def _to_pandas(batch: pa.RecordBatch, without: Sequence[str]) -> pd.DataFrame:
    table = pa.Table.from_batches([batch]).drop_columns(list(without))
    rows: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()
    return rows


def _pairs_file(root: DatasetRoot, unit: str, proposals: bool) -> Path:
    return root.mapped / path_component(f"{unit}.arrow" if proposals else f"{unit}.masks.arrow")


def _pairs_key(root: DatasetRoot, unit: str, digests: FileDigests) -> str:
    return hash_texts([FORMAT, digests.of(root.part("pairs", unit)).hex()])


def _frames_folder(root: DatasetRoot, pairs: pa.RecordBatch) -> Path:
    return root.mapped / path_component(pairs.schema.metadata[b"frames"].decode())


def _is_fresh(root: DatasetRoot, folder: Path, digests: FileDigests) -> bool:
    """Whether the manifests are unchanged since a folder was made from them."""
    made_from = json.loads((folder / _MADE_FROM).read_bytes())
    return all(digests.of(root.path / name).hex() == digest for name, digest in made_from.items())


def _is_intact(root: DatasetRoot, folder: Path, digests: FileDigests) -> bool:
    """Whether a folder exists, is fresh, and its files can be mapped."""
    try:
        for name in (_FRAMES, _MASKS, _PROPOSALS):
            map_batch(folder / name)
        return _is_fresh(root, folder, digests)
    except _READ_ERRORS:
        return False


def _remove_stale(root: DatasetRoot, digests: FileDigests) -> None:
    """Delete folders that no pairs use, and all files whose manifests have changed."""
    used_folders = set()
    for path in root.mapped.glob("*.arrow"):
        try:
            folder = _frames_folder(root, map_batch(path))
            is_fresh = _is_fresh(root, folder, digests)
        except _READ_ERRORS:
            is_fresh = False
        if is_fresh:
            used_folders.add(folder)
        else:
            path.unlink(missing_ok=True)
    _remove(folder for folder in root.mapped.glob("frames-*") if folder not in used_folders)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
