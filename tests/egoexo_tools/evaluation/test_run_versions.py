"""Files of a run that do not belong together are refused by every command that reads them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from proposal_runs import RANDOM, TRAINED, write_proposal_run
from tiny_root import make_tiny_root

from egoexo_tools.checks.validate import validate
from egoexo_tools.cli import main
from egoexo_tools.evaluation.ground_truth import write_ground_truth
from egoexo_tools.evaluation.score_table import score_table
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, read_tables, write_manifest, write_table
from egoexo_tools.runs import RunFolder, digest_file, read_versions
from egoexo_tools.vocab import Direction, Split

E2X = Direction.EGO2EXO


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> DatasetRoot:
    """A tiny root with a run of test and one of val; read only."""
    root = make_tiny_root(tmp_path_factory.mktemp("versions") / "root")
    write_proposal_run(root, "ego2exo", TRAINED, E2X)
    write_proposal_run(root, "ego2exo-random", RANDOM, E2X, good=0)
    write_proposal_run(root, "val", TRAINED, E2X, split=Split.VAL)
    return root


@pytest.fixture
def root(scored: DatasetRoot, tmp_path: Path) -> Iterator[DatasetRoot]:
    shutil.copytree(scored.path, tmp_path / "root")
    yield DatasetRoot(tmp_path / "root")


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, " ".join(result.output.split())


def ground_truth(root: DatasetRoot, split: Split = Split.TEST) -> Path:
    out = root.path.parent / f"gt-{split}.json"
    write_ground_truth(root, direction=E2X, split=split, out=out)
    return out


def evaluate(root: DatasetRoot, path: Path, truth: Path, *options: str) -> tuple[int, str]:
    files = ["--ground-truth", truth, "--predictions", path]
    return invoke("evaluate", *files, "--protocol", "official", "--root", root.path, *options)


def test_the_files_of_a_run_state_one_version(scored: DatasetRoot) -> None:
    versions = read_versions(RunFolder.of(scored, "ego2exo"))
    names = ["scores.parquet", "summary.json", "summary_omama.json"]
    assert [name for name in versions if name.startswith("s")] == names
    digests = {
        (v["split"], v["predictions"], v["ground_truth"]) for v in map(versions.get, names) if v
    }
    assert len(digests) == 1
    assert versions["predictions.parquet"]["predictions"] == versions[names[0]]["predictions"]


@pytest.mark.parametrize("table", ["predictions.parquet", "scores.parquet", "summary.json"])
def test_a_file_of_another_run_is_refused_by_every_reader(root: DatasetRoot, table: str) -> None:
    """A5: the predictions of val beside the scores of test, and the like."""
    run, other = RunFolder.of(root, "ego2exo"), RunFolder.of(root, "ego2exo-random")
    shutil.copy(RunFolder.of(root, "val").path / table, run.path)
    x2e = write_proposal_run(root, "exo2ego", TRAINED, Direction.EXO2EGO)
    for arguments in (
        ["report", run.path, "-o", root.path.parent / "report.html"],
        ["compare", run.path, other.path],
        ["compare", other.path, run.scores],
        ["submit", run.path, x2e.path, "-o", root.path.parent / "submission.json"],
    ):
        code, output = invoke(*arguments)
        assert code == 1 and "split val in" in output and "split test in" in output, output
    assert not (root.path.parent / "submission.json").exists()
    problems = [finding.problem for finding in validate(root)]
    assert "the files of the run do not belong together" in problems
    table = score_table(root, [E2X])
    assert "split val in" in table and "split test in" in table
    assert "random proposal" in table and "O-MaMa" not in table


def test_predictions_made_again_make_the_scores_outdated_until_they_are_scored(
    root: DatasetRoot,
) -> None:
    run, other = RunFolder.of(root, "ego2exo"), RunFolder.of(root, "ego2exo-random")
    for name in ("predictions.parquet", "predictions.json"):
        shutil.copy(other.path / name, run.path)
    code, output = invoke("compare", run.path, other.path)
    assert code == 1 and "but predictions" in output
    code, output = evaluate(root, run.path, ground_truth(root))
    assert code == 0 and "removed" in output and "summary_omama.json" in output, output
    assert json.loads(run.summary.read_bytes())["iou"] < 0.5
    assert invoke("compare", run.path, other.path)[0] == 0


def test_evaluating_a_folder_stores_its_scores(root: DatasetRoot) -> None:
    """D1: `report` and `compare` work after `evaluate`."""
    run, truth = RunFolder.of(root, "ego2exo"), ground_truth(root)
    for path in run.score_files:
        path.unlink()
    code, output = evaluate(root, run.predictions_json, truth)
    assert code == 0 and not run.summary.exists()
    assert f"give the folder {run.path} to store the scores" in output
    code, output = evaluate(root, run.path, truth)
    assert code == 0 and f"scores stored in {run.path}" in output
    assert invoke("report", run.path)[0] == 0
    assert invoke("compare", run.path, root.runs / "ego2exo-random")[0] == 0


def test_scores_of_another_ground_truth_are_not_replaced_or_compared(root: DatasetRoot) -> None:
    run, other = RunFolder.of(root, "ego2exo"), RunFolder.of(root, "ego2exo-random")
    before = run.summary.read_bytes()
    unit = sorted(set(read_manifest(root, "pairs", units=["test.ego2exo"])["take_uid"].to_pylist()))
    masks = read_manifest(root, "masks", units=unit).to_pylist()
    # Another object's mask, in one frame.
    seen = [row for row in masks if row["visible"] and row["camera"] == "cam01"]
    seen[0]["rle_counts"] = seen[1]["rle_counts"]
    write_manifest(root, "masks", unit[0], masks)
    truth = ground_truth(root)
    code, output = evaluate(root, run.path, truth)
    assert code == 2 and "is already scored: ground truth" in output and "--overwrite" in output
    assert run.summary.read_bytes() == before
    assert evaluate(root, run.path, truth, "--overwrite")[0] == 0
    for command in (["compare", run.path, other.path], ["report", run.path, other.path]):
        code, output = invoke(*command)
        assert code == 1 and "ground truth" in output, output
    table = score_table(root, [E2X])
    assert table.count("ego2exo: test split") == 2 and table.count(", ground truth ") == 2


def test_a_split_is_only_scored_with_its_own_ground_truth(root: DatasetRoot) -> None:
    run = RunFolder.of(root, "val")
    code, output = evaluate(root, run.path, ground_truth(root), "--partial")
    assert code == 1 and "has predictions of split val" in output and "of split test" in output


def test_the_official_file_has_to_be_that_of_the_table(root: DatasetRoot) -> None:
    run = RunFolder.of(root, "ego2exo")
    metadata = {**TRAINED.to_metadata(), "export": digest_file(run.predictions_json)}
    write_table(
        run.predictions,
        "predictions",
        read_tables([run.predictions], "predictions"),
        metadata=metadata,
    )
    assert evaluate(root, run.path, ground_truth(root))[0] == 0
    shutil.copy(root.runs / "ego2exo-random" / "predictions.json", run.path)
    code, output = evaluate(root, run.path, ground_truth(root))
    assert code == 1 and "official file" in output
