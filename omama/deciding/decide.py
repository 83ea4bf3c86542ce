"""Choose a candidate for every pair of a clip: the formula of all decisions.

Candidate n of a pair has the similarity s_n; "absent" counts as one more candidate, of the
similarity theta. Their probabilities p are the softmax of these logits:

    s_n / tau
    + votes * mean over the linked frames t' of sum over m of p_t'(m) exp(3 (cosine + IoU - 2))
    - repulsion * overlap of n with the candidates that the frame's other objects choose
    + layout * closeness of n to the place that the frame's other objects predict

against theta / tau for "absent". The last three terms depend on the probabilities of other pairs,
so a few rounds are computed. The chosen candidate has the greatest expected IoU, the argmax over n
of sum over m of p(m) IoU(n, m). The vote weights are in `links`. Legend as in `clips`: T frames,
O objects, K candidates; t frames of a slice.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoexo_tools.arrays import Float32, Float64, Int64
from omama.confidence import Scores
from omama.deciding.clips import Clip
from omama.deciding.links import Links

ROUNDS = 5
LAYOUT_SPREAD = 0.17
"""Standard deviation of the layout's closeness, as a fraction of the image's width. Affine maps of
a scene with depth are off by about 0.08, so this favours a region, not a point; 0.14 to 0.2 are
equally good on val."""
LAYOUT_ROUNDS = 4
"""Of a robust fit: what is far from its predicted place weighs less in the next round."""
MIN_OTHERS = 2.0
"""Sum of the other objects' probabilities; below it the layout predicts nothing."""
_RIDGE = 1e-3


class Mode(StrEnum):
    """What a decision may use."""

    BEST = "best"
    """The pair alone: the most similar candidate."""
    FRAME = "frame"
    """The pair and the other objects of its frame."""
    TRACK_CAUSAL = "track-causal"
    """Also the frames before it."""
    TRACK = "track"
    """All frames of the take."""


@dataclass(frozen=True)
class Parameters:
    """Parameters of a mode, fitted on val for each direction."""

    temperature: float
    """tau: similarities are divided by it."""
    absent_at: float
    """theta: the similarity of "absent"."""
    repulsion: float
    """Weight of the overlap with the choices of the frame's other objects."""
    votes: float = 0.0
    """Weight of the candidates of other frames."""
    memory: float = 0.0
    """Share of the similarity that is replaced by that to the track's mean source embedding."""
    layout: float = 0.0
    """Weight of the place that the frame's other objects predict."""


@dataclass(frozen=True)
class Belief:
    """Probabilities and choices of a clip's pairs."""

    mass: Float32
    """(T, O, K) probability of each candidate."""
    absent: Float32
    """(T, O) probability that the object is absent; the sum with `mass` is 1."""
    choice: Int64
    """(T, O) the chosen candidate, 0..K - 1; -1 where there is none."""

    @property
    def visible_logit(self) -> Float64:
        """(T, O) log odds that the object is visible."""
        absent = np.clip(self.absent.astype(np.float64), 1e-12, 1 - 1e-12)
        return np.asarray(np.log1p(-absent) - np.log(absent))


def decide(clip: Clip, links: Links, mode: Mode, parameters: Parameters) -> Belief:
    """Decide all pairs of a clip, by any mode but `best`, which has no parameters."""
    if mode is Mode.TRACK_CAUSAL:
        mass = _decide_frame_by_frame(clip, links, parameters)
    else:
        mass = _decide_together(clip, links, mode, parameters)
    is_proposal = clip.proposal >= 0
    expected_iou = np.where(is_proposal, (clip.own_overlap @ mass[..., None])[..., 0], -1.0)
    choice = np.where(is_proposal.any(axis=-1), expected_iou.argmax(axis=-1), -1)
    return Belief(mass=mass, absent=1 - mass.sum(axis=-1), choice=choice)


def _decide_together(clip: Clip, links: Links, mode: Mode, parameters: Parameters) -> Float32:
    """(T, O, K) for `frame` and `track`: all frames in the same rounds."""
    uses_track = mode is Mode.TRACK
    similarity = clip.similarity
    if uses_track:
        similarity = _with_memory(clip, links.track_similarity[1], parameters)
    all_times = slice(0, len(similarity))
    mass = _softmax(similarity, parameters)
    for _ in range(ROUNDS):
        terms = _frame_terms(clip, all_times, mass, parameters)
        if uses_track:
            terms += parameters.votes * _votes(links, mass)
        mass = _softmax(similarity, parameters, terms)
    return mass


def _decide_frame_by_frame(clip: Clip, links: Links, parameters: Parameters) -> Float32:
    """(T, O, K) for `track-causal`: a later frame does not change what is decided."""
    similarity = _with_memory(clip, links.track_similarity[0], parameters)
    mass = np.zeros_like(similarity)
    for time in range(len(similarity)):
        now = slice(time, time + 1)
        votes = parameters.votes * _past_votes(links, mass, time)
        mass[now] = _softmax(similarity[now], parameters, votes)
        for _ in range(ROUNDS):
            terms = votes + _frame_terms(clip, now, mass[now], parameters)
            mass[now] = _softmax(similarity[now], parameters, terms)
    return mass


def _with_memory(clip: Clip, track_similarity: Float32, parameters: Parameters) -> Float32:
    """(T, O, K) similarity, mixed with that to the track's mean source embedding."""
    if not parameters.memory:
        return clip.similarity
    with np.errstate(invalid="ignore"):  # -inf minus -inf where there is no candidate
        mixed = clip.similarity + parameters.memory * (track_similarity - clip.similarity)
    return np.where(clip.proposal >= 0, mixed, -np.inf).astype(np.float32)


def _softmax(similarity: Float32, parameters: Parameters, terms: Float32 | None = None) -> Float32:
    """(t, O, K) probability of each candidate; the remainder to 1 is "absent", of logit 0."""
    logit = (similarity - parameters.absent_at) / parameters.temperature
    logit = logit if terms is None else logit + terms
    highest = np.maximum(logit.max(axis=-1, keepdims=True), 0)
    weight = np.exp(logit - highest)
    total = weight.sum(axis=-1, keepdims=True) + np.exp(-highest)
    return np.asarray(weight / total, np.float32)


def _frame_terms(clip: Clip, times: slice, mass: Float32, parameters: Parameters) -> Float32:
    """(t, O, K) the terms of repulsion and layout."""
    terms = -parameters.repulsion * crowding(clip, times, mass)
    if parameters.layout:
        boxes = clip.source_boxes[times], clip.boxes[times]
        terms += parameters.layout * layout_closeness(*boxes, mass)
    return terms


def crowding(clip: Clip, times: slice, mass: Float32) -> Float32:
    """(t, O, K) expected overlap of each candidate with the choices of other objects."""
    overlap = clip.overlap[times]
    with_all = (overlap @ mass.reshape(len(mass), -1, 1)).reshape(mass.shape)
    with_own = (clip.own_overlap[times] @ mass[..., None])[..., 0]
    return with_all - with_own


def _votes(links: Links, mass: Float32) -> Float32:
    """(T, O, K) mean over the linked frames of their candidates' votes for each candidate."""
    total = np.zeros_like(mass)
    count = np.zeros(mass.shape[:2], np.float32)
    for step in range(1, len(links.vote) + 1):
        vote, linked = links.vote[step - 1, :-step], links.linked[step - 1, :-step]
        total[:-step] += (vote @ mass[step:, :, :, None])[..., 0]
        total[step:] += (vote.swapaxes(-1, -2) @ mass[:-step, :, :, None])[..., 0]
        count[:-step] += linked
        count[step:] += linked
    return np.asarray(total / np.maximum(count, 1)[..., None])


def _past_votes(links: Links, mass: Float32, time: int) -> Float32:
    """(1, O, K) the votes for the candidates at one time, from the frames before it."""
    total = np.zeros((1, *mass.shape[1:]), np.float32)
    count = np.zeros((1, mass.shape[1], 1), np.float32)
    for step in range(1, min(len(links.vote), time) + 1):
        vote = links.vote[step - 1, time - step].swapaxes(-1, -2)
        total[0] += (vote @ mass[time - step, :, :, None])[..., 0]
        count[0, :, 0] += links.linked[step - 1, time - step]
    return np.asarray(total / np.maximum(count, 1))


def layout_closeness(source_boxes: Float32, boxes: Float32, mass: Float32) -> Float32:
    """How close candidates are to the place that the frame's other objects predict.

    Objects keep their arrangement from one view to the other. An affine map from source centres to
    the centres of the candidates that the *other* objects choose predicts the place of an object.
    It is fitted in closed form and robustly. An object is left out of its own fit, or it would
    confirm itself. Takes (T, O, 4), (T, O, K, 4) and probabilities (T, O, K); returns (T, O, K) in
    0..1, 0 where the other objects predict nothing.
    """
    source = _centres(source_boxes)  # (T, O, 2)
    centre = _centres(boxes)  # (T, O, K, 2)
    point = np.concatenate([source, np.ones((*source.shape[:-1], 1))], axis=-1)  # (T, O, 3)
    square = point[..., :, None] * point[..., None, :]  # (T, O, 3, 3)
    weight, closeness = mass.astype(np.float64), np.zeros(mass.shape)
    for _ in range(LAYOUT_ROUNDS):
        normal = weight.sum(axis=-1)[..., None, None] * square  # (T, O, 3, 3)
        target = (weight[..., None] * centre).sum(axis=-2)  # (T, O, 2)
        right = point[..., :, None] * target[..., None, :]  # (T, O, 3, 2)
        affine = np.linalg.solve(_sum_of_others(normal) + _RIDGE * np.eye(3), _sum_of_others(right))
        predicted = (point[..., None, :] @ affine)[..., 0, :]  # (T, O, 2)
        squared_distance = np.square(centre - predicted[..., None, :]).sum(axis=-1)  # (T, O, K)
        closeness = np.exp(squared_distance / (-2 * LAYOUT_SPREAD**2))
        weight = mass * closeness
    certainty = _sum_of_others(weight.sum(axis=-1))  # (T, O)
    return np.asarray(closeness * (certainty >= MIN_OTHERS)[..., None], np.float32)


def _centres(boxes: Float32) -> Float64:
    """(..., 4) → (..., 2), relative to about the middle of the image."""
    return (boxes[..., :2] + boxes[..., 2:]).astype(np.float64) / 2 - 0.5


def _sum_of_others(values: Float64) -> Float64:
    """(T, O, ...) → for each object the sum over the other objects."""
    return np.asarray(values.sum(axis=1, keepdims=True) - values)


PAST_LOG_ODDS = "past_log_odds"
VISIBILITY_SCORES = ("log_odds", "similarity", "alone", PAST_LOG_ODDS)


def visibility_scores(clip: Clip, links: Links, belief: Belief, past: Parameters | None) -> Scores:
    """Scores (T, O) of how likely each pair's object is visible; 0 where there is no candidate.

    The log odds alone are a poor measure: an absent object is matched to one that looks alike, or
    to another object's mask, and over a whole track the frames confirm each other. Hence also the
    chosen candidate's `similarity`, which does not depend on other frames; `alone`, minus its
    overlap with the choices of the frame's other objects; and `past_log_odds`, those of the
    decision `track-causal` with the parameters `past`, if these are given.
    """
    choice = np.maximum(belief.choice, 0)[..., None]
    overlap = crowding(clip, slice(0, len(belief.mass)), belief.mass)
    scores: dict[str, NDArray[Any]] = {
        "log_odds": belief.visible_logit,
        "similarity": np.take_along_axis(clip.similarity, choice, axis=-1)[..., 0],
        "alone": -np.take_along_axis(overlap, choice, axis=-1)[..., 0],
    }
    if past is not None:
        scores[PAST_LOG_ODDS] = decide(clip, links, Mode.TRACK_CAUSAL, past).visible_logit
    return {name: np.where(belief.choice < 0, 0.0, score) for name, score in scores.items()}
