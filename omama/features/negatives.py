"""Neighbouring proposals: the hard negatives of a training sample.

Neighbours are proposals whose centroids are connected by one to three Delaunay edges.
`omama.matching.samples` draws from them. Legend: N proposals; centroids are (N, 2) as x, y in
pixels, NaN for an empty mask.
"""

import numpy as np
import numpy.typing as npt
from scipy.spatial import Delaunay

from egoexo_tools.arrays import Bool, Float64, Int64

_PLACE_DECIMALS = 6
"""Centroids that agree to this many decimals of a pixel are one place: sums of the same pixels in
another order differ in later digits."""
_LINE_TOLERANCE = 1e-6
"""Points are on a line if their distance from it is below this share of its length."""


def adjacency(points: Float64, *, order: int = 2) -> Bool:
    """Centroids (N, 2) → (N, N) whether two are neighbours within `order` Delaunay edges.

    The diagonal is False. An empty mask has no neighbours and does not change the others' indices.
    Proposals with the same centroid are neighbours and have the same neighbours. Points on a line
    are neighbours along the line.
    """
    count = len(points)
    result = np.zeros((count, count), dtype=bool)
    present = np.flatnonzero(np.isfinite(points).all(axis=1))
    if len(present) == 0:
        return result
    rounded = points[present].round(_PLACE_DECIMALS)
    places, place_of = np.unique(rounded, axis=0, return_inverse=True)
    reach = _reach(_delaunay_edges(places), order)
    place_of = place_of.reshape(-1)  # NumPy 2.0 gives it two dimensions
    result[np.ix_(present, present)] = reach[np.ix_(place_of, place_of)]
    np.fill_diagonal(result, False)
    return result


def box_overlap(boxes_xywh: npt.ArrayLike, references_xywh: npt.ArrayLike) -> Float64:
    """IoU of boxes (N, 4) with references (..., 4), as (..., N); 0 where the union is empty."""
    boxes = np.asarray(boxes_xywh, dtype=np.float64).reshape(-1, 4)
    references = np.asarray(references_xywh, dtype=np.float64)[..., None, :]  # (..., 1, 4)
    low = np.maximum(boxes[:, :2], references[..., :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], references[..., :2] + references[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    union = boxes[:, 2:].prod(axis=1) + references[..., 2:].prod(axis=-1) - shared
    overlap: Float64 = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


def _reach(edges: Bool, order: int) -> Bool:
    """Edges (n, n) → pairs of points at most `order` (at least 1) edges apart, with the diagonal.

    A matrix product gives the same, but BLAS starts one thread per core for it. These threads wait
    for each other where as many threads read frames: 16 ms of processor time a frame instead of 1.
    """
    edges = edges | np.eye(len(edges), dtype=bool)
    rows, columns = np.nonzero(edges)
    starts = np.searchsorted(rows, np.arange(len(edges)))
    reach = edges
    for _ in range(order - 1):
        reach = np.logical_or.reduceat(reach[columns], starts, axis=0)
    return reach


def _delaunay_edges(places: Float64) -> Bool:
    """Distinct points (n, 2) → (n, n) whether two share a Delaunay edge."""
    adjacent = np.zeros((len(places), len(places)), dtype=bool)
    line = _order_along_line(places)
    if line is not None:
        edges = np.stack([line[:-1], line[1:]], axis=1)
    else:
        triangulation = Delaunay(places)
        corners = triangulation.simplices
        edges = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])
        # Qhull leaves out points that are too close to an edge; they join the nearest corner.
        edges = np.concatenate([edges, triangulation.coplanar[:, [0, 2]]])
    adjacent[edges[:, 0], edges[:, 1]] = True
    return adjacent | adjacent.T


def _order_along_line(places: Float64) -> Int64 | None:
    """Order of the points (n,) along a line, None if they are not on one; Qhull rejects a line."""
    offsets = places - places.mean(axis=0)
    _, spread, axes = np.linalg.svd(offsets, full_matrices=False)
    if len(places) > 2 and spread[1] > _LINE_TOLERANCE * spread[0]:
        return None
    return np.argsort(offsets @ axes[0])
