"""Sizes at which masks are compared, and metrics that were added."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_predictions import TAKE, save_json, shifted_predictions
from tiny_root import EGO

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation import metrics
from egoexo_tools.evaluation.evaluate import EvaluateOptions, evaluate
from egoexo_tools.masks.rle import MaskRle


def test_a_wrong_size_is_an_error_unless_resized(truth: Path, tmp_path: Path) -> None:
    predictions = shifted_predictions(truth, size=lambda size: (280, 280))
    path = save_json(predictions, tmp_path / "p.json")
    with pytest.raises(DataError) as error:
        evaluate(truth, path, protocol="official")
    assert f"take {TAKE}, 'red cup', cam01_{EGO}, frame 0 is 280x280, not 480x480" in str(
        error.value
    )
    assert "--resize-predictions" in str(error.value)
    resized = evaluate(
        truth, path, protocol="official", options=EvaluateOptions(resize_predictions=True)
    )
    assert resized.summary["iou"] == pytest.approx(1.0, abs=1e-9)
    assert resized.scores["scored_height"].to_pylist() == [480] * 6


def test_portrait_images_have_their_long_side_at_480(tmp_path: Path) -> None:
    mask = np.zeros((3840, 2160), np.uint8)
    mask[1000:2000, 500:900] = 1
    rle = MaskRle.encode(mask).to_json()
    small = cv2.resize(mask, (270, 480), interpolation=cv2.INTER_NEAREST)
    cameras = {"cam01": {"7": rle}, EGO: {"7": rle}}
    annotated = {"cup": {"cam01": [7], EGO: [7]}}
    truth = {"annotations": {"t": {"masks": {"cup": cameras}, "annotated_frames": annotated}}}
    entry = {"pred_mask": MaskRle.encode(small).to_json(), "confidence": 1.0}
    results = {"t": {"masks": {"cup": {f"{EGO}_cam01": {"7": entry}}}}}
    evaluation = evaluate(
        save_json(truth, tmp_path / "gt.json"),
        save_json({"ego-exo": {"results": results}}, tmp_path / "p.json"),
        protocol="official",
    )
    assert evaluation.summary["iou"] == pytest.approx(1.0, abs=1e-9)
    assert evaluation.summary["split"] == "unstated"
    assert evaluation.scores["scored_height"].to_pylist() == [480]


def test_an_added_metric_is_a_column_of_the_scores(
    truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dice(predicted: Any, true: Any) -> float:
        return float(2 * (predicted & true).sum() / (predicted.sum() + true.sum()))

    monkeypatch.setitem(metrics.METRICS, "dice", metrics.Metric("Dice", "higher", dice))
    path = save_json(shifted_predictions(truth, shift=9), tmp_path / "p.json")
    for row in evaluate(truth, path, protocol="official").scores.to_pylist():
        expected = None if row["iou"] is None else 2 * row["iou"] / (1 + row["iou"])
        assert row["dice"] == pytest.approx(expected, abs=1e-6)
