"""The stages of training."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest
from square_trainings import CONFIG, read_losses, train_run

from egoexo_tools.errors import SettingsError, StageFailed
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import RunOptions, StageSummary
from egoexo_tools.vocab import Direction
from omama.checkpoint import load_checkpoint
from omama.config import Features
from omama.matching.config import TrainConfig
from omama.steps import run_fit_decision, run_train

INLINE = RunOptions(executor="inline", quiet=True)


def test_a_decision_is_fitted_once_per_training(own_root: DatasetRoot) -> None:
    features, config = Features("rgb_grid"), replace(CONFIG, epochs=1)

    def run_stages(run: RunOptions) -> list[int]:
        summaries = [
            run_train(own_root, [Direction.EGO2EXO], config, features, run=run),
            run_fit_decision(own_root, [Direction.EGO2EXO], features, run=run),
        ]
        return [summary.check().done for summary in summaries]

    assert run_stages(INLINE) == [1, 1]
    path = own_root.runs / "ego2exo" / "checkpoint_best.pt"
    assert load_checkpoint(path).decision is not None
    assert run_stages(INLINE) == [0, 0]
    assert run_stages(replace(INLINE, overwrite=True)) == [1, 1]
    assert load_checkpoint(path).decision is not None


@pytest.mark.slow
def test_the_stage_resumes_a_killed_run_and_refuses_other_settings(own_root: DatasetRoot) -> None:
    """`egoexo-tools run`, killed without warning while it trains, and run again."""
    config = replace(CONFIG, epochs=25)
    code = (
        "import pathlib, torch; from omama.steps import run_train; "
        "from omama.config import Features; "
        "from omama.matching.config import TrainConfig; "
        "from egoexo_tools.layout import DatasetRoot; "
        "from egoexo_tools.running.records import RunOptions; "
        "from egoexo_tools.vocab import Direction; "
        f"torch.set_num_threads(1); run_train(DatasetRoot(pathlib.Path({str(own_root.path)!r})), "
        f"[Direction.EGO2EXO], TrainConfig(**{config.to_dict()!r}), Features('rgb_grid'), "
        "run=RunOptions(executor='inline', quiet=True))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    path = own_root.runs / "ego2exo" / "log.jsonl"
    while child.poll() is None and not (path.exists() and path.read_text().count("\n") > 12):
        time.sleep(0.01)
    child.kill()
    child.communicate(timeout=60)
    steps = load_checkpoint(path.with_name("checkpoint_last.pt")).step
    assert 0 < steps < 100

    def run_again(config: TrainConfig) -> StageSummary:
        features = Features("rgb_grid")
        return run_train(own_root, [Direction.EGO2EXO], config, features, run=INLINE)

    with pytest.raises(StageFailed, match="trained with learning_rate=0.003, now 0.1; resume with"):
        run_again(replace(config, learning_rate=0.1)).check()
    assert run_again(config).check().done == 1
    assert load_checkpoint(path.with_name("checkpoint_last.pt")).step == 100
    train_run(own_root, "whole", config)
    assert read_losses(own_root, "ego2exo") == read_losses(own_root, "whole")
    assert run_again(config).check().done == 0
    with pytest.raises(SettingsError, match="train was done with learning_rate=0.003, now 0.1"):
        run_again(replace(config, learning_rate=0.1))
