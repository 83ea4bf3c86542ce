"""Summaries of a table of scores, against values computed by hand or by loops."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import reference

from egoexo_tools.evaluation import analysis
from egoexo_tools.manifests import SCHEMAS, to_table

Row = dict[str, Any]


def row(take: str, frame: int, iou: float | None, **more: Any) -> Row:
    """A sample; visible unless iou is None."""
    visible = iou is not None
    return {
        "pair_id": f"{take}/{frame}/{more.get('object_name', 'cup')}",
        "take_uid": take,
        "object_name": "cup",
        "source_camera": "aria01",
        "dest_camera": "cam01",
        "frame_idx": frame,
        "iou": iou,
        "contour_accuracy": iou,
        "location_error": None if iou is None else 1 - iou,
        "visible": visible,
        "predicted_visible": visible,
        "confidence": float(visible),
        "truth_area": 100 if visible else 0,
        "scored_height": 100,
        "scored_width": 100,
        **more,
    }


def make_frame(*rows: Row) -> pd.DataFrame:
    return to_table("scores", list(rows)).to_pandas()


def test_means_are_over_visible_samples_and_accuracy_over_all() -> None:
    frame = make_frame(
        row("a", 0, 0.5),
        row("a", 30, 1.0),
        row("a", 60, None, predicted_visible=True),
        row("b", 0, None),
    )
    assert analysis.mean_scores(frame) == {
        "iou": 0.75,
        "contour_accuracy": 0.75,
        "location_error": 0.25,
        "visibility_accuracy": 0.75,
        "samples": 4,
        "samples_visible": 2,
    }


def test_a_summary_without_visible_samples_has_no_scores() -> None:
    table = to_table("scores", [row("a", 0, None), row("a", 30, None)])
    summary = analysis.summarize(table, labels={"split": "val"}, coverage={})
    assert summary["iou"] is None
    assert summary["visibility_accuracy"] == 1.0
    assert summary["intervals"]["iou"] is None
    assert summary["ceilings"] is None
    assert summary["visibility"]["auc"] is None


def test_the_bootstrap_draws_takes() -> None:
    """Compared with a loop over draws; the number of takes, not of samples, decides the width."""
    rng = np.random.default_rng(5)
    values = rng.random(200)
    takes = np.repeat([f"take{i}" for i in range(10)], 20)
    interval = analysis.bootstrap_mean(pd.Series(values), pd.Series(takes))
    plain = reference.plain_bootstrap(values, takes, draws=2000, seed=1)
    assert interval == pytest.approx(plain, abs=0.01)
    equal_in_take = np.repeat(rng.random(10), 20)
    wide = analysis.bootstrap_mean(pd.Series(equal_in_take), pd.Series(takes))
    assert wide is not None and interval is not None
    assert wide[1] - wide[0] > 3 * (interval[1] - interval[0])


def test_the_interval_of_visibility_accuracy() -> None:
    rows = []
    for take in range(12):
        rows += [row(f"t{take}", i, 0.5, predicted_visible=i > take % 3) for i in range(6)]
        rows += [row(f"t{take}", 9, None, predicted_visible=take % 2 == 0)]
    frame = make_frame(*rows)
    low, high = analysis.intervals(frame)["visibility_accuracy"]
    accuracy = analysis.mean_scores(frame)["visibility_accuracy"]
    assert 0.4 < low < accuracy < high < 0.9
    assert analysis.bootstrap_gain(frame, frame) == [0.0, 0.0]
    perfect = frame.assign(predicted_visible=frame["visible"])
    gain = analysis.bootstrap_gain(frame, perfect)
    assert gain == [pytest.approx(1 - high), pytest.approx(1 - low)]


def test_one_take_has_no_interval() -> None:
    assert analysis.bootstrap_mean(pd.Series([0.1, 0.9]), pd.Series(["a", "a"])) is None


def test_breakdowns() -> None:
    frame = make_frame(
        row("a", 0, 0.2, scenario="Cooking", truth_area=5),
        row("a", 30, 0.4, scenario="Cooking", truth_area=300),
        row("b", 0, 0.9, scenario="Music", truth_area=300, dest_camera="cam02"),
        row("b", 30, None, scenario="Music"),
    )
    parts = analysis.breakdowns(frame)
    scenarios = {group["value"]: group["iou"] for group in parts["scenario"]}
    assert scenarios == {"Cooking": pytest.approx(0.3), "Music": 0.9}
    sizes = {group["value"]: group["samples"] for group in parts["size"]}
    assert sizes == {"tiny (< 0.1 %)": 1, "large (> 2 %)": 2}
    assert [part["value"] for part in parts["dest_camera"]] == ["cam01", "cam02"]
    assert [part["samples"] for part in parts["visible"]] == [1, 3]
    assert "scenario" not in analysis.breakdowns(make_frame(row("a", 0, 0.2)))


def test_ceilings_split_the_loss() -> None:
    frame = make_frame(
        row("a", 0, 0.2, oracle_iou=0.8, top5_iou=0.8),
        row("a", 30, 0.6, oracle_iou=0.6, top5_iou=0.6),
        row("b", 0, 0.0),  # no proposals in this frame
        row("b", 30, None),
    )
    bounds = analysis.ceilings(frame)
    assert bounds is not None
    assert bounds["oracle_iou"] == pytest.approx(1.4 / 3)
    assert bounds["recall_at_0.5"] == pytest.approx(2 / 3)
    assert bounds["recall_at_0.75"] == pytest.approx(1 / 3)
    assert bounds["proposer_share_of_loss"] == pytest.approx(1.6 / 2.2)
    assert bounds["matcher_share_of_loss"] == pytest.approx(0.6 / 2.2)
    assert bounds["top5_iou"] == pytest.approx(0.7)
    assert bounds["samples_without_proposals"] == 1


def test_stability_over_time() -> None:
    """A prediction that is absent once while the object is visible, and when it disappears."""
    steady = {"consistency": 0.5, "truth_consistency": 0.8}
    frame = make_frame(
        row("a", 60, 0.5, **steady),
        row("a", 0, 0.5),
        row("a", 30, 0.5, predicted_visible=False, **steady),
        row("a", 90, None, consistency=0.1),
        row("a", 0, 0.5, object_name="another"),
    )
    stability = analysis.over_time(frame)
    assert stability == {
        "neighbours": 3,
        "median_gap_frames": 30.0,
        "consistency": 0.5,
        "truth_consistency": pytest.approx(0.8),
        "consistency_ratio": pytest.approx(0.625),
        "flicker": pytest.approx(2 / 3),  # off at 30, on again at 60
        "truth_changes": pytest.approx(1 / 3),
    }
    assert analysis.over_time(make_frame(row("a", 0, 0.5), row("b", 30, 0.5))) is None


@pytest.mark.parametrize("seed", range(5))
def test_roc_against_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    visible = rng.random(60) < 0.6
    confidence = np.round(rng.normal(visible * 1.0, 1.0), 1)  # with ties
    curve_summary = analysis.roc(confidence, visible)
    assert curve_summary["auc"] == pytest.approx(reference.plain_auc(confidence, visible))
    best = curve_summary["best"]
    accuracies = {
        t: ((confidence > t)[visible].mean() + (confidence <= t)[~visible].mean()) / 2
        for t in np.arange(-4, 5, 0.05)
    }
    assert best["accuracy"] == pytest.approx(max(accuracies.values()))
    above = confidence > best["threshold"]
    assert (above[visible].mean() + (~above)[~visible].mean()) / 2 == pytest.approx(
        best["accuracy"]
    )
    curve = curve_summary["roc"]
    assert (curve["true_positive_rate"][0], curve["false_positive_rate"][0]) == (1.0, 1.0)
    assert (curve["true_positive_rate"][-1], curve["false_positive_rate"][-1]) == (0.0, 0.0)


def test_calibration() -> None:
    confidence = np.array([0.05, 0.05, 0.95, 0.95, 1.0, 3.0])
    visible = np.array([0, 1, 1, 1, 1, 0], bool)
    summary = analysis.calibration(confidence, visible)
    assert [part["samples"] for part in summary["bins"]] == [2, 4]
    assert [part["visible"] for part in summary["bins"]] == [0.5, 0.75]
    assert summary["expected_error"] == pytest.approx((2 * 0.45 + 4 * (0.975 - 0.75)) / 6)


def test_the_accuracy_at_a_given_threshold_is_reported() -> None:
    frame = make_frame(row("a", 0, 0.5, confidence=0.3), row("a", 30, None, confidence=0.1))
    summary = analysis.visibility(frame, threshold=0.2)
    assert summary["accuracy"] == 0.5
    assert summary["given"] == {"threshold": 0.2, "accuracy": 1.0}
    assert summary["best"]["accuracy"] == 1.0


def test_format_summary_names_the_samples() -> None:
    table = to_table("scores", [row("a", 0, 0.5), row("b", 0, None)])
    labels = {"protocol": "official", "direction": "ego2exo", "split": "val"}
    coverage = {"complete": False, "scored": 2, "expected": 9}
    text = analysis.format_summary(analysis.summarize(table, labels=labels, coverage=coverage))
    first, second, third = text.splitlines()[:3]
    assert first == "ego2exo, split val, official protocol: 2 samples (1 visible) in 2 takes"
    assert second == "PARTIAL: 2 of 9 expected samples scored"
    assert third.split()[:2] == ["iou", "0.5000"]


def test_the_rows_of_this_test_have_the_columns_of_the_schema() -> None:
    assert set(row("a", 0, 1.0)) <= set(SCHEMAS["scores"].names)
