"""How the picture of a worn camera moved between two frames: an affine map of image points.

From candidates that are each other's most similar in two frames; RANSAC (Fischler and Bolles,
1981) over triples of them, then least squares over those that agree. Deterministic: the triples
come from a fixed generator. Points are x, y in shares of the image's width.
"""

import numpy as np

from egoexo_tools.arrays import Bool, Float32, Float64, Int64
from egoexo_tools.compiled import compiled

TRIES = 96
TOLERANCE = 0.03
"""How far from its place a point may land and still agree, in shares of the width."""
LEAST_AGREEING = 6
"""Three points fit any affine map; fewer others than three that agree prove nothing."""
MOST_POINTS = 128


def mutually_nearest(similarity: Float32, *, least: float = 0.5) -> tuple[Int64, Int64]:
    """(n, m) → rows and columns that are each other's best, with at least this similarity."""
    if not similarity.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    best = similarity.argmax(axis=1)
    rows = np.arange(len(best))
    mutual = (similarity.argmax(axis=0)[best] == rows) & (similarity[rows, best] >= least)
    return rows[mutual], best[mutual]


def fit_affine(before: Float64, after: Float64) -> Float64 | None:
    """Points (n, 2) and where they are now (n, 2) → (2, 3) map, or None where too few agree."""
    before, after = before[:MOST_POINTS], after[:MOST_POINTS]
    if len(before) < LEAST_AGREEING:
        return None
    rng = np.random.default_rng(0)
    triples = rng.integers(0, len(before), (TRIES, 3))
    agrees = _best_agreement(before, after, triples, TOLERANCE)
    if agrees.sum() < LEAST_AGREEING:
        return None
    known = np.column_stack([before[agrees], np.ones(int(agrees.sum()))])
    solved, _, rank, _ = np.linalg.lstsq(known, after[agrees], rcond=None)
    return np.ascontiguousarray(solved.T) if rank == 3 else None


@compiled
def _best_agreement(before: Float64, after: Float64, triples: Int64, tolerance: float) -> Bool:
    """(n,) which points agree with the triple's map that most points agree with."""
    best = np.zeros(before.shape[0], np.bool_)
    agrees = np.zeros(before.shape[0], np.bool_)
    most = 0
    for number in range(triples.shape[0]):
        i, j, k = triples[number]
        ux, uy = before[j, 0] - before[i, 0], before[j, 1] - before[i, 1]
        vx, vy = before[k, 0] - before[i, 0], before[k, 1] - before[i, 1]
        turn = ux * vy - uy * vx
        if abs(turn) < 1e-4:  # nearly on a line: it says nothing about the other direction
            continue
        count = 0
        for n in range(before.shape[0]):
            x, y = before[n, 0] - before[i, 0], before[n, 1] - before[i, 1]
            a, b = (x * vy - y * vx) / turn, (ux * y - uy * x) / turn
            miss = 0.0
            for axis in range(2):
                found = after[i, axis] + a * (after[j, axis] - after[i, axis])
                found += b * (after[k, axis] - after[i, axis])
                miss += (found - after[n, axis]) ** 2
            agrees[n] = miss <= tolerance**2
            count += agrees[n]
        if count > most:
            most = count
            best[:] = agrees
    return best


def move_boxes(boxes: Float32, affine: Float64) -> Float32:
    """Boxes (..., 4) x_min, y_min, x_max, y_max → the boxes around their moved corners."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = (boxes[..., 2:] - boxes[..., :2]) / 2
    centre = centre @ affine[:, :2].T + affine[:, 2]
    half = half @ np.abs(affine[:, :2]).T
    return np.concatenate([centre - half, centre + half], axis=-1).astype(np.float32)
