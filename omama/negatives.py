"""Which proposals a training sample compares the ground truth with.

Hard negatives are neighbours: proposals whose centroids are joined by Delaunay edges to that
of the proposal on the object, over one to three steps. Legend: N proposals; centroids are
(N, 2) as x, y in any pixels, NaN for an empty mask.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import Delaunay

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

GROUND_TRUTH = -1
"""In `CandidateSample.proposal_idx`: the ground-truth mask itself."""
PADDING = -2
"""In `CandidateSample.proposal_idx`: no candidate; there were fewer than wanted."""
CANDIDATES = 32


@dataclass(frozen=True)
class CandidateSample:
    """The candidates of one training sample."""

    proposal_idx: Ints
    """(count,) index of each candidate among the frame's proposals, or GROUND_TRUTH, PADDING."""
    positive: int
    """Where in `proposal_idx` the ground truth is; 0 (and without meaning) if not visible."""

    @property
    def valid(self) -> Bools:
        """(count,) False for padding."""
        return self.proposal_idx != PADDING


def centroids(masks: npt.NDArray[np.generic]) -> Floats:
    """Masks (N, H, W) → mean x, y of their pixels (N, 2); NaN for an empty one."""
    filled = np.asarray(masks) != 0
    area = filled.sum(axis=(1, 2)).astype(np.float64)
    area[area == 0] = np.nan
    x = filled.sum(axis=1) @ np.arange(filled.shape[2])
    y = filled.sum(axis=2) @ np.arange(filled.shape[1])
    return np.stack([x / area, y / area], axis=1)  # (N, 2)


def adjacency(points: Floats, *, order: int = 2) -> Bools:
    """Centroids (N, 2) → who is whose neighbour within `order` Delaunay steps, (N, N), no diagonal.

    An empty mask has no neighbours and leaves the others' indices alone; proposals with one
    centroid are neighbours and share theirs; points on a line are neighbours along the line.
    """
    count = len(points)
    result = np.zeros((count, count), dtype=bool)
    present = np.flatnonzero(np.isfinite(points).all(axis=1))
    if len(present) == 0:
        return result
    places, place_of = np.unique(points[present], axis=0, return_inverse=True)
    steps = _place_steps(places).astype(np.int64) + np.eye(len(places), dtype=np.int64)
    reach = np.linalg.matrix_power(steps, order) > 0
    place_of = place_of.reshape(-1)
    result[np.ix_(present, present)] = reach[np.ix_(place_of, place_of)]
    np.fill_diagonal(result, False)
    return result


def box_overlap(boxes_xywh: npt.ArrayLike, box_xywh: npt.ArrayLike) -> Floats:
    """IoU of each of (N, 4) boxes with one (4,) box; 0 where the union is empty."""
    boxes = np.asarray(boxes_xywh, dtype=np.float64).reshape(-1, 4)
    box = np.asarray(box_xywh, dtype=np.float64)
    low = np.maximum(boxes[:, :2], box[:2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], box[:2] + box[2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    union = boxes[:, 2:].prod(axis=1) + box[2:].prod() - shared
    return np.divide(shared, union, out=np.zeros(len(boxes)), where=union > 0)


def sample_candidates(
    rng: np.random.Generator,
    *,
    neighbours: Bools,
    boxes_xywh: npt.ArrayLike,
    truth_box_xywh: npt.ArrayLike | None,
    forbidden: Bools | None = None,
    count: int = CANDIDATES,
    reference_behaviour: bool = False,
) -> CandidateSample:
    """Draw the candidates of one sample; `truth_box_xywh` None: the object is not visible.

    neighbours (N, N) of order 2 and boxes_xywh (N, 4) are the destination frame's proposals'.
    Visible: the ground truth at a random place among count - 1 negatives, which are the
    neighbours of the proposal whose box overlaps the truth most, random ones if there are
    more, filled up with random proposals. Not visible: `count` random proposals. `forbidden`
    (N,) are never drawn: proposals that overlap the truth so well that they are no negatives.
    The reference forbids nothing and counts that best proposal as its own neighbour.
    """
    n_proposals = len(neighbours)
    allowed = np.ones(n_proposals, dtype=bool)
    if forbidden is not None and not reference_behaviour:
        allowed &= ~np.asarray(forbidden, dtype=bool)
    if truth_box_xywh is None:
        drawn = _draw(rng, np.flatnonzero(allowed), count)
        return CandidateSample(_padded(drawn, count), positive=0)
    negatives = np.zeros(0, dtype=np.int64)
    if n_proposals:
        best = int(box_overlap(boxes_xywh, truth_box_xywh).argmax())
        near = neighbours[best].copy()
        near[best] = reference_behaviour
        negatives = _draw(rng, np.flatnonzero(near & allowed), count - 1)
        rest = allowed.copy()
        rest[negatives] = False
        if not reference_behaviour:
            rest[best] = False
        more = _draw(rng, np.flatnonzero(rest), count - 1 - len(negatives))
        negatives = np.concatenate([negatives, more])
    positive = int(rng.integers(len(negatives) + 1))
    return CandidateSample(
        _padded(np.insert(negatives, positive, GROUND_TRUTH), count), positive=positive
    )


def _draw(rng: np.random.Generator, idx: Ints, count: int) -> Ints:
    """Up to `count` different ones, in random order."""
    return rng.permutation(idx)[: max(count, 0)].astype(np.int64)


def _padded(idx: Ints, count: int) -> Ints:
    return np.pad(idx, (0, count - len(idx)), constant_values=PADDING)


def _place_steps(places: Floats) -> Bools:
    """Different points (n, 2), sorted by x then y → who shares a Delaunay edge, (n, n)."""
    count = len(places)
    steps = np.zeros((count, count), dtype=bool)
    along_line = count < 3 or _collinear(places)
    if along_line:
        # Sorted by x, then y: the order along the line.
        edges = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)
    else:
        triangulation = Delaunay(places)
        corners = triangulation.simplices
        edges = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])
        # Points too close to an edge for Qhull to use: neighbours of the nearest corner.
        edges = np.concatenate([edges, triangulation.coplanar[:, [0, 2]]])
    steps[edges[:, 0], edges[:, 1]] = True
    return steps | steps.T


def _collinear(places: Floats) -> bool:
    offsets = places - places.mean(axis=0)
    spread = np.linalg.svd(offsets, compute_uv=False)
    return bool(spread[1] <= 1e-9 * spread[0])
