"""Confidence that an object is visible in the destination view, for every method.

The benchmark calls an object visible where the confidence is above 0.5. Each method computes one or
more scores that rise with visibility, and val chooses how they become a confidence:

- O-MaMa: `calibrate` chooses the better of two scores (the visibility head's log odds, the best
  cosine) and a threshold. The reference uses the sigmoid of the best cosine, which is nearly
  always above 0.5.
- LM-EEC: `fit_mask_confidence` chooses between the object score, the mask's area and a mixture of
  both.
- Decisions (`omama.deciding`): `fit_logistic` weighs all scores of a pair for a
  `LogisticConfidence`.

Val has few absent pairs (1 of 934 in one split). O-MaMa therefore also counts each visible pair as
an absent one, without the candidates that show its object (SHOWS).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from egoexo_tools.arrays import Bool, Float64
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.predictions import VISIBLE_SHARE

Scores: TypeAlias = Mapping[str, Float64]
"""Name of a score → its values, one per pair. A higher value makes visible more likely."""
SHOWS = 0.02
"""A candidate shows part of the object if its IoU with the ground truth is above this."""
_RIDGE = 1e-2


@dataclass(frozen=True)
class Calibration:
    """Which score decides visibility, and how it becomes a confidence."""

    score: str
    """`head` or `similarity` for O-MaMa; `object_score`, `area` or `both` for LM-EEC."""
    threshold: float
    """In units of the score; the confidence is 0.5 there."""
    scale: float
    """Width of the sigmoid in units of the score; it does not change the order of confidences."""
    balanced_accuracy: float
    """On the val pairs that chose the threshold."""

    def confidence(self, scores: Scores) -> Float64:
        """(B,) in 0..1, above 0.5 for visible; a score of -inf (no proposals) gives 0."""
        distance = (scores[self.score] - self.threshold) / self.scale
        return np.asarray(expit(distance))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def calibrate(scores: Scores, visible: Bool) -> Calibration | None:
    """Choose score and threshold by balanced accuracy; None without visible or absent pairs."""
    if visible.all() or not visible.any():
        return None
    choices = [_calibrate_score(name, values, visible) for name, values in scores.items()]
    return max(choices, key=lambda choice: choice.balanced_accuracy)


def _calibrate_score(name: str, values: Float64, visible: Bool) -> Calibration:
    # A score of -inf (no proposals) is one below the lowest: thresholds must be finite.
    floor = values[np.isfinite(values)].min(initial=0.0) - 1.0
    values = np.where(np.isfinite(values), values, floor)
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    # Cut k: the k lowest scores count as absent.
    absent_right = np.concatenate([[0], np.cumsum(~visible[order])]) / (~visible).sum()
    visible_wrong = np.concatenate([[0], np.cumsum(visible[order])]) / visible.sum()
    accuracy = (absent_right + 1.0 - visible_wrong) / 2
    # No threshold separates equal scores, so a cut is only possible where the score rises.
    accuracy[1:-1][ascending[1:] == ascending[:-1]] = -1.0
    cut = int(accuracy.argmax())
    low = ascending[cut - 1] if cut else ascending[0] - 1.0
    high = ascending[cut] if cut < values.size else ascending[-1] + 1.0
    return Calibration(
        score=name,
        threshold=float((low + high) / 2),
        scale=float(max(values.std(), 1e-6)),
        balanced_accuracy=float(accuracy[cut]),
    )


@dataclass(frozen=True)
class LogisticConfidence:
    """A weighted sum of scores and a constant: the log odds of visible, 0 at the threshold."""

    weights: Mapping[str, float]
    """Name of a score → its weight."""
    constant: float
    balanced_accuracy: float | None
    """On val's own pairs, without those whose object was removed for the fit."""

    def confidence(self, scores: Scores) -> Float64:
        """In 0..1, above 0.5 for visible; of the scores' shape."""
        total = sum(weight * scores[name] for name, weight in self.weights.items()) + self.constant
        return np.asarray(expit(total))


def fit_logistic(
    inputs: Float64, visible: Bool, *, balanced: bool = False, rising: bool = False
) -> Float64:
    """Ridge logistic regression (n, k) → visible (n,); returns (k + 1,) weights, the constant last.

    `balanced`: visible and absent pairs weigh half each, however many there are, so that log odds
    of 0 are a threshold of balanced accuracy. `rising`: no weight is below 0.
    """
    # Standardised, so that the ridge penalises all weights alike.
    middle, spread = inputs.mean(0), np.maximum(inputs.std(0), 1e-6)
    columns = np.column_stack([(inputs - middle) / spread, np.ones(len(inputs))])
    signs = np.where(visible, 1.0, -1.0)
    share = np.where(visible, visible.mean(), 1 - visible.mean())
    counts = (0.5 / share if balanced else np.ones(len(inputs))) / len(inputs)

    def loss_and_gradient(weights: Float64) -> tuple[float, Float64]:
        margins = signs * (columns @ weights)
        errors = counts * signs * expit(-margins)
        loss = float(counts @ np.logaddexp(0, -margins)) + _RIDGE / 2 * float(weights @ weights)
        return loss, _RIDGE * weights - columns.T @ errors

    bounds = [(0.0 if rising else None, None)] * inputs.shape[1] + [(None, None)]
    start = np.zeros(len(bounds))
    weights = minimize(loss_and_gradient, start, jac=True, bounds=bounds, tol=1e-10).x
    # Back to the units of the inputs.
    slopes = weights[:-1] / spread
    return np.append(slopes, weights[-1] - slopes @ middle)


# LM-EEC -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskConfidence:
    """Confidence of a painted mask from the network's object score and the mask's area.

    Without a calibration it is the released code's rule, which ignores the object score: visible is
    what covers more than 0.1 % of the picture.
    """

    weights: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of the mixture: of the object score, of the area's logarithm, and a constant."""
    calibration: Calibration | None = None

    def confidence(self, object_scores: Float64, shares: Float64) -> Float64:
        """(B,) in 0..1 from object scores and shares of the picture; an empty mask gives 0."""
        if self.calibration is None:
            return np.asarray((shares > VISIBLE_SHARE).astype(np.float64))
        calibrated = self.calibration.confidence(_mask_scores(object_scores, shares, self.weights))
        return np.asarray(np.where(shares > 0, calibrated, 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint; `threshold` is a key of every method's calibration."""
        assert self.calibration is not None
        return {**self.calibration.to_dict(), "weights": list(self.weights)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MaskConfidence":
        """The inverse of `to_dict`; DataError for the calibration of another method."""
        fields = dict(values)
        try:
            score, area, constant = (float(value) for value in fields.pop("weights"))
            return cls((score, area, constant), Calibration(**fields))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a calibration of LM-EEC: {error!r}; calibrate again") from error


def fit_mask_confidence(
    object_scores: Float64, shares: Float64, visible: Bool
) -> MaskConfidence | None:
    """Fit on val predictions (n,); `visible` (n,) is the truth. None if all or none are visible."""
    if visible.all() or not visible.any():
        return None
    inputs = np.stack(_mask_inputs(object_scores, shares), 1)
    score, area, constant = fit_logistic(inputs, visible).tolist()
    weights = (score, area, constant)
    return MaskConfidence(weights, calibrate(_mask_scores(object_scores, shares, weights), visible))


def _mask_scores(
    object_scores: Float64, shares: Float64, weights: tuple[float, float, float]
) -> dict[str, Float64]:
    score, area = _mask_inputs(object_scores, shares)
    mixture = weights[0] * score + weights[1] * area + weights[2]
    return {"object_score": score, "area": area, "both": mixture}


def _mask_inputs(object_scores: Float64, shares: Float64) -> tuple[Float64, Float64]:
    """Object scores, and areas on a log scale that starts at 1/100 % of the picture."""
    return np.asarray(object_scores, np.float64), np.log1p(np.asarray(shares, np.float64) * 1e4)
