"""The tables as files that all processes of a machine share: `<root>/tables/`.

`frames-<key>/` holds the frames of some cameras with their masks and proposals (`frames.arrow`,
`masks.arrow`, `proposals.arrow`) and `made_from.json`, the digests of the manifest parts that they
were made from; `<split>.<direction>.arrow` the pairs with their places in them, and which folder
that is. A file is used as long as its digests are those of the manifests. Written to a sibling and
renamed, under a lock: of several ranks that start at once one writes and the others wait. Whoever
has an older file mapped keeps it; what no pairs use any more is deleted. A root that cannot be
written to is read directly.
"""

import json
import logging
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from egoexo_tools.aliases import TakeCamera
from egoexo_tools.errors import DataError
from egoexo_tools.layout import PARTIAL_SUFFIX, DatasetRoot, atomic_path, path_component
from egoexo_tools.running.inputs import MISSING, FileDigests, hash_texts
from egoexo_tools.running.lock import file_lock
from egoexo_tools.running.progress import open_progress
from omama.tables.columns import MaskFile, map_batch, mapped_masks, write_batch
from omama.tables.direct import find_pair_positions, load_frames
from omama.tables.records import FrameTable, PairPositions

logger = logging.getLogger(__name__)

FORMAT = "1"
"""Of the files; another one is another key."""
MEMORY = "digests.json"
_FRAMES, _MASKS, _PROPOSALS, _MADE_FROM = (
    "frames.arrow", "masks.arrow", "proposals.arrow", "made_from.json"
)  # fmt: skip
_SHOWN_TAKES = 20
"""Fewer are there before a bar could be read."""


@dataclass(frozen=True)
class MappedTables:
    """Frames, and the pairs manifest's rows with their places in them."""

    frames: FrameTable
    rows: pd.DataFrame
    ends: PairPositions


@dataclass(frozen=True)
class FrameRequest:
    """What one split and direction needs."""

    root: DatasetRoot
    rows: pd.DataFrame
    """Of the pairs manifest."""
    cameras: tuple[TakeCamera, ...]
    """Ascending."""
    need_proposals: tuple[TakeCamera, ...]
    """Those that must have been proposed for."""
    proposals: bool
    """Whether proposals are wanted at all."""


def open_digests(root: DatasetRoot) -> FileDigests:
    """Digests of the root's files, remembered from process to process."""
    return FileDigests(root.mapped / MEMORY)


def open_tables(root: DatasetRoot, unit: str, *, proposals: bool) -> MappedTables | None:
    """The mapped tables of the pairs `<split>.<direction>`; None where they are to be made."""
    digests = open_digests(root)
    try:
        return _open(root, unit, digests, proposals)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        logger.warning("the tables of %s in %s are made anew (%s)", unit, root.mapped, error)
        return None
    finally:
        digests.save()


def make_tables(wanted: FrameRequest, unit: str) -> MappedTables | None:
    """Write the files and map them; None where the root cannot be written to."""
    root = wanted.root
    try:
        root.mapped.mkdir(exist_ok=True)
        with file_lock(root.mapped / ".lock", "the tables"):
            # Whoever had the lock before may have made just these.
            if (found := open_tables(root, unit, proposals=wanted.proposals)) is not None:
                return found
            return _make(wanted, unit)
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s): this process reads the tables into its own memory",
            root.mapped,
            error,
        )
        return None


def _open(
    root: DatasetRoot, unit: str, digests: FileDigests, proposals: bool
) -> MappedTables | None:
    pairs = map_batch(_pairs_file(root, unit, proposals))
    about = pairs.schema.metadata or {}
    if about.get(b"made_from") != _pairs_key(root, unit, digests).encode():
        return None
    folder = root.mapped / path_component(about[b"frames"].decode())
    if not _is_fresh(root, folder, digests):
        return None
    return MappedTables(_map_frames(root, folder), *_rows_and_ends(pairs))


def _make(wanted: FrameRequest, unit: str) -> MappedTables:
    root = wanted.root
    _remove(root.mapped.glob(f"*{PARTIAL_SUFFIX}"))  # of a killed process: the lock is ours
    digests = open_digests(root)
    pairs_key = _pairs_key(root, unit, digests)
    frames, folder = _frames(wanted, digests)
    ends = find_pair_positions(frames, wanted.rows)
    rows = pa.Table.from_pandas(wanted.rows, preserve_index=False).combine_chunks()
    arrays = {name: rows[name].combine_chunks() for name in rows.column_names}
    places = {field.name: pa.array(getattr(ends, field.name)) for field in fields(PairPositions)}
    about = {"made_from": pairs_key, "frames": folder.name}
    path = _pairs_file(root, unit, wanted.proposals)
    with atomic_path(path) as partial:
        write_batch(partial, {**arrays, **places}, about)
    _remove_stale(root, digests)
    digests.save()
    return MappedTables(frames, *_rows_and_ends(map_batch(path)))


def _frames(wanted: FrameRequest, digests: FileDigests) -> tuple[FrameTable, Path]:
    """The frames of the wanted cameras: those that another direction had written, or new ones."""
    root = wanted.root
    inputs = {part: digests.of(part).hex() for part in _parts(wanted)}
    for camera in wanted.need_proposals:
        part = root.part("proposals", ".".join(camera))
        if inputs[part] == MISSING.hex():
            load_frames(root, [camera], need_proposals=[camera])  # raises, and says what to do
    told = {root.relative(part): digest for part, digest in inputs.items()}
    key = hash_texts([FORMAT, str(wanted.proposals), *map(str, wanted.cameras), *told.values()])
    folder = root.mapped / f"frames-{key}"
    if (shared := _intact(root, folder, digests)) is not None:
        return shared, folder
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")
    partial.mkdir()
    try:
        _write_frames(partial, wanted)
        (partial / _MADE_FROM).write_text(json.dumps(told))
        _remove([folder])
        partial.rename(folder)
    finally:
        _remove([partial])
    return _map_frames(root, folder), folder


def _intact(root: DatasetRoot, folder: Path, digests: FileDigests) -> FrameTable | None:
    """The frames of a folder that another direction made; None where there are none to be read."""
    try:
        return _map_frames(root, folder) if _is_fresh(root, folder, digests) else None
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None


def _write_frames(folder: Path, wanted: FrameRequest) -> None:
    """Take by take by the direct reader, so that memory holds one take."""
    takes = [list(cameras) for _, cameras in groupby(wanted.cameras, key=lambda one: one[0])]
    needed = set(wanted.need_proposals)
    rows: list[pd.DataFrame] = []
    counts: list[np.ndarray] = []
    with (
        open_progress(
            total=len(takes), desc="tables", unit="take", quiet=len(takes) < _SHOWN_TAKES
        ) as bar,
        MaskFile(folder / _MASKS, named=True) as masks,
        MaskFile(folder / _PROPOSALS, named=False) as proposals,
    ):
        for cameras in takes:
            need = needed & set(cameras)
            part = load_frames(
                wanted.root, cameras, proposals=wanted.proposals, need_proposals=need
            )
            rows.append(part.rows)
            counts.append(np.stack([np.diff(one.start) for one in (part.masks, part.proposals)]))
            masks.add(part.masks)
            proposals.add(part.proposals)
            bar.update()
        masks.write()
        proposals.write()
    table = pa.Table.from_pandas(pd.concat(rows, ignore_index=True), preserve_index=False)
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    masks_of, proposals_of = np.concatenate(counts, axis=1)
    ends = {"mask_end": np.cumsum(masks_of), "proposal_end": np.cumsum(proposals_of)}
    write_batch(folder / _FRAMES, {**columns, **{k: pa.array(v) for k, v in ends.items()}})


def _map_frames(root: DatasetRoot, folder: Path) -> FrameTable:
    table = map_batch(folder / _FRAMES)
    starts = {
        name: np.concatenate([[0], table.column(name).to_numpy()])
        for name in ("mask_end", "proposal_end")
    }
    return FrameTable(
        root=root,
        rows=_without(table, list(starts)).to_pandas(),
        masks=mapped_masks(map_batch(folder / _MASKS), starts["mask_end"]),
        proposals=mapped_masks(map_batch(folder / _PROPOSALS), starts["proposal_end"]),
    )


def _rows_and_ends(pairs: pa.RecordBatch) -> tuple[pd.DataFrame, PairPositions]:
    names = [field.name for field in fields(PairPositions)]
    ends = PairPositions(*(pairs.column(name).to_numpy() for name in names))
    return _without(pairs, names).to_pandas(), ends


def _without(batch: pa.RecordBatch, names: Sequence[str]) -> pa.Table:
    return pa.Table.from_batches([batch]).drop_columns(list(names)).replace_schema_metadata(None)


def _pairs_file(root: DatasetRoot, unit: str, proposals: bool) -> Path:
    return root.mapped / path_component(f"{unit}.arrow" if proposals else f"{unit}.masks.arrow")


def _pairs_key(root: DatasetRoot, unit: str, digests: FileDigests) -> str:
    return hash_texts([FORMAT, digests.of(root.part("pairs", unit)).hex()])


def _parts(wanted: FrameRequest) -> list[Path]:
    """The manifest parts that the frames are made from."""
    root = wanted.root
    names = [".".join(camera) for camera in wanted.cameras]
    parts = [root.part("masks", take) for take in sorted({take for take, _ in wanted.cameras})]
    parts += [root.part("frames", name) for name in names]
    return parts + [root.part("proposals", name) for name in names if wanted.proposals]


def _is_fresh(root: DatasetRoot, folder: Path, digests: FileDigests) -> bool:
    """Whether the manifests are still those that a folder was made from."""
    told: Mapping[str, Any] = json.loads((folder / _MADE_FROM).read_bytes())
    return all(digests.of(root.path / name).hex() == known for name, known in told.items())


def _remove_stale(root: DatasetRoot, digests: FileDigests) -> None:
    """Delete the folders that no pairs use, or whose manifests have changed."""
    used = set()
    for path in root.mapped.glob("*.arrow"):
        try:
            folder = root.mapped / path_component(
                (map_batch(path).schema.metadata or {})[b"frames"].decode()
            )
            fresh = _is_fresh(root, folder, digests)
        except (OSError, ValueError, KeyError, pa.ArrowException, DataError):
            fresh = False
        if fresh:
            used.add(folder)
        else:
            path.unlink(missing_ok=True)
    _remove(folder for folder in root.mapped.glob("frames-*") if folder not in used)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
