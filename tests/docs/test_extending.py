"""The snippets of docs/extending.md run; their names appear in help, score table and report."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner
from command_lines import PROGRAMS
from tiny_root import make_tiny_root

from egoexo_tools.evaluation.evaluate import evaluate_run
from egoexo_tools.evaluation.metrics import METRICS
from egoexo_tools.evaluation.score_files import read_scores
from egoexo_tools.evaluation.score_table import score_table
from egoexo_tools.formats.registry import EXPORTERS
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.proposers import PROPOSERS
from egoexo_tools.running.records import RunOptions
from egoexo_tools.runs import SUMMARIES
from egoexo_tools.vocab import Direction, Split
from omama.features.registry import BACKBONES
from omama.methods import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
MODULES = ("my_backbone", "my_proposer", "my_metric", "my_method", "my_export", "my_stage")


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ModuleType]]:
    """The page's snippets, each written to the file that its first line names, and imported."""
    folder = tmp_path_factory.mktemp("extending")
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
        name = re.match(r"# (\w+)\.py", code)
        assert name is not None, "a snippet's first line names its file"
        (folder / f"{name[1]}.py").write_text(code, encoding="utf-8")
    tables = (BACKBONES, PROPOSERS, METRICS, METHODS, EXPORTERS)
    before = [dict(table) for table in tables]
    sys.path.insert(0, str(folder))
    yield {name: importlib.import_module(name) for name in MODULES}
    sys.path.remove(str(folder))
    for name in MODULES:
        del sys.modules[name]
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)  # type: ignore[arg-type]


@pytest.fixture
def root(modules: dict[str, ModuleType], tmp_path: Path) -> DatasetRoot:
    return make_tiny_root(tmp_path / "root")


def call(program: str, *words: object) -> str:
    result = CliRunner().invoke(PROGRAMS[program], [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("program", "command", "name"),
    [
        ("omama", "features", "grey"),
        ("omama", "train", "grey"),
        ("egoexo-tools", "propose", "tiles"),
        ("egoexo-tools", "export", "names"),
        ("omama", "predict", "same-place"),
        ("omama", "train", "same-place"),
        ("egoexo-tools", "run", "same-place"),
    ],
)
def test_help_shows_what_was_added(
    modules: dict[str, ModuleType], program: str, command: str, name: str
) -> None:
    assert name in call(program, command, "--help")


@pytest.mark.slow
def test_a_method_and_a_metric_are_in_table_and_report(root: DatasetRoot) -> None:
    for direction in Direction:
        call("omama", "train", root.path, "--method", "same-place", "--direction", direction)
        run = root.runs / f"{direction}-same-place"
        checkpoint = run / "checkpoint_best.pt"
        call(
            "omama", "predict", root.path, "--method", "same-place", "--direction", direction,
            "--checkpoint", checkpoint, "--split", "test", "--run-name", run.name,
        )  # fmt: skip
        evaluate_run(root, run, direction=direction, split=Split.TEST, protocols=SUMMARIES)
    scores = read_scores(run / "scores.parquet").to_pandas()
    assert scores.loc[scores["visible"], "area_error"].notna().all()
    table = score_table(root, list(Direction))
    assert "the same place" in table and "area" in table.splitlines()[1]
    call("egoexo-tools", "report", run)
    page = (root.runs / "report.html").read_text(encoding="utf-8")
    assert "the same place" in page and "area error" in page


@pytest.mark.slow
def test_a_backbone_trains_and_predicts(root: DatasetRoot) -> None:
    call("omama", "features", root.path, "--backbone", "grey", "--executor", "inline")
    call(
        "omama", "train", root.path, "--direction", "ego2exo", "--backbone", "grey",
        "--epochs", "1", "--quiet",
    )  # fmt: skip
    assert (root.runs / "ego2exo" / "checkpoint_best.pt").is_file()


@pytest.mark.slow
def test_a_proposer_proposes(root: DatasetRoot) -> None:
    call(
        "egoexo-tools", "propose", root.path, "--proposer", "tiles", "--executor", "inline",
        "--overwrite",
    )  # fmt: skip
    proposals = read_manifest(root, "proposals", columns=["camera", "frame_idx"]).to_pandas()
    assert len(proposals) and len(proposals) % 16 == 0


def test_an_exporter_exports(root: DatasetRoot, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call(
        "egoexo-tools", "export", root.path, "--format", "names", "-o", out, "--executor", "inline"
    )
    texts = {path.read_text(encoding="utf-8") for path in out.glob("*.txt")}
    assert texts == {"blue bowl\ngreen box/lid\nred cup\n"}


def test_a_stage_runs_once_and_is_listed_in_status(
    root: DatasetRoot, modules: dict[str, ModuleType]
) -> None:
    run = RunOptions(executor="inline", quiet=True)
    first = modules["my_stage"].run_brightness(root, run=run).check()
    again = modules["my_stage"].run_brightness(root, run=run).check()
    assert (first.done, again.done, again.skipped) == (4, 0, 4)
    assert "brightness" in call("egoexo-tools", "status", root.path)


@pytest.mark.slow
def test_a_users_file_is_a_program(modules: dict[str, ModuleType]) -> None:
    folder = Path(str(modules["my_backbone"].__file__)).parent
    result = subprocess.run(
        [sys.executable, folder / "my_omama.py", "features", "--help"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0 and "grey" in result.stdout, result.stderr
