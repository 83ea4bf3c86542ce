"""Methods by name, a user's own among them: what their runs say, and what table and report show."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
from tiny_root import make_tiny_root

from egoexo_tools.errors import SettingsError
from egoexo_tools.evaluation.evaluate import evaluate_run
from egoexo_tools.evaluation.score_table import score_table
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, read_tables
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.report.causes import count_causes
from egoexo_tools.report.charts import loss_parts
from egoexo_tools.report.page import write_report
from egoexo_tools.report.runs import read_run
from egoexo_tools.runs import (
    SUMMARIES,
    UNKNOWN_STAMP,
    RunFolder,
    Stamp,
    read_stamp,
    run_name,
    table_metadata,
)
from egoexo_tools.vocab import Direction, Split
from omama import methods
from omama.methods import METHODS, Method, make_options
from omama.writing import predict_run

E2X = Direction.EGO2EXO
EMPTY = MaskRle.encode(np.zeros((300, 480), np.bool_)).counts
ROW = {"pair_id": "t/aria01>cam01/0/cup", "confidence": 1.0, "rle_height": 2, "rle_width": 2,
       "rle_counts": "4"}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> DatasetRoot:
    return make_tiny_root(tmp_path_factory.mktemp("methods") / "root")


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch) -> str:
    """A method of four plain arguments that paints nothing and is sure of it."""
    module = ModuleType("someones_painter")

    def predict(
        root: DatasetRoot, direction: Direction, split: Split, checkpoint: Path | None
    ) -> Iterator[pa.Table]:
        assert checkpoint is None
        pairs = read_manifest(root, "pairs", units=[f"{split}.{direction}"])
        for pair_id in pairs.column("pair_id").to_pylist():
            mask = {"rle_height": 300, "rle_width": 480, "rle_counts": EMPTY}
            yield pa.Table.from_pylist([{**ROW, **mask, "pair_id": pair_id}])

    module.predict = predict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = Method(
        label="Someone's painter", chooses_proposals=False, predict="someones_painter:predict"
    )
    monkeypatch.setitem(METHODS, "painter", entry)
    return "painter"


def test_a_users_method_is_in_table_and_report_by_its_label(
    root: DatasetRoot, painter: str
) -> None:
    run = RunFolder.of(root, run_name(E2X, painter))
    predict_run(painter, root, E2X, Split.TEST, run)
    assert read_stamp(run) == Stamp(painter, "Someone's painter", chooses_proposals=False)
    assert "pairs_without_proposals" not in table_metadata(run.predictions)
    evaluate_run(root, run.path, direction=E2X, split=Split.TEST, protocols=SUMMARIES)
    assert "  Someone's painter " in score_table(root, [E2X])
    scores = read_tables([run.scores], "scores").to_pandas()
    assert scores["oracle_iou"].isna().all() and scores["top5_iou"].isna().all()
    write_report([run.path], root.runs / "report.html")
    page = (root.runs / "report.html").read_text(encoding="utf-8")
    assert "Someone&#39;s painter" in page and "wrong mask" in page
    assert "no good proposal" not in page and "matcher's failure" not in page
    assert 'id="ceilings"' not in page, "proposals say nothing where no run chooses among them"


def test_proposals_do_not_explain_masks_that_are_not_chosen(root: DatasetRoot) -> None:
    """Imported predictions, scored with --root, have ceilings, but no causes of failure."""
    run = RunFolder.of(root, run_name(E2X, "random"))
    predict_run("random", root, E2X, Split.TEST, run)
    evaluate_run(root, run.path, direction=E2X, split=Split.TEST, protocols=SUMMARIES)
    ours = read_run(run.path)
    theirs = replace(ours, stamp=UNKNOWN_STAMP)
    assert ours.scores is not None and ours.summary["ceilings"] is not None
    assert loss_parts(ours) is not None and loss_parts(theirs) is None
    assert "wrong" in count_causes(ours.scores, chooses_proposals=True)
    causes = count_causes(ours.scores, chooses_proposals=False)
    assert "unknown" in causes and not {"wrong", "no-proposal"} & set(causes)


def test_unknown_methods_settings_and_options_are_refused(painter: str, root: DatasetRoot) -> None:
    with pytest.raises(SettingsError, match="the method painter does not have --batch-pairs"):
        make_options(painter, {"batch_pairs": 3, "size": None})
    assert make_options(painter, {}, shared={"quiet": True}) is None
    assert make_options("knn", {"size": "image"}, shared={"quiet": True}).quiet
    with pytest.raises(SettingsError, match="training o-mama has no setting epoch; it has"):
        methods.make_config("o-mama", {"epoch": 3})
    with pytest.raises(SettingsError, match="'best' is not a method; use o-mama, knn"):
        methods.get_method("best")
    with pytest.raises(SettingsError, match="knn is not trained; train one of o-mama"):
        methods.train("knn", root, E2X, {}, RunFolder.of(root, "x"))


@pytest.fixture
def trained_painter(painter: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The painter with a training that writes the config as its checkpoint."""
    module = sys.modules["someones_painter"]

    def train(
        root: DatasetRoot, direction: Direction, config: Mapping[str, float], run: RunFolder
    ) -> Path:
        run.path.mkdir(parents=True, exist_ok=True)
        run.checkpoint_best.write_text(str(config))
        return run.checkpoint_best

    monkeypatch.setattr(module, "train", train, raising=False)
    entry = replace(METHODS[painter], train="someones_painter:train")
    monkeypatch.setitem(METHODS, painter, entry)
    return painter


@pytest.mark.parametrize(
    "name", ["checkpoint_best.pt", "checkpoint_last.pt", "predictions.parquet", "summary.json"]
)
def test_a_run_with_results_is_only_replaced_if_asked(
    tmp_path: Path, trained_painter: str, name: str
) -> None:
    """A6: whatever the method, and whatever of the run is there."""
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    (run.path / name).write_text("an hour of work")
    root = DatasetRoot(tmp_path)
    with pytest.raises(SettingsError, match=f"already has {name}.*--overwrite"):
        methods.train(trained_painter, root, E2X, {}, run)
    assert (run.path / name).read_text() == "an hour of work"
    methods.train(trained_painter, root, E2X, {}, run, overwrite=True)
    assert [path.name for path in run.path.iterdir()] == ["checkpoint_best.pt"]
    assert run.checkpoint_best.read_text() == "{}"


def test_another_split_never_changes_a_run(root: DatasetRoot, painter: str) -> None:
    """A5: predictions of val beside the scores of test."""
    run = RunFolder.of(root, "one-split")
    predict_run(painter, root, E2X, Split.TEST, run)
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    message = "has predictions of split test; predict val into a run .* --run-name one-split-val"
    with pytest.raises(SettingsError, match=message):
        predict_run(painter, root, E2X, Split.VAL, run)
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before
    predict_run(painter, root, E2X, Split.TEST, run)
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before
    metadata = table_metadata(run.predictions)
    assert metadata["split"] == "test" and len(metadata["pairs"]) == len(metadata["export"]) == 16
