"""Votes between the frames of a clip: how much candidates of two frames support each other.

Computed once per clip, whatever the parameters of the decision. In the image of a worn camera,
boxes are first moved along with the camera's motion between the two frames. That is an affine map
of image points, fitted to candidates that are each other's most similar: RANSAC (Fischler and
Bolles, 1981) over triples of them, then least squares over those that agree. It is deterministic,
because the triples come from a fixed generator.

Legend as in `clips`: T frames, O objects, K candidates; D steps to a later frame. Points are x, y
as fractions of the image's width.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from egoexo_tools.arrays import Bool, Float32, Float64, Int64
from egoexo_tools.compiled import compiled
from omama.deciding.clips import Clip
from omama.deciding.overlaps import box_ious

VIDEO_FPS = 30
WINDOW_SECONDS = 8.0
MAX_STEPS = 8
"""Number of frames before and after a frame that vote; frames are annotated once a second."""
SHARPNESS = 3.0
"""A vote weighs exp(SHARPNESS * (cosine + IoU - 2)): 1 for the same appearance and place."""

MAX_LANDMARKS = 96
"""Candidates of a frame that the camera's motion is fitted to, the best ones of each pair first."""
MIN_COSINE = 0.5
"""Landmarks of two frames with a lower cosine do not correspond."""
TRIPLES = 96
TOLERANCE = 0.03
"""Greatest distance of a mapped point that agrees, as a fraction of the image's width."""
MIN_AGREEING = 6
"""Any three points fit an affine map; fewer than three further ones do not confirm it."""
MAX_POINTS = 128

Landmarks: TypeAlias = tuple[Float64, Float32]
"""Centres (n, 2) and appearances (n, C) of candidates of a frame."""


@dataclass(frozen=True)
class Links:
    """Between the candidates of a clip."""

    vote: Float32
    """(D, T, O, K, K): weight between candidate n at t and candidate m at t + d + 1, 0 for none."""
    linked: Bool
    """(D, T, O) whether there is a pair at both times, within the window."""
    track_similarity: Float32
    """(2, T, O, K): cosine to the mean source embedding of the frames so far (0), of all (1)."""


def link_frames(clip: Clip) -> Links:
    """Compute the votes between frames, and the similarities to a track's mean source."""
    frames, items, top = clip.proposal.shape
    steps = min(MAX_STEPS, max(frames - 1, 0))
    vote = np.zeros((steps, frames, items, top, top), np.float32)
    linked = np.zeros((steps, frames, items), np.bool_)
    is_proposal = clip.proposal >= 0
    # In the image of a static camera, static objects stay where they are.
    landmarks = [find_landmarks(clip, t) for t in range(frames)] if clip.camera_moves else []
    for step in range(1, steps + 1):
        gap = clip.frame_idx[step:] - clip.frame_idx[:-step]
        within = gap <= WINDOW_SECONDS * VIDEO_FPS
        linked[step - 1, :-step] = clip.exists[step:] & clip.exists[:-step] & within[:, None]
        cosine = clip.appearance[:-step] @ clip.appearance[step:].swapaxes(-1, -2)
        before, after = clip.boxes[:-step], clip.boxes[step:]
        if clip.camera_moves:
            ious = np.zeros((*before.shape[:-1], top), np.float32)
            for time in np.flatnonzero(within).tolist():
                affine = camera_motion(landmarks[time], landmarks[time + step])
                if affine is not None:
                    ious[time] = box_ious(move_boxes(before[time], affine), after[time])
        else:
            ious = box_ious(before, after)
        weight = np.exp(SHARPNESS * (cosine + ious - 2))  # (T - d, O, K, K)
        is_pair = is_proposal[:-step, :, :, None] & is_proposal[step:, :, None, :]
        vote[step - 1, :-step] = weight * (is_pair & within[:, None, None, None])
    return Links(vote=vote, linked=linked, track_similarity=_track_similarity(clip))


def _track_similarity(clip: Clip) -> Float32:
    weight = clip.exists[..., None].astype(np.float32)
    total = np.cumsum(clip.source_embedding * weight, axis=0)  # (T, O, W)
    count = np.maximum(np.cumsum(weight, axis=0), 1)
    means = np.stack([total / count, np.broadcast_to(total[-1:] / count[-1:], total.shape)])
    cosine = np.einsum("stow,tokw->stok", means, clip.embedding, optimize=True)
    return np.where(clip.proposal >= 0, cosine, -np.inf).astype(np.float32)


def find_landmarks(clip: Clip, time: int) -> Landmarks:
    """The best candidates of a frame, each proposal once."""
    # All first candidates, then all second ones: the best of each object are kept.
    by_rank = clip.proposal[time].T.reshape(-1)  # (K * O,)
    unique, first = np.unique(by_rank, return_index=True)
    first = np.sort(first[unique >= 0])[:MAX_LANDMARKS]
    boxes = clip.boxes[time].swapaxes(0, 1).reshape(-1, 4)[first]
    appearance = clip.appearance[time].swapaxes(0, 1).reshape(by_rank.size, -1)[first]
    return ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float64), appearance


def camera_motion(before: Landmarks, after: Landmarks) -> Float64 | None:
    """(2, 3) map of image points of one frame to those of another; None if it is not certain."""
    rows, columns = mutually_nearest(before[1] @ after[1].T)
    return fit_affine(before[0][rows], after[0][columns])


def mutually_nearest(similarity: Float32) -> tuple[Int64, Int64]:
    """(n, m) → rows and columns that are each other's best, with at least MIN_COSINE."""
    if not similarity.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    best = similarity.argmax(axis=1)
    rows = np.arange(len(best))
    mutual = (similarity.argmax(axis=0)[best] == rows) & (similarity[rows, best] >= MIN_COSINE)
    return rows[mutual], best[mutual]


def fit_affine(before: Float64, after: Float64) -> Float64 | None:
    """Points (n, 2) and their new places (n, 2) → (2, 3) map; None if too few points agree."""
    before, after = before[:MAX_POINTS], after[:MAX_POINTS]
    if len(before) < MIN_AGREEING:
        return None
    rng = np.random.default_rng(0)
    triples = rng.integers(0, len(before), (TRIPLES, 3))
    agrees = _best_agreement(before, after, triples, TOLERANCE)
    if agrees.sum() < MIN_AGREEING:
        return None
    points = np.column_stack([before[agrees], np.ones(int(agrees.sum()))])
    affine, _, rank, _ = np.linalg.lstsq(points, after[agrees], rcond=None)
    return np.ascontiguousarray(affine.T) if rank == 3 else None


@compiled
def _best_agreement(before: Float64, after: Float64, triples: Int64, tolerance: float) -> Bool:
    """(n,) the points that agree with the map of the triple with the most agreement."""
    best = np.zeros(before.shape[0], np.bool_)
    agrees = np.zeros(before.shape[0], np.bool_)
    most = 0
    for number in range(triples.shape[0]):
        i, j, k = triples[number]
        ux, uy = before[j, 0] - before[i, 0], before[j, 1] - before[i, 1]
        vx, vy = before[k, 0] - before[i, 0], before[k, 1] - before[i, 1]
        turn = ux * vy - uy * vx
        if abs(turn) < 1e-4:  # nearly on a line: the map is undetermined across it
            continue
        count = 0
        for n in range(before.shape[0]):
            x, y = before[n, 0] - before[i, 0], before[n, 1] - before[i, 1]
            a, b = (x * vy - y * vx) / turn, (ux * y - uy * x) / turn
            squared_distance = 0.0
            for axis in range(2):
                mapped = after[i, axis] + a * (after[j, axis] - after[i, axis])
                mapped += b * (after[k, axis] - after[i, axis])
                squared_distance += (mapped - after[n, axis]) ** 2
            agrees[n] = squared_distance <= tolerance**2
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
