"""Clips whose truth is known, for fitting on val; and objects taken out of them.

Val may hold few pairs whose object is out of view, or none (of one lively val split, 1 in 934), so
what a decision looks like then is also seen by taking objects out. Legend as in `clips`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from egoexo_tools.arrays import Bool, Float32
from omama.confidence import SHOWS
from omama.deciding.clips import Clip
from omama.deciding.links import Links

TURNS = 5
"""Each object is gone in one of these, as others are; so most of what is around it stays."""
FRAMES_GONE = 2
"""An object that leaves is seldom back at the next instant."""


@dataclass(frozen=True)
class LabelledClip:
    """A clip whose truth is known."""

    clip: Clip
    links: Links
    iou: Float32
    """(T, O, K) IoU of each candidate with the ground truth."""
    visible: Bool
    """(T, O)"""


def judge(clip: Clip, links: Links, iou: Float32, visible: Bool) -> LabelledClip:
    """A clip with the truth of its pairs: IoU of their candidates (n, K), and visible (n,)."""
    dense = np.zeros(clip.similarity.shape, np.float32)
    seen = np.zeros(clip.exists.shape, np.bool_)
    dense[clip.time, clip.item], seen[clip.time, clip.item] = iou, visible
    return LabelledClip(clip, links, dense, seen)


def with_absences(judged: LabelledClip) -> Iterator[tuple[Clip, Bool]]:
    """The clip as it would be if objects had been out of view, and (T, O) which ones are.

    Every visible pair of which a candidate shows something is gone in one of the turns.
    """
    clip = judged.clip
    shows = judged.visible[..., None] & (judged.iou > SHOWS)  # (T, O, K)
    times, items = np.indices(judged.visible.shape)
    turn = (times + items * (FRAMES_GONE + 1)) // FRAMES_GONE % TURNS
    for number in range(TURNS):
        gone = (turn == number) & shows.any(axis=-1)
        out = shows & gone[..., None]
        left = replace(
            clip,
            proposal=np.where(out, -1, clip.proposal),
            similarity=np.where(out, np.float32(-np.inf), clip.similarity),
        )
        yield left, gone
