"""Frames, their masks, and pairs in memory.

A *frame* is a row of the frames manifest and is named by its position in `FrameTable`. It has its
visible ground-truth masks in object-name order and its proposals in proposal_idx order.
`omama.tables` loads these records. No torch here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from egoexo_tools.aliases import Row
from egoexo_tools.arrays import Bool, Float32, Int8, Int64
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle import MaskRle

FRAME_KEY = ["take_uid", "camera", "frame_idx"]
STATES = ("visible", "absent", "unannotated")
"""Values of the pairs manifest's `dest_state`."""
VISIBLE, ABSENT, UNANNOTATED = range(3)
"""Positions in STATES."""


@dataclass(frozen=True)
class MasksByFrame:
    """Masks of many frames: frame f has the rows start[f]..start[f + 1]."""

    start: Int64
    """(F + 1,)"""
    columns: MaskColumns
    """n masks."""
    labels: pa.Array | None = None
    """(n,) object names of ground-truth masks; None for proposals."""

    @property
    def names(self) -> tuple[str, ...]:
        """`labels` as text; empty for proposals."""
        return () if self.labels is None else tuple(self.labels.to_pylist())

    @property
    def boxes(self) -> Float32:
        """(n, 4) xywh in pixels of the masks' own size."""
        assert self.columns.boxes is not None  # the manifests contain them
        return self.columns.boxes

    @property
    def frames(self) -> Int64:
        """(n,) the frame of each mask."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))

    def rle(self, row: int) -> MaskRle:
        return self.columns.rle(row)

    def of_frame(self, frame: int) -> MaskColumns:
        """The masks of a frame; their texts are not copied."""
        return self.columns.slice(int(self.start[frame]), int(self.start[frame + 1]))


@dataclass(frozen=True)
class FrameTable:
    """The frames of some cameras, in (take_uid, camera, frame_idx) order."""

    root: DatasetRoot
    rows: pd.DataFrame
    """take_uid, camera, frame_idx, path, height, width, source_height, source_width, digest."""
    masks: MasksByFrame
    """Ground truth."""
    proposals: MasksByFrame
    """Empty if the table was loaded without proposals."""

    def __len__(self) -> int:
        return len(self.rows)

    def path(self, frame: int) -> Path:
        return self.root.path / str(self.rows["path"].iloc[frame])

    def name(self, frame: int) -> str:
        take_uid, camera, frame_idx = self.rows[FRAME_KEY].iloc[frame]
        return f"{take_uid}/{camera}/{frame_idx}"


@dataclass(frozen=True)
class PairPositions:
    """Positions of the frames and masks of P pairs; -1 if a pair has none."""

    source_frame: Int64
    """(P,) positions in the FrameTable."""
    dest_frame: Int64
    """(P,) positions in the FrameTable."""
    source_mask: Int64
    """(P,) rows of FrameTable.masks."""
    dest_mask: Int64
    """(P,) rows of FrameTable.masks; -1 if the object is not visible."""


@dataclass(frozen=True)
class Pairs(PairPositions):
    """The pairs of a split and direction whose frames and source masks exist."""

    rows: pd.DataFrame
    """The pairs manifest's columns, in file order."""
    state: Int8
    """(P,) VISIBLE, ABSENT or UNANNOTATED."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> list[str]:
        return [str(pair_id) for pair_id in self.rows["pair_id"]]

    def take(self, idxs: Int64 | Bool) -> "Pairs":
        """Some of the pairs, by index or by boolean mask."""
        arrays = {
            item.name: getattr(self, item.name)[idxs]
            for item in fields(self)
            if item.name != "rows"
        }
        rows = self.rows.iloc[np.flatnonzero(idxs) if idxs.dtype == np.bool_ else idxs]
        return Pairs(rows=rows, **arrays)


@dataclass(frozen=True)
class Dataset:
    """Frames and the pairs between them."""

    frames: FrameTable
    pairs: Pairs
    left_out: list[Row]
    """Rows of exclusions: the pairs of the manifest that cannot be used, with the reason."""


def make_dataset(frames: FrameTable, rows: pd.DataFrame, positions: PairPositions) -> Dataset:
    """Rows of the pairs manifest with their positions; incomplete pairs are left out."""
    state = np.asarray(pd.Categorical(rows["dest_state"], categories=list(STATES)).codes, np.int8)
    visible = state == VISIBLE
    source_frame, dest_frame = positions.source_frame, positions.dest_frame
    source_mask, dest_mask = positions.source_mask, positions.dest_mask
    pairs = Pairs(
        source_frame, dest_frame, source_mask, np.where(visible, dest_mask, -1), rows, state
    )
    reasons = {
        "the source frame is not in the frames manifest": source_frame < 0,
        "the destination frame is not in the frames manifest": dest_frame < 0,
        "the source mask is not in the masks manifest": source_mask < 0,
        "the destination mask is not in the masks manifest": visible & (dest_mask < 0),
    }
    return leave_out(Dataset(frames, pairs, []), reasons)


def leave_out(dataset: Dataset, reasons: Mapping[str, Bool]) -> Dataset:
    """The dataset without the pairs that any of the reasons marks; `left_out` grows by them.

    A pair that several reasons mark is listed with the first.
    """
    rows = dataset.pairs.rows
    excluded = np.zeros(len(rows), np.bool_)
    left_out = list(dataset.left_out)
    for reason, marks in reasons.items():
        for row in rows[marks & ~excluded].itertuples():
            left_out.append(
                {
                    "take_uid": row.take_uid,
                    "camera": row.dest_camera,
                    "object_name": row.object_name,
                    "frame_idx": row.frame_idx,
                    "reason": f"{row.pair_id}: {reason}",
                }
            )
        excluded |= marks
    return replace(dataset, pairs=dataset.pairs.take(~excluded), left_out=left_out)


def find_rows(table: pd.DataFrame, keys: pd.DataFrame) -> Int64:
    """Row number in `table` of each row of `keys`, -1 if there is none.

    Columns are compared by position; further columns of `keys` are ignored. Raises DataError for a
    table with equal rows.
    """
    names = [f"key{i}" for i in range(table.shape[1])]
    index = pd.MultiIndex.from_frame(table.set_axis(names, axis=1))
    lookup = pd.MultiIndex.from_frame(keys.iloc[:, : len(names)].set_axis(names, axis=1))
    if not index.is_unique:
        raise DataError("a manifest holds the same row twice; run its stage again with --overwrite")
    return np.asarray(index.get_indexer(lookup), np.int64)
