"""Frames, their masks, and pairs in memory; and which pairs have to be left out.

A *frame* here is one row of the frames manifest and is named by its position in `FrameTable`; its
rows are its visible ground-truth masks in object-name order and its proposals in proposal_idx
order. Knows no network, so that it loads without torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from egoexo_tools.arrays import Bool, Float32, Int8, Int64
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle import MaskRle

FRAME_KEY = ["take_uid", "camera", "frame_idx"]
STATES = ("visible", "absent", "unannotated")
VISIBLE, ABSENT, UNANNOTATED = range(3)


@dataclass(frozen=True)
class MasksByFrame:
    """Masks of many frames: those of frame f are rows start[f]..start[f + 1]."""

    start: Int64
    """(F + 1,)"""
    columns: MaskColumns
    labels: pa.Array | None = None
    """(n,) object names of ground-truth masks; None for proposals."""

    @property
    def names(self) -> tuple[str, ...]:
        """`labels` as text, made when asked for; empty for proposals."""
        return () if self.labels is None else tuple(self.labels.to_pylist())

    @property
    def boxes(self) -> Float32:
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

    def find(self, keys: pd.DataFrame) -> Int64:
        """Positions of (take_uid, camera, frame_idx) rows; -1 where there is no such frame."""
        return positions(self.rows[FRAME_KEY], keys)


@dataclass(frozen=True)
class PairPositions:
    """Where the source and destination of P pairs are; -1 where there is none."""

    source_frame: Int64
    """(P,) positions in the FrameTable."""
    dest_frame: Int64
    source_mask: Int64
    """(P,) rows of FrameTable.masks."""
    dest_mask: Int64


@dataclass(frozen=True)
class Pairs:
    """The pairs of one split and direction whose frames and source masks are at hand."""

    rows: pd.DataFrame
    """The pairs manifest's columns, in file order."""
    source_frame: Int64
    """(P,) positions in the FrameTable."""
    dest_frame: Int64
    source_mask: Int64
    """(P,) rows of FrameTable.masks."""
    dest_mask: Int64
    """(P,) rows of FrameTable.masks, -1 where the object is not visible."""
    state: Int8
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


def join(frames: FrameTable, rows: pd.DataFrame, ends: PairPositions) -> Dataset:
    """Rows of the pairs manifest with their ends; a pair without its source is left out by name."""
    state = pd.Categorical(rows["dest_state"], categories=list(STATES)).codes
    visible = state == VISIBLE
    pairs = Pairs(
        rows=rows,
        source_frame=ends.source_frame,
        dest_frame=ends.dest_frame,
        source_mask=ends.source_mask,
        dest_mask=np.where(visible, ends.dest_mask, -1),
        state=np.asarray(state, np.int8),
    )
    reasons = {
        "the source frame is not in the frames manifest": ends.source_frame < 0,
        "the destination frame is not in the frames manifest": ends.dest_frame < 0,
        "the source mask is not in the masks manifest": ends.source_mask < 0,
        "the destination mask is not in the masks manifest": visible & (ends.dest_mask < 0),
    }
    return leave_out(Dataset(frames=frames, pairs=pairs, left_out=[]), reasons)


def leave_out(dataset: Dataset, reasons: Mapping[str, Bool]) -> Dataset:
    """The dataset without the pairs that a reason's mask marks; they are added to `left_out`."""
    bad, left_out = _left_out(dataset.pairs.rows, reasons)
    pairs = dataset.pairs.take(~bad)
    return Dataset(frames=dataset.frames, pairs=pairs, left_out=[*dataset.left_out, *left_out])


def _left_out(rows: pd.DataFrame, reasons: Mapping[str, Bool]) -> tuple[Bool, list[dict[str, Any]]]:
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


def positions(known: pd.DataFrame, wanted: pd.DataFrame) -> Int64:
    """Row numbers of `wanted` rows in `known`, column by column in order; -1 where missing."""
    names = [f"key{i}" for i in range(known.shape[1])]
    index = pd.MultiIndex.from_frame(known.set_axis(names, axis=1))
    lookup = pd.MultiIndex.from_frame(wanted.iloc[:, : len(names)].set_axis(names, axis=1))
    if not index.is_unique:
        raise DataError("a manifest holds the same row twice; run its stage again with --overwrite")
    return np.asarray(index.get_indexer(lookup), np.int64)
