"""From synthetic videos to scores, through every stage, on a release of three tiny takes."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from egoexo_tools.cli import main
from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.records import RunOptions, read_statuses
from egoexo_tools.runs import RunFolder
from egoexo_tools.vocab import Direction, Split
from omama.config import Features
from omama.matching.config import MatchingOptions
from omama.pipeline import PipelineOptions, run_pipeline
from omama.writing import predict_run

pytestmark = pytest.mark.slow

RUN = RunOptions(executor="inline", quiet=True)
RGB = Features("rgb_grid")
TINY = {"epochs": 1, "batch_pairs": 8, "width": 32}
STAGES = [
    "ingest", "frames", "pairs", "propose", "export", "features", "train", "fit-decision",
    "predict",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_release: Release, tmp_path_factory: pytest.TempPathFactory) -> DatasetRoot:
    root = DatasetRoot(tmp_path_factory.mktemp("pipeline") / "root")
    options = PipelineOptions(features=RGB, training={**TINY, "width": 32})
    table = run_pipeline(root, tiny_release, options, run=RUN)
    assert "O-MaMa, trained" in table
    return root


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("direction", list(Direction))
def test_a_run_writes_its_files(trained: DatasetRoot, direction: Direction) -> None:
    folder = trained.runs / direction
    for name, protocol in (("summary.json", "official"), ("summary_omama.json", "omama")):
        summary = json.loads((folder / name).read_bytes())
        assert (summary["protocol"], summary["direction"], summary["split"]) == (
            protocol,
            direction.value,
            "test",
        )
        assert 0 <= summary["iou"] <= 1 and summary["samples"] >= summary["samples_visible"] > 0
    predictions = json.loads((folder / "predictions.json").read_bytes())
    assert list(predictions) == [direction.dashed]
    assert (folder / "ground_truth.json").is_file() and (folder / "scores.parquet").is_file()
    assert (trained.runs / "report.html").read_text().lower().startswith("<!doctype html>")


def test_every_stage_is_done_in_the_status(trained: DatasetRoot) -> None:
    for stage in [*STAGES, "evaluate", "report"]:
        statuses = read_statuses(trained, stage)
        assert statuses and all(status.status == "done" for status in statuses), stage
    result = CliRunner().invoke(main, ["status", str(trained.path)])
    assert result.exit_code == 0
    assert all(stage in result.output for stage in STAGES)
    assert "best proposal (oracle)" in result.output


def test_a_second_run_does_nothing(tiny_release: Release, trained: DatasetRoot) -> None:
    before = contents(trained.path)
    options = PipelineOptions(features=RGB, training={**TINY, "width": 32})
    lines: list[str] = []
    run_pipeline(trained, tiny_release, options, run=RUN, say=lines.append)
    assert all(": 0 done" in line for line in lines if not line.startswith("["))
    after = contents(trained.path)
    assert after.keys() == before.keys()
    assert [path for path in after if after[path] != before[path]] == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampling": "1fps"}, "frames was done with sampling='annotated', now '1fps'"),
        ({"seed": 7}, "pairs was done with seed=0, now 7"),
        (
            {"features": Features("efficientnet-lite0")},
            "train was done with backbone='rgb_grid', now 'efficientnet-lite0'",
        ),
    ],
)
def test_a_changed_setting_is_refused_by_name(
    tiny_release: Release, trained: DatasetRoot, change: dict[str, object], named: str
) -> None:
    options = {"features": RGB, "training": {**TINY, "width": 32}, **change}
    with pytest.raises(SettingsError, match=named):
        run_pipeline(trained, tiny_release, PipelineOptions(**options), run=RUN)  # type: ignore[arg-type]


def test_with_oracle_proposals_the_best_candidate_is_exact(
    tiny_release: Release, tmp_path: Path
) -> None:
    root = DatasetRoot(tmp_path / "root")
    options = PipelineOptions(
        features=RGB, proposer="oracle", training=TINY, export=False, report=False
    )
    run_pipeline(root, tiny_release, options, run=RUN)
    for direction in Direction:
        summary = json.loads((root.runs / f"{direction}-oracle" / "summary.json").read_bytes())
        # The formula's 1e-7 beside the union keeps it a hair below.
        assert summary["iou"] == pytest.approx(1.0, abs=1e-8)
        assert summary["contour_accuracy"] == 1.0
        assert summary["location_error"] == 0.0


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--scenario", "Coking"], 2, "scenario"),
        (["--proposer", "fastsam"], 2, "weights"),
        (["--backbone", "dinov2", "--backbone-weights", "nowhere.pth"], 1, "nowhere.pth"),
        (["--fraction", "train"], 2, "is not SPLIT=NUMBER"),
    ],
)
def test_bad_input_is_a_message_without_traceback(
    tiny_release: Release, tmp_path: Path, words: list[str], code: int, sentence: str
) -> None:
    result = CliRunner().invoke(
        main, ["run", str(tmp_path), "--release", str(tiny_release.path), "--quiet", *words]
    )
    assert (result.exit_code, "Traceback" in result.output) == (code, False)
    assert sentence in result.output


@pytest.mark.parametrize("direction", list(Direction))
def test_cached_and_live_features_choose_the_same_proposals(
    trained: DatasetRoot, direction: Direction
) -> None:
    tables = []
    for cached in (True, False):
        path = predict_run(
            "o-mama",
            trained,
            direction,
            Split.TEST,
            RunFolder.of(trained, f"{direction}-{'cached' if cached else 'live'}"),
            checkpoint=RunFolder.of(trained, direction).checkpoint_best,
            options=MatchingOptions(features=Features(cached=cached), quiet=True),
        )
        tables.append(pq.read_table(path.with_suffix(".parquet")).to_pandas())
    cached_rows, live_rows = tables
    assert len(live_rows) > 5
    assert cached_rows["proposal_idx"].equals(live_rows["proposal_idx"])
    assert (cached_rows["similarity"] - live_rows["similarity"]).abs().max() < 1e-3


def test_frames_from_the_small_copies_of_the_videos(tiny_release: Release, tmp_path: Path) -> None:
    words = ["run", str(tmp_path / "root"), "--release", str(tiny_release.path), "--size", "448"]
    words += ["--backbone", "rgb_grid", "--epochs", "1", "--direction", "ego2exo", "--no-export"]
    result = CliRunner().invoke(main, [*words, "--executor", "inline", "--quiet"])
    assert result.exit_code == 0, result.output
    frames = read_manifest(DatasetRoot(tmp_path / "root"), "frames").to_pandas()
    assert set(frames["height"]) == set(frames["source_height"]) == {448}
    assert "O-MaMa, trained" in result.output
