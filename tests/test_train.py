"""Training: resumed runs equal undisturbed ones, best by val IoU, and clear ends."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_root import TAKES

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.vocab import Direction
from omama.checkpoint import load_checkpoint
from omama.config import TrainConfig
from omama.train import train

CONFIG = TrainConfig(epochs=3, batch_pairs=4, width=16, learning_rate=3e-3)
FIRST = next(iter(TAKES))


def run(root: DatasetRoot, name: str, config: TrainConfig = CONFIG, **options: Any) -> Path:
    options = {"cached": True, "quiet": True, **options}
    return train(
        root,
        direction=Direction.EGO2EXO,
        run_name=name,
        config=config,
        backbone="rgb_grid",
        **options,
    )


def log(root: DatasetRoot, name: str) -> list[dict[str, Any]]:
    lines = (root.runs / name / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(root: DatasetRoot, name: str) -> list[float]:
    return [line["loss"] for line in log(root, name) if "loss" in line]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("stop_after", [1, 5])
def test_a_resumed_run_equals_an_undisturbed_one(
    own_root: DatasetRoot, accumulate: int, stop_after: int
) -> None:
    config = replace(CONFIG, accumulate=accumulate)
    run(own_root, "whole", config)
    run(own_root, "parts", config, stop_after=stop_after)
    assert len(losses(own_root, "parts")) == stop_after
    run(own_root, "parts", config, resume=True)
    assert losses(own_root, "parts") == losses(own_root, "whole")
    assert len(losses(own_root, "whole")) == 3 * -(-16 // (4 * accumulate))
    one, two = (
        load_checkpoint(own_root.runs / n / "checkpoint_last.pt") for n in ("whole", "parts")
    )
    assert all(torch.equal(one.model[key], two.model[key]) for key in one.model)
    assert (one.best_val_iou, one.step) == (two.best_val_iou, two.step)


def test_a_finished_run_is_not_trained_again(own_root: DatasetRoot) -> None:
    best = run(own_root, "a")
    before = best.stat().st_mtime_ns
    assert run(own_root, "a", resume=True) == best
    assert best.stat().st_mtime_ns == before
    with pytest.raises(SettingsError, match=r"learning_rate=0.003, now 0.1; resume with the same"):
        run(own_root, "a", replace(CONFIG, learning_rate=0.1), resume=True)


def test_cached_and_live_training_agree_and_frames_pass_once(
    own_root: DatasetRoot, capsys: pytest.CaptureFixture[str]
) -> None:
    run(own_root, "cached")
    run(own_root, "live", cached=False, quiet=False)
    assert losses(own_root, "live") == pytest.approx(losses(own_root, "cached"), abs=2e-3)
    # 16 pairs at 8 instants: 8 ego frames and, the first take having two exo cameras, 12 exo ones.
    assert "16 train pairs, 7 val pairs; 20 image features an epoch, computed as they come" in (
        capsys.readouterr().err
    )
    settings = json.loads((own_root.runs / "live" / "config.json").read_text())
    assert settings["image_features_per_epoch"] == 20


def test_the_best_checkpoint_has_the_best_val_iou(own_root: DatasetRoot) -> None:
    best = load_checkpoint(run(own_root, "a"))
    ious = [line["val_iou"] for line in log(own_root, "a") if "val_iou" in line]
    assert len(ious) == 3
    assert best.val_iou == max(ious) == 1.0  # three colours: nothing to confuse
    assert best.extra["calibration"]["balanced_accuracy"] > 0.5
    assert best.step == 4 * (1 + ious.index(max(ious)))


def test_patience_ends_a_run_for_good(own_root: DatasetRoot) -> None:
    config = replace(CONFIG, epochs=50, patience=2)
    run(own_root, "a", config)
    steps = len(losses(own_root, "a"))
    assert steps < 200
    run(own_root, "a", config, resume=True)
    assert len(losses(own_root, "a")) == steps


def test_a_nan_loss_stops_with_the_pair(own_root: DatasetRoot) -> None:
    with pytest.raises(DataError, match=r"loss became nan at step 2, at pair .*/aria01_214-1>cam0"):
        run(own_root, "a", replace(CONFIG, learning_rate=1e38))


@pytest.mark.slow
def test_a_signal_saves_and_a_resumed_run_goes_on(own_root: DatasetRoot) -> None:
    config = replace(CONFIG, epochs=400)
    code = (
        "import os, signal, threading, pathlib, torch; from omama.train import train; "
        "from omama.config import TrainConfig; from egoexo_tools.layout import DatasetRoot; "
        "from egoexo_tools.vocab import Direction; torch.set_num_threads(1); "
        f"train(DatasetRoot(pathlib.Path({str(own_root.path)!r})), direction=Direction.EGO2EXO, "
        f"run_name='a', config=TrainConfig(**{config.to_dict()!r}), backbone='rgb_grid', "
        "quiet=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    path = own_root.runs / "a" / "log.jsonl"
    while child.poll() is None and not (path.exists() and path.read_text().count("\n") > 6):
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGTERM)
    _, errors = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    done = load_checkpoint(own_root.runs / "a" / "checkpoint_last.pt").step
    assert len(losses(own_root, "a")) == done
    run(own_root, "a", config, resume=True, stop_after=3)
    run(own_root, "b", config, stop_after=done + 3)
    assert losses(own_root, "a") == losses(own_root, "b")


def test_other_pairs_start_anew(own_root: DatasetRoot, caplog: pytest.LogCaptureFixture) -> None:
    run(own_root, "a")
    rows = read_manifest(own_root, "pairs", units=["train.ego2exo"]).to_pylist()
    write_manifest(own_root, "pairs", "train.ego2exo", rows[4:])
    run(own_root, "a", resume=True)
    assert "trained on other pairs or features; training starts anew" in caplog.text
    assert len(losses(own_root, "a")) == 9


def test_what_is_left_out_is_listed(own_root: DatasetRoot) -> None:
    unit = f"{FIRST}.cam02"
    rows = read_manifest(own_root, "proposals", units=[unit]).to_pylist()
    write_manifest(own_root, "proposals", unit, [r for r in rows if r["frame_idx"] != 90])
    run(own_root, "a", cached=False)
    left_out = read_manifest(own_root, "exclusions", units=["train.a"]).to_pylist()
    reasons = sorted(row["reason"].split(": ")[1] for row in left_out)
    assert reasons == [
        "the destination frame has no proposals",
        "the destination was never annotated",
        "the destination was never annotated",
    ]


def test_training_starts_from_a_checkpoint_of_its_direction(own_root: DatasetRoot) -> None:
    best = run(own_root, "a")
    run(own_root, "b", init=best)
    assert losses(own_root, "b")[0] < losses(own_root, "a")[0] - 0.3
    with pytest.raises(DataError, match="was trained for ego2exo, not exo2ego"):
        train(
            own_root,
            direction=Direction.EXO2EGO,
            config=CONFIG,
            backbone="rgb_grid",
            init=best,
            quiet=True,
        )
    with pytest.raises(DataError, match=r"takes features of 3 channels, classical has 128"):
        train(
            own_root,
            direction=Direction.EGO2EXO,
            config=CONFIG,
            backbone="classical",
            cached=False,
            init=best,
            quiet=True,
        )


@pytest.mark.slow
def test_two_ranks_share_a_run(own_root: DatasetRoot) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
        "--no-python", str(Path(sys.executable).with_name("omama")),
        "train", str(own_root.path), "--direction", "ego2exo",
        "--backbone", "rgb_grid", "--width", "16", "--batch-pairs", "4", "--epochs", "2", "--quiet",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best checkpoint") == 1
    assert len(losses(own_root, "ego2exo")) == 2 * 2  # 16 pairs, two ranks of four
    best = load_checkpoint(own_root.runs / "ego2exo" / "checkpoint_best.pt")
    assert best.val_iou is not None and best.val_iou > 0
