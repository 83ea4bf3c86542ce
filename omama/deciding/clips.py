"""A clip: the annotated frames of a take, seen from one source camera in one destination camera.

All tracks of a clip are dense arrays, so that decisions are arithmetic on matrices. Legend:
T frames in time order, O objects in name order, K candidates of a pair, W values of an embedding,
C channels of the backbone. Boxes are x_min, y_min, x_max, y_max as fractions of the image's width.
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
    """The pairs of one (take, source camera, destination camera).

    Pair i of n is row `row[i]` of the candidates; in the dense arrays it is at (time[i], item[i]).
    """

    row: Int64
    """(n,) positions in `Candidates`."""
    time: Int64
    """(n,) 0..T - 1"""
    item: Int64
    """(n,) 0..O - 1"""
    frame_idx: Int64
    """(T,) ascending"""
    camera_moves: bool
    """Whether the destination camera is worn, so that static objects move in its image."""
    exists: Bool
    """(T, O) whether there is a pair."""
    proposal: Int64
    """(T, O, K) proposal_idx, -1 for padding."""
    similarity: Float32
    """(T, O, K) -inf for padding."""
    source_embedding: Float32
    """(T, O, W)"""
    embedding: Float32
    """(T, O, K, W)"""
    appearance: Float32
    """(T, O, K, C)"""
    boxes: Float32
    """(T, O, K, 4) of the candidates."""
    source_boxes: Float32
    """(T, O, 4) of the source masks, in their own image."""
    overlap: Float32
    """(T, O * K, O * K) IoU of the masks of a frame's candidates; 0 for padding."""

    @cached_property
    def own_overlap(self) -> Float32:
        """(T, O, K, K) the part of `overlap` between candidates of one pair."""
        frames, items, top = self.proposal.shape
        blocks = self.overlap.reshape(frames, items, top, items, top)
        diagonal = np.arange(items)
        return np.ascontiguousarray(np.moveaxis(blocks[:, diagonal, :, diagonal], 0, 1))


def make_clips(dataset: Dataset, candidates: Candidates) -> Iterator[Clip]:
    """The clips of the candidates' pairs, sorted by take and cameras."""
    pairs = dataset.pairs.rows.iloc[candidates.pair]
    keys = ["take_uid", "source_camera", "dest_camera"]
    for (_, _, camera), rows in pairs.assign(_row=np.arange(len(pairs))).groupby(keys, sort=True):
        yield _make_clip(dataset, candidates, rows["_row"].to_numpy(np.int64), str(camera))


def _make_clip(dataset: Dataset, candidates: Candidates, row: Int64, dest_camera: str) -> Clip:
    pairs = dataset.pairs.rows.iloc[candidates.pair[row]]
    frame_idx, time = np.unique(pairs["frame_idx"].to_numpy(np.int64), return_inverse=True)
    names, item = np.unique(pairs["object_name"].to_numpy(str), return_inverse=True)
    shape = (frame_idx.size, names.size)

    def dense(values: NDArray[Any], filler: float) -> NDArray[Any]:
        """(P, ...) → (T, O, ...)."""
        out = np.full((*shape, *values.shape[1:]), filler, values.dtype)
        out[time, item] = values[row]
        return out

    proposal = dense(candidates.proposal, -1)
    dest_frames = np.full(shape[0], -1)
    dest_frames[time] = dataset.pairs.dest_frame[candidates.pair[row]]
    exists = np.zeros(shape, np.bool_)
    exists[time, item] = True

    # Fractions of the width on both axes, so that distances are the same in all directions.
    boxes = np.zeros((*proposal.shape, 4), np.float32)
    is_proposal = proposal >= 0
    first_rows = dataset.frames.proposals.start[dest_frames][:, None, None]
    mask_rows = (first_rows + proposal)[is_proposal]
    boxes[is_proposal] = _relative_boxes(dataset.frames.proposals, mask_rows)
    source_masks = dataset.pairs.source_mask[candidates.pair]
    return Clip(
        row=row,
        time=time,
        item=item,
        frame_idx=frame_idx,
        camera_moves=view_of(dest_camera) is View.EGO,
        exists=exists,
        proposal=proposal,
        similarity=dense(candidates.similarity, -np.inf),
        # NumPy multiplies float16 matrices without BLAS, which is many times slower.
        source_embedding=dense(candidates.source_embedding, 0).astype(np.float32),
        embedding=dense(candidates.embedding, 0).astype(np.float32),
        appearance=dense(candidates.appearance, 0).astype(np.float32),
        boxes=boxes,
        source_boxes=dense(_relative_boxes(dataset.frames.masks, source_masks), 0),
        overlap=_overlap(dataset, dest_frames, proposal),
    )


def _relative_boxes(masks: MasksByFrame, rows: Int64) -> Float32:
    """(n, 4) boxes of some masks."""
    xywh = masks.boxes[rows]
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:] + 1], axis=1)
    return np.asarray(corners / masks.columns.widths[rows, None], np.float32)


def _overlap(dataset: Dataset, dest_frames: Int64, proposal: Int64) -> Float32:
    """(T, O * K, O * K); a proposal that is a candidate of several objects is compared once."""
    flat = proposal.reshape(len(proposal), -1)
    out = np.zeros((len(flat), flat.shape[1], flat.shape[1]), np.float32)
    for time, frame in enumerate(dest_frames.tolist()):
        unique, position = np.unique(flat[time], return_inverse=True)
        first = int(unique.size > 0 and unique[0] < 0)  # -1 sorts first
        ious = np.zeros((unique.size, unique.size), np.float32)
        ious[first:, first:] = mask_ious(dataset.frames.proposals.of_frame(frame), unique[first:])
        out[time] = ious[position[:, None], position[None, :]]
    return out
