"""What training and validation need to know of a frame's masks besides their features.

Everything here follows from run lengths alone, in pixels of the prepared image: boxes for the
context part, who is near whom for the negatives, and how well each proposal covers each ground
truth. Legend: M ground-truth masks, N proposals of one frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from egoexo_tools.masks import MaskRle
from omama.negatives import adjacency, box_overlap

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class FrameShape:
    """The masks of one frame in relation to each other."""

    ious: Floats
    """(M, N) IoU of ground truth and proposal, at the proposals' size."""
    best: NDArray[np.int64]
    """(M,) the proposal whose box overlaps that of the ground truth most; 0 where N = 0."""
    near: NDArray[np.bool_]
    """(M, N) second-order Delaunay neighbours of `best`, itself not among them."""


def frame_shape(
    masks: Sequence[MaskRle],
    mask_boxes: NDArray[np.floating],
    proposals: Sequence[MaskRle],
    proposal_boxes: NDArray[np.floating],
    prepared_hw: tuple[int, int],
) -> FrameShape:
    """Boxes are xywh in pixels of the prepared image, (M, 4) and (N, 4)."""
    shape = (len(masks), len(proposals))
    best, near = np.zeros(shape[0], np.int64), np.zeros(shape, np.bool_)
    if all(shape):
        overlaps = [box_overlap(proposal_boxes, box) for box in mask_boxes]
        best = np.argmax(overlaps, axis=1)
        near = adjacency(centroids(proposals, prepared_hw), order=2)[best]
        near[np.arange(shape[0]), best] = False
    return FrameShape(ious=mask_ious(masks, proposals), best=best, near=near)


def centroids(rles: Sequence[MaskRle], prepared_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Mean x, y of each mask's pixels (N, 2), in pixels of the prepared image; NaN if empty.

    Straight from the run lengths: the sums of x and y over a stretch of column-major positions
    have closed forms.
    """
    points = np.full((len(rles), 2), np.nan)
    for i, rle in enumerate(rles):
        ends = np.cumsum(rle.runs())
        starts, stops = ends[0:-1:2], ends[1::2]
        area = (stops - starts).sum()
        if area:
            x_sum, y_sum = (_sums(stops, rle.height) - _sums(starts, rle.height)).sum(axis=1)
            scale = (prepared_hw[1] / rle.width, prepared_hw[0] / rle.height)
            points[i] = x_sum / area * scale[0], y_sum / area * scale[1]
    return points


def mask_ious(masks: Sequence[MaskRle], proposals: Sequence[MaskRle]) -> Floats:
    """(M, N) IoU at the proposals' size; ground truth of another size is resized nearest."""
    if not masks or not proposals:
        return np.zeros((len(masks), len(proposals)), np.float32)
    size = (proposals[0].height, proposals[0].width)
    truths = [
        rle if (rle.height, rle.width) == size else MaskRle.encode(rle.decode_at(*size))
        for rle in masks
    ]
    ious = coco.iou(
        [rle.to_json() for rle in truths],
        [rle.to_json() for rle in proposals],
        [0] * len(proposals),
    )
    return np.nan_to_num(np.asarray(ious, np.float32))  # two empty masks: no overlap to learn from


def _sums(positions: NDArray[np.int64], height: int) -> NDArray[np.float64]:
    """Sums of x and of y over the column-major positions before each of (R,), as (2, R)."""
    columns, rest = np.divmod(positions.astype(np.float64), height)
    x = height * columns * (columns - 1) / 2 + columns * rest
    y = columns * (height * (height - 1) / 2) + rest * (rest - 1) / 2
    return np.stack([x, y])
