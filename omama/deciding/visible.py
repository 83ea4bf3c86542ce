"""How sure a decision is that its object is in view at all.

Two scores say it: the log odds of the decision, and the similarity of the chosen candidate, which
knows nothing of the other frames. A logistic regression weighs them. It learns from val's pairs,
and from the same with objects taken out (`judged.with_absences`): too few of them are absent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from egoexo_tools.evaluation.metrics import balanced_accuracy
from omama.deciding.clips import Clip
from omama.deciding.decide import Belief, Mode, Parameters, decide
from omama.deciding.judged import Judged, with_absences
from omama.matching.visibility import logistic

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Visibility:
    """Weights of the two scores; the log odds that they add up to are 0 at the threshold."""

    log_odds: float
    similarity: float
    constant: float
    balanced_accuracy: float | None
    """On val's own pairs, without the taken out ones."""

    def confidence(self, scores: Floats) -> Floats:
        """(..., 2) → (...) in 0..1; above 0.5 means visible."""
        total = scores @ [self.log_odds, self.similarity] + self.constant
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(total, -60.0, 60.0))))


def visible_scores(clip: Clip, belief: Belief) -> Floats:
    """(T, O, 2) log odds that the object is visible, and similarity of what is chosen.

    0 where there is no candidate: such an object is absent whatever the weights are.
    """
    chosen = np.maximum(belief.choice, 0)[..., None]
    similarity = np.take_along_axis(clip.similarity, chosen, axis=-1)[..., 0]
    scores = np.stack([belief.visible_logit, similarity], axis=-1)
    return np.where(belief.choice[..., None] < 0, 0.0, scores)


def fit_visibility(
    clips: Sequence[Judged], mode: Mode, parameters: Parameters
) -> Visibility | None:
    """Learn it from val clips; None where no candidate shows any object and none is absent."""

    def scored(judged: Judged, clip: Clip, which: Bools) -> tuple[Floats, Bools]:
        """(n, 2) scores of the pairs `which` (T, O), and (n,) whether they have candidates."""
        belief = decide(clip, judged.links, mode, parameters)
        return visible_scores(clip, belief)[which], belief.choice[which] >= 0

    own, gone = [], []
    for judged in clips:
        exists = judged.clip.exists
        own.append((*scored(judged, judged.clip, exists), judged.visible[exists]))
        for clip, is_gone in with_absences(judged):
            gone.append((*scored(judged, clip, is_gone), np.zeros(is_gone.sum(), np.bool_)))
    scores, has_candidates, is_visible = map(np.concatenate, zip(*own, *gone, strict=True))
    scores, is_visible = scores[has_candidates], is_visible[has_candidates]
    if is_visible.all() or not is_visible.any():
        return None
    first, second, constant = logistic(scores, is_visible, balanced=True).tolist()
    found = Visibility(first, second, constant, balanced_accuracy=None)
    scores, has_candidates, is_visible = map(np.concatenate, zip(*own, strict=True))
    said = has_candidates & (found.confidence(scores) > 0.5)
    return replace(found, balanced_accuracy=balanced_accuracy(said, is_visible))
