"""Nearest neighbours in place of a model that is worse on val."""

from dataclasses import replace

import pytest
from square_trainings import CONFIG, blind, finish_run, read_config, read_log, train_run

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_tables
from egoexo_tools.runs import RunFolder
from egoexo_tools.vocab import Direction, Split
from omama.checkpoint import load_checkpoint
from omama.config import Features
from omama.features.descriptor_part import DescriptorPart
from omama.matching.config import MatchingOptions
from omama.writing import predict_run


def test_nearest_neighbours_replace_a_model_that_is_worse(
    own_root: DatasetRoot, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DescriptorPart, "fit", lambda part, *pairs: blind(part))
    config = replace(CONFIG, learning_rate=1e-9, epochs=1, residual=True)
    path = train_run(own_root, "a", config)
    finish_run(own_root, "a")
    best = load_checkpoint(path)
    start = read_log(own_root, "a")[0]
    assert start["start_val_iou"] < start["knn_val_iou"], "or this would prove nothing"
    assert (best.step, best.val_iou) == (0, start["knn_val_iou"])
    assert "holds nearest neighbours now, val IoU" in caplog.text
    assert read_config(own_root, "a")["val_iou"]["best"] == start["knn_val_iou"]
    assert best.decision is not None
    similarities = {}
    for method, checkpoint in (("o-mama", path), ("knn", None)):
        run = RunFolder.of(own_root, f"predicted-{method}")
        options = MatchingOptions(features=Features("rgb_grid"), decision="best", quiet=True)
        predict_run(
            method, own_root, Direction.EGO2EXO, Split.TEST, run,
            checkpoint=checkpoint, options=options,
        )  # fmt: skip
        rows = read_tables([run.predictions], "predictions").to_pylist()
        similarities[method] = {row["pair_id"]: row["similarity"] for row in rows}
    # The chosen proposals may differ: several have the same colour.
    assert similarities["o-mama"] == pytest.approx(similarities["knn"], abs=1e-4)


def test_a_better_model_stays_in_the_checkpoint(own_root: DatasetRoot) -> None:
    path = train_run(own_root, "a", replace(CONFIG, epochs=1))
    before = load_checkpoint(path)
    finish_run(own_root, "a")
    after = load_checkpoint(path)
    assert (after.step, after.val_iou) == (before.step, before.val_iou)
    assert after.weights.keys() == before.weights.keys()
