"""The decision itself: how likely each candidate is the object, and which one is chosen.

For a pair at time t with similarities s, log p(n) is the log softmax of [s / tau, theta / tau]
(the last entry says "absent"), plus `votes` times the mean over the other frames t' of what
their candidates say of n, sum over m of p_t'(m) exp(3 (cosine + IoU - 2)), less `repulsion` times
the overlap of n with what the frame's other objects choose, plus `layout` times how near n is to
where these say that the object is (`layout.py`). A few rounds of this; then the candidate of the
greatest expected IoU is chosen, the argmax over n of sum over m of p(m) IoU(n, m).
Legend as in `clips`.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from egoexo_tools.arrays import Float32, Float64, Int64
from omama.deciding.clips import Clip
from omama.deciding.layout import layout_closeness
from omama.deciding.links import Links

ROUNDS = 5


class Mode(StrEnum):
    """What a decision may look at."""

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
    """How a mode decides; chosen on val, per direction and mode."""

    temperature: float
    """tau: similarity is divided by it."""
    absent_at: float
    """theta: the similarity that "absent" has."""
    repulsion: float
    votes: float = 0.0
    memory: float = 0.0
    """Share of the similarity that comes from the track's mean source embedding."""
    layout: float = 0.0
    """Weight of the place that the frame's other objects say."""


@dataclass(frozen=True)
class Belief:
    """What is decided of a clip's pairs."""

    mass: Float32
    """(T, O, K) how likely each candidate is."""
    absent: Float32
    """(T, O) how likely the object is not there; with `mass` it adds up to 1."""
    choice: Int64
    """(T, O) the chosen candidate, 0..K - 1; -1 where there is none."""

    @property
    def visible_logit(self) -> Float64:
        """(T, O) log odds that the object is visible."""
        absent = np.clip(self.absent.astype(np.float64), 1e-12, 1 - 1e-12)
        return np.asarray(np.log1p(-absent) - np.log(absent))


def decide(clip: Clip, links: Links, mode: Mode, parameters: Parameters) -> Belief:
    """Decide all pairs of a clip. `best` has no parameters and is not decided here."""
    mass = (_past_only if mode is Mode.TRACK_CAUSAL else _together)(clip, links, mode, parameters)
    present = mass.sum(axis=-1)
    expected = np.where(clip.proposal >= 0, (clip.own_overlap @ mass[..., None])[..., 0], -1.0)
    choice = np.where((clip.proposal >= 0).any(axis=-1), expected.argmax(axis=-1), -1)
    return Belief(mass=mass, absent=1 - present, choice=choice)


def _together(clip: Clip, links: Links, mode: Mode, parameters: Parameters) -> Float32:
    """`frame` and `track`: all frames are decided in the same rounds."""
    frame_only = mode is Mode.FRAME
    similarity = _remembered(clip, links, parameters, None if frame_only else 1)
    everything = slice(0, len(similarity))
    mass = _softmax(similarity, parameters)
    for _ in range(ROUNDS):
        extra = _of_frame(clip, everything, mass, parameters)
        if not frame_only:
            extra += parameters.votes * _votes(links, mass)
        mass = _softmax(similarity, parameters, extra)
    return mass


def _past_only(clip: Clip, links: Links, mode: Mode, parameters: Parameters) -> Float32:
    """`track-causal`: frame after frame; what is decided stays."""
    similarity = _remembered(clip, links, parameters, 0)
    mass = np.zeros_like(similarity)
    for time in range(len(similarity)):
        now = slice(time, time + 1)
        votes = parameters.votes * _votes_of_past(links, mass, time)
        mass[now] = _softmax(similarity[now], parameters, votes)
        for _ in range(ROUNDS):
            extra = votes + _of_frame(clip, now, mass[now], parameters)
            mass[now] = _softmax(similarity[now], parameters, extra)
    return mass


def _remembered(clip: Clip, links: Links, parameters: Parameters, which: int | None) -> Float32:
    """(T, O, K) similarity, mixed with that to the track's sources: past (0) or all (1)."""
    if which is None or not parameters.memory:
        return clip.similarity
    with np.errstate(invalid="ignore"):
        mixed = clip.similarity + parameters.memory * (links.recalled[which] - clip.similarity)
    return np.where(clip.proposal >= 0, mixed, -np.inf).astype(np.float32)


def _softmax(similarity: Float32, parameters: Parameters, extra: Float32 | None = None) -> Float32:
    """(T, O, K) how likely each candidate is; the rest to 1 is "absent"."""
    logit = (similarity - parameters.absent_at) / parameters.temperature
    logit = logit if extra is None else logit + extra
    highest = np.maximum(logit.max(axis=-1, keepdims=True), 0)
    weight = np.exp(logit - highest)
    total = weight.sum(axis=-1, keepdims=True) + np.exp(-highest)
    return np.asarray(weight / total, np.float32)


def _of_frame(clip: Clip, times: slice, mass: Float32, parameters: Parameters) -> Float32:
    """(t, O, K) what the other objects of each frame say of each candidate."""
    said = -parameters.repulsion * crowding(clip, times, mass)
    if parameters.layout:
        boxes = clip.source_boxes[times], clip.boxes[times]
        said += parameters.layout * layout_closeness(*boxes, mass)
    return said


def crowding(clip: Clip, times: slice, mass: Float32) -> Float32:
    """(t, O, K) overlap of each candidate with what the frame's other objects choose."""
    overlap = clip.overlap[times]
    everyone = (overlap @ mass.reshape(len(mass), -1, 1)).reshape(mass.shape)
    own = (clip.own_overlap[times] @ mass[..., None])[..., 0]
    return everyone - own


def _votes(links: Links, mass: Float32) -> Float32:
    """(T, O, K) mean over the linked frames of what their candidates say of each candidate."""
    total = np.zeros_like(mass)
    count = np.zeros(mass.shape[:2], np.float32)
    for step in range(1, len(links.vote) + 1):
        vote, linked = links.vote[step - 1, :-step], links.linked[step - 1, :-step]
        total[:-step] += (vote @ mass[step:, :, :, None])[..., 0]
        total[step:] += (vote.swapaxes(-1, -2) @ mass[:-step, :, :, None])[..., 0]
        count[:-step] += linked
        count[step:] += linked
    return np.asarray(total / np.maximum(count, 1)[..., None])


def _votes_of_past(links: Links, mass: Float32, time: int) -> Float32:
    """(1, O, K) the same for one time, from the frames before it alone."""
    total = np.zeros((1, *mass.shape[1:]), np.float32)
    count = np.zeros((1, mass.shape[1], 1), np.float32)
    for step in range(1, min(len(links.vote), time) + 1):
        vote = links.vote[step - 1, time - step].swapaxes(-1, -2)
        total[0] += (vote @ mass[time - step, :, :, None])[..., 0]
        count[0, :, 0] += links.linked[step - 1, time - step]
    return np.asarray(total / np.maximum(count, 1))
