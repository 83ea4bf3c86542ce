"""The tables of a root as training and prediction use them: frames, their masks, and pairs.

Reads the manifests frames, masks, proposals (where asked for) and pairs; knows no network, so that
it loads without torch. A *frame* here is one row of the frames
manifest and is named by its position in `FrameTable`; its rows are its visible ground-truth
masks in object-name order and its proposals in proposal_idx order. Both `omama features` and
the readers of its cache build the table by the same function, so that rows agree.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import SCHEMAS, read_manifest
from egoexo_tools.masks.columns import COLUMNS, MaskColumns
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.vocab import Direction, Split

Int: TypeAlias = NDArray[np.int64]
Camera: TypeAlias = tuple[str, str]
"""(take_uid, camera): what the frames and proposals manifests have one part for."""

FRAME_KEY = ["take_uid", "camera", "frame_idx"]
_RLE = [*COLUMNS, "bbox_xywh"]
STATES = ("visible", "absent", "unannotated")
VISIBLE, ABSENT, UNANNOTATED = range(3)


@dataclass(frozen=True)
class MasksByFrame:
    """Masks of many frames: those of frame f are rows start[f]..start[f + 1]."""

    start: Int
    """(F + 1,)"""
    columns: MaskColumns
    names: tuple[str, ...] = ()
    """(n,) object names of ground-truth masks; empty for proposals."""

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(n, 4) xywh in pixels of the masks' own size."""
        assert self.columns.boxes is not None  # the manifests have them
        return self.columns.boxes

    def rle(self, row: int) -> MaskRle:
        return self.columns.rle(row)

    def of_frame(self, frame: int) -> MaskColumns:
        """The masks of a frame, without copying a text."""
        return self.columns.slice(int(self.start[frame]), int(self.start[frame + 1]))

    def count(self, frame: int) -> int:
        return int(self.start[frame + 1] - self.start[frame])


@dataclass(frozen=True)
class FrameTable:
    """The frames of some cameras, in (take_uid, camera, frame_idx) order."""

    root: DatasetRoot
    rows: pd.DataFrame
    """take_uid, camera, frame_idx, path, height, width, source_height, source_width."""
    masks: MasksByFrame
    proposals: MasksByFrame
    """None of any frame where the table was loaded without them."""

    def __len__(self) -> int:
        return len(self.rows)

    def path(self, frame: int) -> Path:
        return self.root.path / str(self.rows["path"].iloc[frame])

    def name(self, frame: int) -> str:
        take_uid, camera, frame_idx = self.rows[FRAME_KEY].iloc[frame]
        return f"{take_uid}/{camera}/{frame_idx}"

    def find(self, keys: pd.DataFrame) -> Int:
        """Positions of (take_uid, camera, frame_idx) rows; -1 where there is no such frame."""
        return _positions(self.rows[FRAME_KEY], keys)


@dataclass(frozen=True)
class Pairs:
    """The pairs of one split and direction whose frames and source masks are at hand."""

    rows: pd.DataFrame
    """The pairs manifest's columns, in file order."""
    source_frame: Int
    """(P,) positions in the FrameTable."""
    dest_frame: Int
    source_mask: Int
    """(P,) rows of FrameTable.masks."""
    dest_mask: Int
    """(P,) rows of FrameTable.masks, -1 where the object is not visible."""
    state: NDArray[np.int8]
    """(P,) VISIBLE, ABSENT or UNANNOTATED."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> list[str]:
        return [str(pair_id) for pair_id in self.rows["pair_id"]]

    def take(self, idxs: NDArray[Any]) -> "Pairs":
        """Some of the pairs, by index or by boolean mask."""
        return Pairs(
            rows=self.rows.iloc[np.flatnonzero(idxs) if idxs.dtype == np.bool_ else idxs],
            source_frame=self.source_frame[idxs],
            dest_frame=self.dest_frame[idxs],
            source_mask=self.source_mask[idxs],
            dest_mask=self.dest_mask[idxs],
            state=self.state[idxs],
        )


@dataclass(frozen=True)
class Dataset:
    """Frames, the pairs between them, and what had to be left out, as rows of exclusions."""

    frames: FrameTable
    pairs: Pairs
    left_out: list[dict[str, Any]]


def load_dataset(
    root: DatasetRoot, *, split: Split, direction: Direction, proposals: bool = True
) -> Dataset:
    """The pairs of a split and direction with their frames, masks and proposals.

    Without `proposals` none are read, and none need be made: for a method that paints its own
    masks. Raises DataError where a manifest is missing or the split has no pairs.
    """
    rows = read_manifest(root, "pairs", units=[f"{split}.{direction}"]).to_pandas()
    if rows.empty:
        raise DataError(
            f"{root.path} has no {split} pairs of {direction}; look at `egoexo-tools stats` for "
            "the takes of that split, then run `egoexo-tools pairs` again"
        )
    sources = _cameras(rows, "source_camera")
    dests = _cameras(rows, "dest_camera")
    cameras = sorted({*sources, *dests})
    frames = load_frames(root, cameras, proposals=proposals, need_proposals=dests)
    return _resolve(frames, rows)


def load_frames(
    root: DatasetRoot,
    cameras: Sequence[Camera],
    *,
    proposals: bool = True,
    need_proposals: Iterable[Camera] = (),
) -> FrameTable:
    """Every frame of some cameras, with its masks and, if asked for, its proposals.

    A camera in `need_proposals` must have been proposed for; of the others those that there are
    are read.
    """
    units = [f"{take_uid}.{camera}" for take_uid, camera in cameras]
    columns = [*FRAME_KEY, "path", "height", "width", "source_height", "source_width"]
    # Parts come in name order, and a part holds one camera: sort to be sure of the frames too.
    rows = read_manifest(root, "frames", columns=columns, units=units).to_pandas()
    rows = rows.sort_values(FRAME_KEY, ignore_index=True)
    return FrameTable(
        root=root,
        rows=rows,
        masks=_load_masks(root, rows, cameras),
        proposals=_load_proposals(root, rows, units, need_proposals)
        if proposals
        else _by_frame(rows, _no_proposals(), order_by="proposal_idx"),
    )


def _load_masks(root: DatasetRoot, frames: pd.DataFrame, cameras: Sequence[Camera]) -> MasksByFrame:
    table = read_manifest(
        root,
        "masks",
        units={take_uid for take_uid, _ in cameras},
        filters=ds.field("visible") & ds.field("camera").isin([camera for _, camera in cameras]),
        columns=[*FRAME_KEY, "object_name", *_RLE],
    )
    return _by_frame(frames, table, order_by="object_name")


def _load_proposals(
    root: DatasetRoot, frames: pd.DataFrame, units: Sequence[str], needed: Iterable[Camera]
) -> MasksByFrame:
    wanted = {f"{take_uid}.{camera}" for take_uid, camera in needed}
    found = {unit for unit in units if root.part("proposals", unit).exists()}
    table = _no_proposals()
    if found | wanted:
        table = read_manifest(root, "proposals", units=found | wanted, columns=table.column_names)
    return _by_frame(frames, table, order_by="proposal_idx")


def _no_proposals() -> pa.Table:
    return SCHEMAS["proposals"].empty_table().select([*FRAME_KEY, "proposal_idx", *_RLE])


def _by_frame(frames: pd.DataFrame, table: pa.Table, *, order_by: str) -> MasksByFrame:
    """Group the rows of a table by frame; rows of frames that are not in `frames` fall away."""
    keys = table.select([*FRAME_KEY, order_by]).to_pandas()
    keys["frame"] = _positions(frames[FRAME_KEY], keys)
    keys = keys[keys["frame"] >= 0].sort_values(["frame", order_by], kind="stable")
    table = table.take(pa.array(keys.index.to_numpy(np.int64)))
    named = order_by == "object_name"
    return MasksByFrame(
        start=np.searchsorted(keys["frame"].to_numpy(), np.arange(len(frames) + 1)),
        columns=MaskColumns.from_table(table),
        names=tuple(keys["object_name"]) if named else (),
    )


def _resolve(frames: FrameTable, rows: pd.DataFrame) -> Dataset:
    """Find the frames and masks of each pair; a pair without its source is left out by name."""
    ends = {
        side: frames.find(rows[["take_uid", f"{side}_camera", "frame_idx"]])
        for side in ("source", "dest")
    }
    mask_frame = np.repeat(np.arange(len(frames)), np.diff(frames.masks.start))
    known = pd.DataFrame({"frame": mask_frame, "name": list(frames.masks.names)})
    masks = {
        side: _positions(known, pd.DataFrame({"frame": at, "name": rows["object_name"]}))
        for side, at in ends.items()
    }
    state = pd.Categorical(rows["dest_state"], categories=list(STATES)).codes
    pairs = Pairs(
        rows=rows,
        source_frame=ends["source"],
        dest_frame=ends["dest"],
        source_mask=masks["source"],
        dest_mask=np.where(state == VISIBLE, masks["dest"], -1),
        state=np.asarray(state, np.int8),
    )
    reasons = {
        "the source frame is not in the frames manifest": ends["source"] < 0,
        "the destination frame is not in the frames manifest": ends["dest"] < 0,
        "the source mask is not in the masks manifest": masks["source"] < 0,
        "the destination mask is not in the masks manifest": (state == VISIBLE)
        & (masks["dest"] < 0),
    }
    bad, left_out = _left_out(rows, reasons)
    return Dataset(frames=frames, pairs=pairs.take(~bad), left_out=left_out)


def leave_out(dataset: Dataset, reasons: dict[str, NDArray[np.bool_]]) -> Dataset:
    """The dataset without the pairs that a reason's mask marks; they are added to `left_out`."""
    bad, left_out = _left_out(dataset.pairs.rows, reasons)
    pairs = dataset.pairs.take(~bad)
    return Dataset(frames=dataset.frames, pairs=pairs, left_out=[*dataset.left_out, *left_out])


def _left_out(
    rows: pd.DataFrame, reasons: dict[str, NDArray[np.bool_]]
) -> tuple[NDArray[np.bool_], list[dict[str, Any]]]:
    bad = np.zeros(len(rows), np.bool_)
    left_out = []
    for reason, marked in reasons.items():
        for row in rows[marked & ~bad].itertuples():
            left_out.append(
                {
                    "take_uid": row.take_uid,
                    "camera": row.dest_camera,
                    "object_name": row.object_name,
                    "frame_idx": row.frame_idx,
                    "reason": f"{row.pair_id}: {reason}",
                }
            )
        bad |= marked
    return bad, left_out


def _cameras(rows: pd.DataFrame, column: str) -> set[Camera]:
    unique = rows[["take_uid", column]].drop_duplicates()
    return {(str(take_uid), str(camera)) for take_uid, camera in unique.itertuples(index=False)}


def _positions(known: pd.DataFrame, wanted: pd.DataFrame) -> Int:
    """Row numbers of `wanted` rows in `known`, column by column in order; -1 where missing."""
    names = [f"key{i}" for i in range(known.shape[1])]
    index = pd.MultiIndex.from_frame(known.set_axis(names, axis=1))
    lookup = pd.MultiIndex.from_frame(wanted.iloc[:, : len(names)].set_axis(names, axis=1))
    if not index.is_unique:
        raise DataError("a manifest holds the same row twice; run its stage again with --overwrite")
    return np.asarray(index.get_indexer(lookup), np.int64)
