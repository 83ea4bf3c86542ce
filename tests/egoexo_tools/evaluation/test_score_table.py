"""The score table of a root's runs, and a metric that was added after a run was scored."""

import json
from pathlib import Path

import numpy as np
import pytest
from proposal_runs import ORACLE, RANDOM, TRAINED, write_proposal_run
from tiny_root import make_tiny_root

from egoexo_tools.arrays import Bool
from egoexo_tools.evaluation.compare import compare, format_comparison
from egoexo_tools.evaluation.evaluate import evaluate_run
from egoexo_tools.evaluation.metrics import METRICS, Metric
from egoexo_tools.evaluation.score_table import score_table
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.report.page import write_report
from egoexo_tools.runs import SUMMARIES, RunFolder
from egoexo_tools.vocab import Direction, Split

E2X = Direction.EGO2EXO


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> DatasetRoot:
    """A tiny root with an oracle run, and wrong runs stamped as trained O-MaMa and as random."""
    root = make_tiny_root(tmp_path_factory.mktemp("score_table") / "root")
    for name, stamp, good in (
        ("ego2exo-oracle", ORACLE, 3),
        ("ego2exo-random", RANDOM, 0),
        ("ego2exo", TRAINED, 1),
    ):
        write_proposal_run(root, name, stamp, E2X, good=good)
    return root


def test_rows_are_in_table_order_and_named_runs_are_left_out(root: DatasetRoot) -> None:
    named = RunFolder.of(root, "ego2exo-mine")
    named.path.mkdir()
    named.summary.write_bytes(RunFolder.of(root, "ego2exo").summary.read_bytes())
    damaged = RunFolder.of(root, "exo2ego-knn")
    damaged.path.mkdir()
    damaged.summary.write_text("{")
    lines = score_table(root, list(Direction)).splitlines()
    assert (
        lines[0] == "ego2exo: test split, official protocol, 6 samples, 5 with the object in view"
    )
    assert [line[2:38].rstrip() for line in lines[2:5]] == [
        "best proposal (oracle)",
        "O-MaMa, trained",
        "random proposal",
    ]
    assert lines[2].split()[3] == "1.000"
    assert "exo2ego-knn" in lines[-1] and "damaged" in lines[-1]


def test_a_metric_added_after_scoring_is_a_dash_until_the_run_is_scored_again(
    root: DatasetRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def extent_error(predicted: Bool, truth: Bool) -> float:
        return abs(float(np.mean(predicted)) - float(np.mean(truth)))

    monkeypatch.setitem(METRICS, "extent", Metric("extent error", "lower", extent_error))
    old, new = RunFolder.of(root, "ego2exo"), RunFolder.of(root, "ego2exo-random")
    evaluate_run(root, new.path, direction=E2X, split=Split.TEST, protocols=SUMMARIES)
    assert json.loads(new.summary.read_text())["extent"] >= 0
    lines = score_table(root, [E2X]).splitlines()
    assert lines[1].split() == ["IoU", "contour", "location", "extent", "visibility"]
    assert [line.split()[-2] == "-" for line in lines[2:5]] == [True, True, False]
    write_report([old.path, new.path], tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert "extent error&nbsp;↓" in page and page.count('data-key="extent"') == 4
    assert "extent " in format_comparison(compare(old.path, new.path))
