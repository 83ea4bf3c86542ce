"""The threshold chosen on val, against trying all of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_deciding import bucket_of

from omama.confidence import Calibration, calibrate
from omama.matching.objective import Matches, without_object

SCORES = st.lists(
    st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0]), st.booleans()), min_size=2
)


def accuracy(predicted: np.ndarray, visible: np.ndarray) -> float:
    return float((predicted[visible].mean() + (~predicted[~visible]).mean()) / 2)


@given(SCORES)
def test_no_threshold_is_better(pairs: list[tuple[float, bool]]) -> None:
    values = np.array([value for value, _ in pairs])
    visible = np.array([seen for _, seen in pairs])
    found = calibrate({"similarity": values}, visible)
    if visible.all() or not visible.any():
        assert found is None
        return
    assert found is not None
    cuts = [-np.inf, *np.unique(values), np.inf]
    best = max(accuracy(values > cut, visible) for cut in cuts)
    assert found.balanced_accuracy == pytest.approx(best)
    confident = found.confidence({"similarity": values}) > 0.5
    assert accuracy(confident, visible) == pytest.approx(best)


def test_the_better_score_is_chosen() -> None:
    visible = np.array([True, True, False, False])
    scores = {"similarity": np.array([0.1, 0.9, 0.5, 0.2]), "head": np.array([3.0, 2.0, -1.0, 0.0])}
    found = calibrate(scores, visible)
    assert found is not None
    assert (found.score, found.balanced_accuracy, found.threshold) == ("head", 1.0, 1.0)


def test_no_proposals_give_no_confidence() -> None:
    calibration = Calibration("similarity", threshold=0.3, scale=0.1, balanced_accuracy=1.0)
    confidence = calibration.confidence({"similarity": np.array([-np.inf, 0.3, 0.9])})
    assert confidence == pytest.approx([0.0, 0.5, 1.0], abs=1e-2)
    assert confidence[0] < 1e-9


def test_pairs_without_proposals_count_as_the_lowest() -> None:
    found = calibrate({"similarity": np.array([-np.inf, 0.4, 0.6])}, np.array([False, True, True]))
    assert found is not None and found.balanced_accuracy == 1.0
    assert np.isfinite(found.threshold)


@pytest.mark.parametrize(
    ("ious", "best", "row"),
    [
        ([1.0, 0.2, 0.9, 0.0], 0.1, 3),  # two show something of it: the third is left
        ([1.0, 0.2, 0.01, 0.0], 0.7, 2),  # too little
        ([1.0, 0.2, 0.9, 0.1], -np.inf, None),  # nothing is left
        ([1.0, 0.0, 0.01, 0.0], -np.inf, None),  # no proposal shows it: nothing was taken out
    ],
)
def test_an_object_taken_out(ious: list[float], best: float, row: int | None) -> None:
    bucket, scored = bucket_of([[0.99, 0.4, 0.7, 0.1]])
    bucket = replace(bucket, truth=replace(bucket.truth, ious=torch.tensor([ious])))
    dests = torch.arange(8.0).reshape(1, 4, 2)
    similarity = scored.similarity
    matches = Matches(
        similarity=similarity,
        best_row=torch.tensor([2]),
        best=torch.tensor([0.7]),
        source=torch.ones(1, 2),
        candidate=dests[:, 2],
        dests=dests,
    )
    found = without_object(matches, bucket)
    assert found.best.tolist() == pytest.approx([best])
    assert found.similarity is similarity
    if row is not None:
        assert found.best_row.tolist() == [row]
        assert torch.equal(found.candidate[0], dests[0, row])
