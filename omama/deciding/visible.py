"""How sure a decision is that its object is in view at all.

Its log odds alone are a poor measure: an absent object lands on a thing that looks alike, or on
another object's mask, and over a whole track the frames confirm each other. So a logistic
regression weighs the log odds with what else tells. It learns from val's pairs, and from the same
with objects taken out (`judged.with_absences`): too few of them are absent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoexo_tools.arrays import Bool
from egoexo_tools.evaluation.metrics import balanced_accuracy
from omama.confidence import LogisticConfidence, Scores, fit_logistic
from omama.deciding.clips import Clip
from omama.deciding.decide import Belief, Mode, Parameters, crowding, decide
from omama.deciding.judged import LabelledClip, with_absences
from omama.deciding.links import Links

PAST = "past_log_odds"
SCORES = ("log_odds", "similarity", "alone", PAST)


def visible_scores(clip: Clip, links: Links, belief: Belief, past: Parameters | None) -> Scores:
    """Scores of a clip's pairs, (T, O); 0 where there is no candidate, which is absent anyway.

    `log_odds` of visible; `similarity` of the chosen candidate, which does not depend on other
    frames; `alone`, minus its overlap with the choices of the frame's other objects; for `track`
    also `past_log_odds`, the log odds of the past-only decision.

    `past`: the parameters of the past-only decision that is to say something too.
    """
    chosen = np.maximum(belief.choice, 0)[..., None]
    overlap = crowding(clip, slice(0, len(belief.mass)), belief.mass)
    scores: dict[str, NDArray[Any]] = {
        "log_odds": belief.visible_logit,
        "similarity": np.take_along_axis(clip.similarity, chosen, axis=-1)[..., 0],
        "alone": -np.take_along_axis(overlap, chosen, axis=-1)[..., 0],
    }
    if past is not None:
        scores[PAST] = decide(clip, links, Mode.TRACK_CAUSAL, past).visible_logit
    return {name: np.where(belief.choice < 0, 0.0, score) for name, score in scores.items()}


def fit_visibility(
    clips: Sequence[LabelledClip], mode: Mode, parameters: Parameters, past: Parameters | None
) -> LogisticConfidence | None:
    """Learn it from val clips; None where no candidate shows any object and none is absent."""

    def scored(judged: LabelledClip, clip: Clip, which: Bool, visible: Bool) -> _Pairs:
        belief = decide(clip, judged.links, mode, parameters)
        scores = visible_scores(clip, judged.links, belief, past)
        return _Pairs(
            {name: score[which] for name, score in scores.items()},
            belief.choice[which] >= 0,
            visible[which],
        )

    own = [scored(judged, judged.clip, judged.clip.exists, judged.visible) for judged in clips]
    taken_out = [
        scored(judged, clip, gone, np.zeros_like(gone))
        for judged in clips
        for clip, gone in with_absences(judged)
    ]
    known = _join([*own, *taken_out])
    inputs = np.stack(list(known.scores.values()), axis=1)[known.has_candidates]
    is_visible = known.visible[known.has_candidates]
    if is_visible.all() or not is_visible.any():
        return None
    *weights, constant = fit_logistic(inputs, is_visible, balanced=True, rising=True).tolist()
    found = LogisticConfidence(dict(zip(known.scores, weights, strict=True)), constant, None)
    pairs = _join(own)
    said = pairs.has_candidates & (found.confidence(pairs.scores) > 0.5)
    return replace(found, balanced_accuracy=balanced_accuracy(said, pairs.visible))


@dataclass(frozen=True)
class _Pairs:
    """Some pairs (n,)."""

    scores: Scores
    has_candidates: Bool
    visible: Bool


def _join(parts: Sequence[_Pairs]) -> _Pairs:
    names = parts[0].scores
    return _Pairs(
        {name: np.concatenate([part.scores[name] for part in parts]) for name in names},
        np.concatenate([part.has_candidates for part in parts]),
        np.concatenate([part.visible for part in parts]),
    )
