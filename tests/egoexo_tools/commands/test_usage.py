"""Options that commands share, and combinations of options that a command refuses."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command_lines import PROGRAMS, run_command_line

from egoexo_tools.commands import root_argument, stage_options
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import RunOptions
from egoexo_tools.running.shard import Shard


@click.command()
@root_argument
@stage_options("inline")
def stage_command(root: DatasetRoot, run: RunOptions) -> None:
    assert isinstance(root, DatasetRoot)
    click.echo(repr(run))


def test_stage_options_become_run_options() -> None:
    assert CliRunner().invoke(stage_command, ["root"]).output == f"{RunOptions('inline')}\n"
    options = ["root", "--executor", "dask", "--resource", "GPU=1", "--shard", "3/40", "--quiet"]
    expected = RunOptions("dask", resources={"GPU": 1.0}, shard=Shard(3, 40), quiet=True)
    assert CliRunner().invoke(stage_command, options).output == f"{expected}\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("status", "Missing argument 'ROOT'"),
        ("pairs root --resource GPU=1", "--scheduler and --resource are for Dask"),
        ("pairs root --executor dask --resource GPU", "'GPU' is not NAME=NUMBER; write it as GPU"),
        ("pairs root --shard 5/4", "5/4"),
        ("pairs root --fraction dev=1", "'dev=1' is not SPLIT=NUMBER; write it as train=0.2"),
        ("compare a b --pictures wins", "--pictures needs --root"),
        ("run root --release release --method none", "'none' is not one of 'o-mama', 'knn'"),
    ],
)
def test_refused_usage(line: str, message: str) -> None:
    result = CliRunner().invoke(PROGRAMS["egoexo-tools"], line.split())
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("omama predict", "give either a dataset ROOT, or --source-image"),
        ("omama predict root --source-image a.jpg", "give either a dataset ROOT"),
        ("omama predict root --method knn", "--direction, --split missing"),
        ("omama predict --source-image a.jpg --method knn", "--source-mask, --dest-image"),
        ("omama fit-decision root --direction ego2exo", "give either --checkpoint FILE or"),
    ],
)
def test_refused_prediction(line: str, message: str) -> None:
    result = run_command_line(line.split())
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize("method", ["oracle", "lm-eec"])
def test_only_matching_predicts_a_pair_of_pictures(method: str) -> None:
    checkpoint = "--checkpoint x.pt" if method == "lm-eec" else ""
    pair = "--source-image a.jpg --source-mask a.png --dest-image b.jpg -o out.png"
    result = run_command_line(f"omama predict {pair} --method {method} {checkpoint}".split())
    assert result.exit_code == 2
    assert f"{method} does not predict a pair of pictures; use o-mama or knn" in result.output


@pytest.mark.slow
def test_only_a_page_shows_a_run(finished_demo: Path) -> None:
    words = ["view", str(finished_demo / "root"), "--take", "sfu_health_02_1", "--run", "run"]
    result = run_command_line(["egoexo-tools", *words])
    assert result.exit_code == 2 and "add --html" in result.output
