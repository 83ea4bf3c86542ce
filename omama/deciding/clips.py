"""A clip: the annotated frames of a take, seen from one source camera in one destination camera.

All its tracks lie in dense arrays, so that deciding is arithmetic on matrices. Legend: T frames in
time order, O objects in name order, K candidates of a pair, W values of an embedding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoexo_tools.arrays import Bool, Float32, Int64
from egoexo_tools.vocab import View, view_of
from omama.dataset import Dataset, MasksByFrame
from omama.deciding.candidates import Candidates
from omama.deciding.overlaps import mask_ious


@dataclass(frozen=True)
class Clip:
    """The pairs of one (take, source camera, destination camera); pair row i is at time, item."""

    row: Int64
    """(n,) positions in `Candidates`."""
    time: Int64
    """(n,) 0..T - 1"""
    item: Int64
    """(n,) 0..O - 1"""
    frame_idx: Int64
    """(T,) ascending"""
    moves: bool
    """Whether the destination camera is worn, so that what stands still moves in its picture."""
    exists: Bool
    """(T, O) whether there is a pair."""
    proposal: Int64
    """(T, O, K) -1 where none."""
    similarity: Float32
    """(T, O, K) -inf where none."""
    source: Float32
    """(T, O, W)"""
    embedding: Float32
    """(T, O, K, W)"""
    look: Float32
    """(T, O, K, C)"""
    boxes: Float32
    """(T, O, K, 4) x_min, y_min, x_max, y_max in shares of the image's width."""
    source_boxes: Float32
    """(T, O, 4) the same of the source masks, in their own image."""
    overlap: Float32
    """(T, O * K, O * K) IoU of the masks of a frame's candidates; 0 where there is none."""

    @cached_property
    def own_overlap(self) -> Float32:
        """(T, O, K, K) of a pair's candidates among themselves."""
        frames, items, top = self.proposal.shape
        blocks = self.overlap.reshape(frames, items, top, items, top)
        at = np.arange(items)
        return np.ascontiguousarray(np.moveaxis(blocks[:, at, :, at], 0, 1))


def clips(dataset: Dataset, found: Candidates) -> Iterator[Clip]:
    """The clips of some pairs, in table order."""
    rows = dataset.pairs.rows.iloc[found.pair]
    keys = ["take_uid", "source_camera", "dest_camera"]
    for (_, _, camera), part in rows.assign(_at=np.arange(len(rows))).groupby(keys, sort=True):
        yield _clip(dataset, found, part["_at"].to_numpy(np.int64), str(camera))


def _clip(dataset: Dataset, found: Candidates, row: Int64, camera: str) -> Clip:
    pairs = dataset.pairs.rows.iloc[found.pair[row]]
    frame_idx, time = np.unique(pairs["frame_idx"].to_numpy(np.int64), return_inverse=True)
    names, item = np.unique(pairs["object_name"].to_numpy(str), return_inverse=True)
    shape = (frame_idx.size, names.size)

    def dense(values: NDArray[Any], filler: float) -> NDArray[Any]:
        out = np.full((*shape, *values.shape[1:]), filler, values.dtype)
        out[time, item] = values[row]
        return out

    proposal = dense(found.proposal, -1)
    frames = np.full(shape[0], -1)
    frames[time] = dataset.pairs.dest_frame[found.pair[row]]
    exists = np.zeros(shape, np.bool_)
    exists[time, item] = True
    return Clip(
        row=row,
        time=time,
        item=item,
        frame_idx=frame_idx,
        moves=view_of(camera) is View.EGO,
        exists=exists,
        proposal=proposal,
        similarity=dense(found.similarity, -np.inf),
        source=dense(found.source, 0).astype(np.float32),
        embedding=dense(found.embedding, 0).astype(np.float32),
        look=dense(found.look, 0).astype(np.float32),
        boxes=_boxes(dataset, frames, proposal),
        source_boxes=dense(_shares(dataset.frames.masks, dataset.pairs.source_mask[found.pair]), 0),
        overlap=_overlap(dataset, frames, proposal),
    )


def _boxes(dataset: Dataset, frames: Int64, proposal: Int64) -> Float32:
    proposals = dataset.frames.proposals
    out = np.zeros((*proposal.shape, 4), np.float32)
    is_one = proposal >= 0
    rows = (proposals.start[frames][:, None, None] + proposal)[is_one]
    out[is_one] = _shares(proposals, rows)
    return out


def _shares(masks: MasksByFrame, rows: Int64) -> Float32:
    """(n, 4) corners of masks' boxes in shares of their image's width."""
    xywh = masks.boxes[rows]
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:] + 1], axis=1)
    return np.asarray(corners / masks.columns.widths[rows, None], np.float32)


def _overlap(dataset: Dataset, frames: Int64, proposal: Int64) -> Float32:
    flat = proposal.reshape(len(proposal), -1)
    out = np.zeros((len(flat), flat.shape[1], flat.shape[1]), np.float32)
    for time, frame in enumerate(frames.tolist()):
        chosen, which = np.unique(flat[time], return_inverse=True)
        first = int(chosen.size > 0 and chosen[0] < 0)  # -1 sorts first
        ious = np.zeros((chosen.size, chosen.size), np.float32)
        ious[first:, first:] = mask_ious(dataset.frames.proposals.of_frame(frame), chosen[first:])
        out[time] = ious[which[:, None], which[None, :]]
    return out
