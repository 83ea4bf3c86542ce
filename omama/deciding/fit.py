"""Choose on val how each mode decides: a search along one parameter after the other.

What the frames say of each other is counted once a clip; only the cheap rounds are repeated. The
measure is that of training: mean IoU of the chosen candidates over the visible pairs, at the
proposals' size. Then how sure to be that the object is in view.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from omama.deciding.decide import Mode, Parameters, decide
from omama.deciding.decision import Fitted
from omama.deciding.judged import LabelledClip
from omama.deciding.visible import fit_visibility

logger = logging.getLogger(__name__)

CHOICES: dict[str, tuple[float, ...]] = {
    "temperature": (0.02, 0.03, 0.05, 0.08, 0.12, 0.16, 0.2),
    "absent_at": (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "votes": (2.0, 5.0, 10.0, 15.0, 20.0, 30.0),
    "memory": (0.0, 0.25, 0.5, 0.75, 1.0),
    "repulsion": (0.0, 1.0, 2.0, 4.0, 6.0),
    "layout": (0.0, 1.0, 2.0, 3.0, 4.0),
}
"""Values that are tried."""
START = Parameters(temperature=0.08, absent_at=0.4, repulsion=2.0, layout=1.0)
START_OF_TRACKS = replace(START, temperature=0.05, layout=2.0, votes=10.0, memory=0.5)
"""A search that began with 0.12 and 1 stuck at 0.82 in one of four cases, this one reached 0.84."""
PASSES = 2


def fit_mode(clips: Sequence[LabelledClip], mode: Mode, past: Parameters | None = None) -> Fitted:
    """The parameters of the greatest val IoU among CHOICES, and how visible objects look.

    `past`: the parameters of the past-only decision, for a mode whose visibility asks it too.
    """
    best = START if mode is Mode.FRAME else START_OF_TRACKS
    best_iou = mean_iou(clips, mode, best)
    names = [n for n in CHOICES if mode is not Mode.FRAME or n not in ("votes", "memory")]
    for _ in range(PASSES):
        before = best
        for name in names:
            for value in CHOICES[name]:
                tried = replace(best, **{name: value})
                if tried != best and (iou := mean_iou(clips, mode, tried)) > best_iou:
                    best, best_iou = tried, iou
        if best == before:
            break
    visibility = fit_visibility(clips, mode, best, past)
    logger.info("%s: val IoU %.4f with %s, %s", mode, best_iou, best, visibility)
    return Fitted(best, visibility, best_iou, past)


def mean_iou(clips: Sequence[LabelledClip], mode: Mode, parameters: Parameters) -> float:
    """Mean over the visible pairs of all clips; 0 where there are none."""
    total, count = 0.0, 0
    for judged in clips:
        choice = decide(judged.clip, judged.links, mode, parameters).choice
        ious = np.take_along_axis(judged.iou, np.maximum(choice, 0)[..., None], axis=2)[..., 0]
        total += float(ious[judged.visible & (choice >= 0)].sum())
        count += int(judged.visible.sum())
    return total / max(count, 1)


def mean_best_iou(clips: Sequence[LabelledClip]) -> float:
    """The same for the most similar candidate."""
    total = sum(float(judged.iou[..., 0][judged.visible].sum()) for judged in clips)
    return total / max(sum(int(judged.visible.sum()) for judged in clips), 1)
