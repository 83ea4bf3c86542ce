"""Which proposals are near which: the hard negatives of a training sample.

Neighbours are proposals whose centroids are joined by Delaunay edges, over one to three steps.
`omama.matching.samples` draws from them. Legend: N proposals; centroids are (N, 2) as
x, y in any pixels, NaN for an empty mask.
"""

import numpy as np
import numpy.typing as npt
from scipy.spatial import Delaunay

from egoexo_tools.arrays import Bool, Float64, Int64

_PLACE_DECIMALS = 6
"""Centroids equal to this many decimals of a pixel are one place, however they were summed."""
_LINE_TOLERANCE = 1e-6
"""Points are on a line if they leave it by less than this share of its length."""


def adjacency(points: Float64, *, order: int = 2) -> Bool:
    """Centroids (N, 2) → who is whose neighbour within `order` Delaunay steps, (N, N), no diagonal.

    An empty mask has no neighbours and leaves the others' indices alone; proposals with one
    centroid are neighbours and share theirs; points on a line are neighbours along the line.
    """
    count = len(points)
    result = np.zeros((count, count), dtype=bool)
    present = np.flatnonzero(np.isfinite(points).all(axis=1))
    if len(present) == 0:
        return result
    rounded = points[present].round(_PLACE_DECIMALS)
    places, place_of = np.unique(rounded, axis=0, return_inverse=True)
    reach = _reach(_place_steps(places), order)
    place_of = place_of.reshape(-1)
    result[np.ix_(present, present)] = reach[np.ix_(place_of, place_of)]
    np.fill_diagonal(result, False)
    return result


def box_overlap(boxes_xywh: npt.ArrayLike, others_xywh: npt.ArrayLike) -> Float64:
    """IoU of boxes (N, 4) with others (..., 4), as (..., N); 0 where the union is empty."""
    boxes = np.asarray(boxes_xywh, dtype=np.float64).reshape(-1, 4)
    others = np.asarray(others_xywh, dtype=np.float64)[..., None, :]  # (..., 1, 4)
    low = np.maximum(boxes[:, :2], others[..., :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], others[..., :2] + others[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    union = boxes[:, 2:].prod(axis=1) + others[..., 2:].prod(axis=-1) - shared
    overlap: Float64 = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


def _reach(steps: Bool, order: int) -> Bool:
    """Who shares an edge, (n, n) → who is within `order` (at least 1) of them, oneself included.

    A matrix product would say the same, but BLAS wakes a thread a core for it, and where frames are
    read by as many threads they wait for each other: 16 ms of processor time a frame instead of 1.
    """
    steps = steps | np.eye(len(steps), dtype=bool)
    rows, columns = np.nonzero(steps)
    starts = np.searchsorted(rows, np.arange(len(steps)))
    reach = steps
    for _ in range(order - 1):
        reach = np.logical_or.reduceat(reach[columns], starts, axis=0)
    return reach


def _place_steps(places: Float64) -> Bool:
    """Different points (n, 2) → who shares a Delaunay edge, (n, n)."""
    count = len(places)
    steps = np.zeros((count, count), dtype=bool)
    line = _order_along_line(places)
    if line is not None:
        edges = np.stack([line[:-1], line[1:]], axis=1)
    else:
        triangulation = Delaunay(places)
        corners = triangulation.simplices
        edges = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])
        # Points too close to an edge for Qhull to use: neighbours of the nearest corner.
        edges = np.concatenate([edges, triangulation.coplanar[:, [0, 2]]])
    steps[edges[:, 0], edges[:, 1]] = True
    return steps | steps.T


def _order_along_line(places: Float64) -> Int64 | None:
    """The points' order (n,) if they lie on a line, else None. Qhull refuses such points."""
    offsets = places - places.mean(axis=0)
    _, spread, axes = np.linalg.svd(offsets, full_matrices=False)
    if len(places) > 2 and spread[1] > _LINE_TOLERANCE * spread[0]:
        return None
    return np.argsort(offsets @ axes[0])
