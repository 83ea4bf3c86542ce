"""Relations between the ground-truth masks and the proposals of one frame.

IoUs, and which proposals are near which ground truth (for hard negatives). Boxes and centroids come
from `omama.features.frame_masks`. Legend: M ground-truth masks, N proposals.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egoexo_tools.arrays import Bool, Float32, Float64, Int64
from omama.features.negatives import adjacency, box_overlap


@dataclass(frozen=True)
class MaskRelations:
    """Relations between the masks of one frame."""

    ious: Float32
    """(M, N) IoU of ground truth and proposal, at the proposals' size."""
    best: Int64
    """(M,) the proposal whose box overlaps that of the ground truth most; 0 where N = 0."""
    near: Bool
    """(M, N) whether a proposal is a second-order Delaunay neighbour of `best`, and not `best`."""


def relate_masks(
    truth_boxes: NDArray[np.floating],
    proposal_boxes: NDArray[np.floating],
    centroids: Float64,
    ious: Float32,
) -> MaskRelations:
    """Boxes (M, 4) and (N, 4) xywh and centroids (N, 2), all in pixels of the prepared image."""
    best, near = np.zeros(ious.shape[0], np.int64), np.zeros(ious.shape, np.bool_)
    # argmax and Delaunay fail without proposals; without ground truth there is nothing to relate.
    if ious.size:
        best = box_overlap(proposal_boxes, truth_boxes).argmax(axis=1)
        near = adjacency(centroids, order=2)[best]
        near[np.arange(best.size), best] = False
    return MaskRelations(ious=ious, best=best, near=near)
