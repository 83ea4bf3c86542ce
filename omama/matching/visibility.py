"""Confidence that an object is visible: which score says it best, and from where on.

The reference's confidence is the sigmoid of the best cosine, so nearly always above 0.5. Here the
val pairs choose between two scores (the trained head's log odds, and the best cosine itself)
and the threshold of the better one; confidence is the sigmoid of the distance to it, so that
0.5 is the threshold, as the benchmark expects. Absent pairs are few (1 of 934 in one val split),
so each visible pair also counts as an absent one, without the candidates that show its object.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from egoexo_tools.arrays import Bool, Float64

SHOWS = 0.02
"""IoU with the ground truth from which on a candidate shows something of the object."""
_RIDGE = 1e-2


@dataclass(frozen=True)
class Calibration:
    """Which score decides visibility, and how it becomes a confidence."""

    score: str
    """`head` or `similarity`."""
    threshold: float
    scale: float
    """Score units in which the sigmoid rises; only the order of confidences depends on it."""
    balanced_accuracy: float
    """On the val pairs that chose the threshold."""

    def confidence(self, scores: Mapping[str, Float64]) -> Float64:
        """(B,) in 0..1; above 0.5 means visible, and a score of -inf (no proposals) gives 0."""
        distance = (scores[self.score] - self.threshold) / self.scale
        return np.asarray(expit(distance))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def calibrate(scores: Mapping[str, Float64], visible: Bool) -> Calibration | None:
    """Choose score and threshold for the best balanced accuracy; None where one kind is missing."""
    if visible.all() or not visible.any():
        return None
    choices = [_calibrate_one(name, values, visible) for name, values in scores.items()]
    return max(choices, key=lambda choice: choice.balanced_accuracy)


def _calibrate_one(name: str, values: Float64, visible: Bool) -> Calibration:
    floor = values[np.isfinite(values)].min(initial=0.0) - 1.0
    values = np.where(np.isfinite(values), values, floor)
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    # Cut k: the k lowest scores count as absent.
    absent_right = np.concatenate([[0], np.cumsum(~visible[order])]) / (~visible).sum()
    visible_wrong = np.concatenate([[0], np.cumsum(visible[order])]) / visible.sum()
    accuracy = (absent_right + 1.0 - visible_wrong) / 2
    # Equal scores cannot be told apart: a cut lies only where the score rises.
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


def logistic(
    inputs: Float64, visible: Bool, *, balanced: bool = False, rising: bool = False
) -> Float64:
    """(k + 1,) weights, the constant last, of a ridge logistic regression (n, k) → visible.

    `balanced`: each kind counts half, however many there are of it; then the threshold 0 is one of
    balanced accuracy. `rising`: no input makes visible less likely where it is greater.
    """
    middle, spread = inputs.mean(0), np.maximum(inputs.std(0), 1e-6)
    columns = np.column_stack([(inputs - middle) / spread, np.ones(len(inputs))])
    signs = np.where(visible, 1.0, -1.0)
    share = np.where(visible, visible.mean(), 1 - visible.mean())
    counts = (0.5 / share if balanced else np.ones(len(inputs))) / len(inputs)

    def loss(weights: Float64) -> tuple[float, Float64]:
        """And its slope."""
        sides = signs * (columns @ weights)
        wrong = counts * signs * expit(-sides)
        value = float(counts @ np.logaddexp(0, -sides)) + _RIDGE / 2 * float(weights @ weights)
        return value, _RIDGE * weights - columns.T @ wrong

    bounds = [(0.0 if rising else None, None)] * inputs.shape[1] + [(None, None)]
    weights = minimize(loss, np.zeros(len(bounds)), jac=True, bounds=bounds, tol=1e-10).x
    slopes = weights[:-1] / spread
    return np.append(slopes, weights[-1] - slopes @ middle)
