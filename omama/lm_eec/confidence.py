"""From the object score and the mask's area to the confidence that the object is there.

The released code calls an object visible where its mask covers more than 0.1 % of the picture, and
does not ask the score. Here val chooses between the score, the area and a logistic mixture of both
by balanced accuracy, and the threshold with it; as for O-MaMa, 0.5 is then the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from egoexo_tools.arrays import Bool, Float64
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.predictions import VISIBLE_SHARE
from omama.matching.visibility import Calibration, calibrate, logistic


@dataclass(frozen=True)
class Confidence:
    """How sure to be; without a calibration by the released code's rule."""

    weights: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of the mixture: of the score, of the area's logarithm, and a constant."""
    calibration: Calibration | None = None

    def of(self, object_scores: Float64, shares: Float64) -> Float64:
        """(B,) in 0..1 from object scores and shares of the picture; an empty mask gives 0."""
        if self.calibration is None:
            return np.asarray((shares > VISIBLE_SHARE).astype(np.float64))
        sure = self.calibration.confidence(_scores(object_scores, shares, self.weights))
        return np.asarray(np.where(shares > 0, sure, 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with `threshold` as every method's."""
        assert self.calibration is not None
        return {**self.calibration.to_dict(), "weights": list(self.weights)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Confidence:
        """What `to_dict` made; DataError for another method's."""
        known = dict(values)
        try:
            first, second, third = (float(value) for value in known.pop("weights"))
            return Confidence((first, second, third), Calibration(**known))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"these are no settings of LM-EEC's confidence: {error!r}") from error


def fit_confidence(object_scores: Float64, shares: Float64, visible: Bool) -> Confidence | None:
    """LoadedMatcher on val: (n,) scores and shares of predictions, and what is true of them.

    None where all are visible, or none.
    """
    if visible.all() or not visible.any():
        return None
    inputs = np.stack(_inputs(object_scores, shares), 1)
    first, second, third = logistic(inputs, visible).tolist()
    weights = (first, second, third)
    chosen = calibrate(_scores(object_scores, shares, weights), visible)
    return Confidence(weights, chosen)


def _scores(
    object_scores: Float64, shares: Float64, weights: tuple[float, float, float]
) -> dict[str, Float64]:
    score, area = _inputs(object_scores, shares)
    mixed = weights[0] * score + weights[1] * area + weights[2]
    return {"object_score": score, "area": area, "both": mixed}


def _inputs(object_scores: Float64, shares: Float64) -> tuple[Float64, Float64]:
    """The score, and the area on a scale where doubling counts the same, from 1/100 % up."""
    return np.asarray(object_scores, np.float64), np.log1p(np.asarray(shares, np.float64) * 1e4)
