"""The best proposal without those that show the object."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_clips import make_bucket

from omama.matching.objective import Matches, without_object


@pytest.mark.parametrize(
    ("ious", "best", "row"),
    [
        ([1.0, 0.2, 0.9, 0.0], 0.1, 3),  # two show part of it: the third remains
        ([1.0, 0.2, 0.01, 0.0], 0.7, 2),  # 0.01 is too little
        ([1.0, 0.2, 0.9, 0.1], -np.inf, None),  # no proposal remains
        ([1.0, 0.0, 0.01, 0.0], -np.inf, None),  # no proposal shows it: nothing is removed
    ],
)
def test_matches_without_the_object(ious: list[float], best: float, row: int | None) -> None:
    bucket, scores = make_bucket([0.99, 0.4, 0.7, 0.1])
    bucket = replace(bucket, truth=replace(bucket.truth, ious=torch.tensor([ious])))
    dests = torch.arange(8.0).reshape(1, 4, 2)
    matches = Matches(
        similarity=scores.similarity,
        best_row=torch.tensor([2]),
        best=torch.tensor([0.7]),
        source=torch.ones(1, 2),
        candidate=dests[:, 2],
        dests=dests,
    )
    without = without_object(matches, bucket)
    assert without.best.tolist() == pytest.approx([best])
    assert without.similarity is scores.similarity
    if row is not None:
        assert without.best_row.tolist() == [row]
        assert torch.equal(without.candidate[0], dests[0, row])
