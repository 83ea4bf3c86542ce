"""Confidence that an object is visible: thresholds and weights against trying others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egoexo_tools.evaluation.metrics import balanced_accuracy
from omama.confidence import (
    Calibration,
    MaskConfidence,
    calibrate,
    fit_logistic,
    fit_mask_confidence,
)

SCORED_PAIRS = st.lists(
    st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0]), st.booleans()), min_size=2
)


@given(SCORED_PAIRS)
def test_no_threshold_is_better(pairs: list[tuple[float, bool]]) -> None:
    values = np.array([value for value, _ in pairs])
    visible = np.array([is_visible for _, is_visible in pairs])
    calibration = calibrate({"similarity": values}, visible)
    if visible.all() or not visible.any():
        assert calibration is None
        return
    assert calibration is not None
    cuts = [-np.inf, *np.unique(values), np.inf]
    best = max(balanced_accuracy(values > cut, visible) or 0.0 for cut in cuts)
    assert calibration.balanced_accuracy == pytest.approx(best)
    predicted = calibration.confidence({"similarity": values}) > 0.5
    assert balanced_accuracy(predicted, visible) == pytest.approx(best)


def test_the_better_score_is_selected() -> None:
    visible = np.array([True, True, False, False])
    scores = {"similarity": np.array([0.1, 0.9, 0.5, 0.2]), "head": np.array([3.0, 2.0, -1.0, 0.0])}
    calibration = calibrate(scores, visible)
    assert calibration == Calibration("head", 1.0, calibration.scale, 1.0)


def test_no_proposals_give_no_confidence() -> None:
    calibration = Calibration("similarity", threshold=0.3, scale=0.1, balanced_accuracy=1.0)
    confidence = calibration.confidence({"similarity": np.array([-np.inf, 0.3, 0.9])})
    assert confidence == pytest.approx([0.0, 0.5, 1.0], abs=1e-2)
    assert confidence[0] < 1e-9


def test_pairs_without_proposals_count_as_the_lowest() -> None:
    values, visible = np.array([-np.inf, 0.4, 0.6]), np.array([False, True, True])
    calibration = calibrate({"similarity": values}, visible)
    assert calibration is not None and calibration.balanced_accuracy == 1.0
    assert np.isfinite(calibration.threshold)


@pytest.mark.parametrize("rising", [False, True])
@pytest.mark.parametrize("balanced", [False, True])
def test_no_logistic_weights_near_the_fitted_ones_are_better(balanced: bool, rising: bool) -> None:
    """The second input adds nothing and is so noisy that its own weight would be below 0."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(400, 2)) * [3.0, 0.1] + [1.0, 0.5]
    visible = inputs[:, 0] - 5 * inputs[:, 1] + rng.normal(size=400) * 3 > 0
    middle, spread = inputs.mean(0), inputs.std(0)

    def loss(weights: np.ndarray) -> float:
        total = 0.0
        for row, is_visible in zip(inputs, visible, strict=True):
            log_odds = weights[:2] @ ((row - middle) / spread) + weights[2]
            share = visible.mean() if is_visible else 1 - visible.mean()
            probability = 1 / (1 + np.exp(-log_odds if is_visible else log_odds))
            total -= np.log(probability) * (0.5 / share if balanced else 1.0) / 400
        return total + 0.01 / 2 * float(weights @ weights)

    fitted = fit_logistic(inputs, visible, balanced=balanced, rising=rising)
    assert (fitted[1] == 0) if rising else (fitted[1] < 0)
    standardised = np.array([*(fitted[:2] * spread), fitted[2] + fitted[:2] @ middle])
    least = loss(standardised)
    for place in range(3):
        for step in (-0.01, 0.01):
            changed = standardised.copy()
            changed[place] += step
            if not rising or changed[1] >= 0:
                assert loss(changed) > least
    if balanced:
        predicted = inputs @ fitted[:2] + fitted[2] > 0
        assert abs(predicted[visible].mean() - (~predicted[~visible]).mean()) < 0.1


def test_mask_confidence_selects_between_object_score_and_area() -> None:
    generator = np.random.default_rng(0)
    visible = generator.random(400) > 0.3
    score = generator.normal(size=400) + 2 * visible
    share = np.exp(generator.normal(size=400) + 1.5 * visible) * 1e-3
    fitted = fit_mask_confidence(score, share, visible)
    by_one_input = [
        fit_mask_confidence(score, np.full(400, 0.1), visible),
        fit_mask_confidence(np.zeros(400), share, visible),
    ]
    accuracy = fitted.calibration.balanced_accuracy
    assert accuracy >= max(each.calibration.balanced_accuracy for each in by_one_input) > 0.7
    confidence = fitted.confidence(score, share)
    assert balanced_accuracy(confidence > 0.5, visible) == pytest.approx(accuracy)
    assert fitted.confidence(np.array([50.0]), np.array([0.0])) == 0
    copy = MaskConfidence.from_dict(fitted.to_dict())
    assert np.array_equal(copy.confidence(score, share), confidence)
    assert fit_mask_confidence(score, share, np.ones(400, np.bool_)) is None


def test_without_a_calibration_the_released_rule_counts_pixels() -> None:
    shares = np.array([0.0, 230 / 480**2, 231 / 480**2])
    assert MaskConfidence().confidence(np.zeros(3), shares).tolist() == [0.0, 0.0, 1.0]
