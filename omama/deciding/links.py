"""What the frames of a clip say about each other's candidates; counted once, whatever is decided.

Legend as in `clips`: T frames, O objects, K candidates; D steps to a later frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from egoexo_tools.arrays import Bool, Float32, Float64
from omama.deciding.clips import Clip
from omama.deciding.motion import fit_affine, move_boxes, mutually_nearest
from omama.deciding.overlaps import box_ious

Landmarks: TypeAlias = tuple[Float64, Float32]
"""Centres (n, 2) and looks (n, C) of candidates of a frame."""

VIDEO_FPS = 30
WINDOW_SECONDS = 8.0
MOST_STEPS = 8
"""Frames before and after that vote, at most; annotation comes once a second."""
SHARPNESS = 3.0
"""A vote weighs exp(SHARPNESS * (cosine + IoU - 2)): 1 for the same look at the same place."""
MOST_LANDMARKS = 96
"""Candidates of a frame that may tell how a worn camera moved, each pair's best ones first."""


@dataclass(frozen=True)
class Links:
    """Between the candidates of a clip."""

    vote: Float32
    """(D, T, O, K, K): weight between candidate n at t and candidate m at t + d + 1, 0 for none."""
    linked: Bool
    """(D, T, O) whether there is a pair at both times, within the window."""
    recalled: Float32
    """(2, T, O, K): similarity to the mean source embedding so far (0), of the whole track (1)."""


def link(clip: Clip) -> Links:
    """Votes between the frames of a clip, and what its source masks say together."""
    frames, items, top = clip.proposal.shape
    steps = min(MOST_STEPS, max(frames - 1, 0))
    vote = np.zeros((steps, frames, items, top, top), np.float32)
    linked = np.zeros((steps, frames, items), np.bool_)
    is_one = clip.proposal >= 0
    marks = [landmarks(clip, time) for time in range(frames)] if clip.moves else []
    for step in range(1, steps + 1):
        gap = clip.frame_idx[step:] - clip.frame_idx[:-step]
        within = gap <= WINDOW_SECONDS * VIDEO_FPS
        linked[step - 1, :-step] = clip.exists[step:] & clip.exists[:-step] & within[:, None]
        cosine = clip.look[:-step] @ clip.look[step:].swapaxes(-1, -2)  # (T - d, O, K, K)
        places = _place_ious(clip, marks, step, within)
        weight = np.exp(SHARPNESS * (cosine + places - 2))
        both = is_one[:-step, :, :, None] & is_one[step:, :, None, :]
        vote[step - 1, :-step] = weight * (both & within[:, None, None, None])
    return Links(vote=vote, linked=linked, recalled=_recalled(clip))


def _place_ious(clip: Clip, marks: Sequence[Landmarks], step: int, within: Bool) -> Float32:
    """(T - d, O, K, K) IoU of boxes at t and t + d, the first moved along with a worn camera."""
    before, after = clip.boxes[:-step], clip.boxes[step:]
    if not clip.moves:
        return box_ious(before, after)
    ious = np.zeros((*before.shape[:-1], before.shape[2]), np.float32)
    for time in np.flatnonzero(within).tolist():
        affine = camera_motion(marks[time], marks[time + step])
        if affine is not None:
            ious[time] = box_ious(move_boxes(before[time], affine), after[time])
    return ious


def camera_motion(before: Landmarks, after: Landmarks) -> Float64 | None:
    """(2, 3) map of image points of one frame to those of another; None where none is found."""
    rows, columns = mutually_nearest(before[1] @ after[1].T)
    return fit_affine(before[0][rows], after[0][columns])


def landmarks(clip: Clip, time: int) -> Landmarks:
    """The best candidates of a frame, each once."""
    by_rank = clip.proposal[time].T.reshape(-1)  # (K * O,)
    chosen, first = np.unique(by_rank, return_index=True)
    first = np.sort(first[chosen >= 0])[:MOST_LANDMARKS]
    boxes = clip.boxes[time].swapaxes(0, 1).reshape(-1, 4)[first]
    looks = clip.look[time].swapaxes(0, 1).reshape(by_rank.size, -1)[first]
    return ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float64), looks


def _recalled(clip: Clip) -> Float32:
    weight = clip.exists[..., None].astype(np.float32)
    total = np.cumsum(clip.source * weight, axis=0)  # (T, O, W)
    count = np.maximum(np.cumsum(weight, axis=0), 1)
    means = np.stack([total / count, np.broadcast_to(total[-1:] / count[-1:], total.shape)])
    found = np.einsum("stow,tokw->stok", means, clip.embedding, optimize=True)
    return np.where(clip.proposal >= 0, found, -np.inf).astype(np.float32)
