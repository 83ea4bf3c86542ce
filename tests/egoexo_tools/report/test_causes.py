"""Causes of failure, and the samples selected to show them."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from egoexo_tools.manifests import read_tables
from egoexo_tools.report.causes import find_causes, select_examples

COLUMNS = ["visible", "predicted_visible", "iou", "oracle_iou"]


@pytest.mark.parametrize(
    ("visible", "predicted_visible", "iou", "oracle", "cause"),
    [
        (True, True, 0.7, 0.9, "found"),
        (True, True, 0.5, 0.5, "found"),
        (True, True, 0.2, 0.9, "wrong"),
        (True, True, 0.2, 0.3, "no-proposal"),
        (True, False, 0.2, 0.3, "no-proposal"),
        (True, True, 0.0, None, "no-proposal"),
        (True, False, 0.7, 0.9, "falsely-absent"),
        (True, False, 0.2, 0.9, "falsely-absent"),
        (False, True, None, None, "falsely-visible"),
        (False, False, None, None, "rightly-absent"),
    ],
)
def test_cause(
    visible: bool, predicted_visible: bool, iou: float | None, oracle: float | None, cause: str
) -> None:
    # The second row gives the run ceilings.
    rows = [[visible, predicted_visible, iou, oracle], [True, True, 1.0, 1.0]]
    scores = pd.DataFrame(rows, columns=COLUMNS)
    assert find_causes(scores, chooses_proposals=True)[0] == cause


def test_the_cause_is_unknown_without_ceilings() -> None:
    rows = pd.DataFrame([[True, True, 0.2, None]], columns=COLUMNS).astype({"oracle_iou": float})
    assert find_causes(rows, chooses_proposals=True).tolist() == ["unknown"]


def test_examples_come_from_all_tracks(
    tmp_path: Path, write_many_samples: Callable[..., Path]
) -> None:
    folder = write_many_samples(tmp_path / "root", takes=3, frames=40, objects=2)
    scores = read_tables([folder / "scores.parquet"], "scores").to_pandas()
    examples = select_examples(scores, chooses_proposals=True)
    assert examples["pair_id"].is_unique
    worst = examples[examples["groups"].str.contains("worst")]
    assert len(worst) == 12
    tracks = worst.groupby(["take_uid", "object_name"]).size()
    assert tracks.tolist() == [2] * 6  # 3 takes of 2 objects
