"""The candidates that are kept of a bucket."""

import numpy as np
import pytest
from random_clips import make_bucket

from omama.deciding.candidates import TOP_CANDIDATES, select_candidates


def test_ground_truth_rows_are_not_candidates() -> None:
    """The first row is the true mask itself: by far the most similar, and not to be used."""
    candidates = select_candidates(*make_bucket([0.99, 0.1, 0.3, 0.2]))
    assert candidates.proposal[0].tolist() == [1, 2, 0] + [-1] * (TOP_CANDIDATES - 3)
    assert candidates.similarity[0, :3] == pytest.approx([0.3, 0.2, 0.1])
    assert np.isneginf(candidates.similarity[0, 3:]).all()
    assert candidates.iou[0, :4] == pytest.approx([0.9, 0.1, 0.2, 0.0])
    assert (candidates.appearance[0, 3:] == 0).all() and (candidates.embedding[0, 3:] == 0).all()
    other = select_candidates(*make_bucket([-0.99, 0.1, 0.3, 0.2]))
    np.testing.assert_array_equal(other.similarity, candidates.similarity)
    np.testing.assert_array_equal(other.appearance, candidates.appearance)
