"""Training: resuming, the best checkpoint, checkpoints to start from, errors, several ranks."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import psutil
import pytest
import torch
from square_trainings import (
    CONFIG,
    blind,
    finish_run,
    read_config,
    read_log,
    read_losses,
    train_run,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_root import TAKES, rewrite_digests

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.running.records import RunOptions
from egoexo_tools.runs import RunFolder
from egoexo_tools.vocab import Direction
from omama.checkpoint import load_checkpoint
from omama.config import Features
from omama.features.cache import run_features
from omama.loop import Loop, StepLog
from omama.matching.config import MatchingOptions, TrainConfig
from omama.matching.train import train

FIRST = next(iter(TAKES))
INLINE = RunOptions(executor="inline", quiet=True)


@pytest.mark.parametrize(("accumulate", "average_decay"), [(1, 0.9), (2, 0.0)])
@pytest.mark.parametrize("stop_after", [1, 5])
def test_a_resumed_run_equals_an_undisturbed_one(
    own_root: DatasetRoot, accumulate: int, average_decay: float, stop_after: int
) -> None:
    config = replace(CONFIG, accumulate=accumulate, average_decay=average_decay)
    train_run(own_root, "whole", config)
    train_run(own_root, "parts", config, stop_after=stop_after)
    assert len(read_losses(own_root, "parts")) == stop_after
    train_run(own_root, "parts", config, resume=True)
    assert read_losses(own_root, "parts") == read_losses(own_root, "whole")
    assert len(read_losses(own_root, "whole")) == 3 * -(-16 // (4 * accumulate))
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        whole, parts = (load_checkpoint(own_root.runs / n / name) for n in ("whole", "parts"))
        assert all(torch.equal(whole.weights[key], parts.weights[key]) for key in whole.weights)
        assert (whole.state.best_iou, whole.step) == (parts.state.best_iou, parts.step)
        for key, average in (whole.state.average or {}).items():
            assert torch.equal(average, (parts.state.average or {})[key])


def test_the_best_checkpoint_holds_the_average_of_the_weights(own_root: DatasetRoot) -> None:
    config = replace(CONFIG, average_decay=0.75)
    average: dict[str, torch.Tensor] = {}
    for _ in range(4):  # an epoch, step by step
        train_run(own_root, "run", config, stop_after=1, resume=True)
        weights = load_checkpoint(own_root.runs / "run" / "checkpoint_last.pt").weights
        average = {
            key: 0.75 * average[key] + 0.25 * value if average else value
            for key, value in weights.items()
        }
    best = load_checkpoint(own_root.runs / "run" / "checkpoint_best.pt").weights
    for key, value in average.items():
        torch.testing.assert_close(best[key], value)
    assert any(not torch.equal(best[key], weights[key]) for key in best)


def test_a_finished_run_is_not_trained_again(own_root: DatasetRoot) -> None:
    best = train_run(own_root, "a")
    before = best.stat().st_mtime_ns
    assert train_run(own_root, "a", resume=True) == best
    assert best.stat().st_mtime_ns == before
    with pytest.raises(SettingsError, match=r"learning_rate=0.003, now 0.1; resume with the same"):
        train_run(own_root, "a", replace(CONFIG, learning_rate=0.1), resume=True)


def test_cached_and_live_training_agree_and_frames_pass_once(
    own_root: DatasetRoot, capsys: pytest.CaptureFixture[str]
) -> None:
    train_run(own_root, "cached")
    train_run(own_root, "live", cached=False, quiet=False)
    assert read_losses(own_root, "live") == pytest.approx(read_losses(own_root, "cached"), abs=2e-3)
    # 16 pairs at 8 instants: 8 ego frames and, the first take having two exo cameras, 12 exo ones.
    assert "16 train pairs, 7 val pairs; 20 image features an epoch, computed when needed" in (
        capsys.readouterr().err
    )
    settings = read_config(own_root, "live")
    assert settings["image_features_per_epoch"] == 20


def test_the_best_checkpoint_has_the_best_val_iou(own_root: DatasetRoot) -> None:
    best = load_checkpoint(train_run(own_root, "a"))
    ious = [line["val_iou"] for line in read_log(own_root, "a") if "val_iou" in line]
    assert len(ious) == 3
    assert best.val_iou == max(ious) == 1.0  # three colours: nothing to confuse
    assert best.calibration["balanced_accuracy"] > 0.5
    assert best.step == 4 * (1 + ious.index(max(ious)))


def test_val_without_absent_pairs_selects_a_threshold(own_root: DatasetRoot) -> None:
    rows = read_manifest(own_root, "pairs", units=["val.ego2exo"]).to_pylist()
    visible = [row for row in rows if row["dest_state"] == "visible"]
    write_manifest(own_root, "pairs", "val.ego2exo", visible)
    best = load_checkpoint(train_run(own_root, "a"))
    assert best.calibration["balanced_accuracy"] > 0.5
    assert any("val_visibility_accuracy" in line for line in read_log(own_root, "a"))


def test_patience_ends_a_run_and_resuming_does_nothing(own_root: DatasetRoot) -> None:
    config = replace(CONFIG, epochs=50, patience=2)
    train_run(own_root, "a", config)
    steps = len(read_losses(own_root, "a"))
    assert steps < 200
    train_run(own_root, "a", config, resume=True)
    assert len(read_losses(own_root, "a")) == steps


def test_a_nan_loss_stops_with_the_pair(own_root: DatasetRoot) -> None:
    with pytest.raises(DataError, match=r"loss became nan at step 2, at pair .*/aria01_214-1>cam0"):
        train_run(own_root, "a", replace(CONFIG, learning_rate=1e38))


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals go to the main one"
)
def test_after_a_signal_a_resumed_run_continues(own_root: DatasetRoot) -> None:
    config = replace(CONFIG, epochs=400)
    path = own_root.runs / "a" / "log.jsonl"

    def stop_soon() -> None:
        while not (path.exists() and path.read_text().count("\n") > 6):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=stop_soon, daemon=True)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        train_run(own_root, "a", config)
    watcher.join()
    steps = load_checkpoint(path.with_name("checkpoint_last.pt")).step
    assert len(read_losses(own_root, "a")) == steps
    train_run(own_root, "a", config, resume=True, stop_after=3)
    train_run(own_root, "b", config, stop_after=steps + 3)
    assert read_losses(own_root, "a") == read_losses(own_root, "b")


def test_with_other_pairs_training_is_not_resumed(
    own_root: DatasetRoot, caplog: pytest.LogCaptureFixture
) -> None:
    best = train_run(own_root, "a")
    before = best.read_bytes()
    rows = read_manifest(own_root, "pairs", units=["train.ego2exo"]).to_pylist()
    write_manifest(own_root, "pairs", "train.ego2exo", rows[4:])
    with pytest.raises(SettingsError, match="trained on other data .*--overwrite"):
        train_run(own_root, "a", resume=True)
    assert best.read_bytes() == before
    train_run(own_root, "a", resume=True, overwrite=True)
    assert "training starts again" in caplog.text
    assert len(read_losses(own_root, "a")) == 9


def test_unusable_pairs_are_exclusions(own_root: DatasetRoot) -> None:
    unit = f"{FIRST}.cam02"
    rows = read_manifest(own_root, "proposals", units=[unit]).to_pylist()
    write_manifest(own_root, "proposals", unit, [r for r in rows if r["frame_idx"] != 90])
    train_run(own_root, "a", cached=False)
    exclusions = read_manifest(own_root, "exclusions", units=["train.a"]).to_pylist()
    reasons = sorted(row["reason"].split(": ")[1] for row in exclusions)
    assert reasons == [
        "the destination frame has no proposals",
        "the destination was never annotated",
        "the destination was never annotated",
    ]


def test_training_starts_from_a_checkpoint_of_its_direction(own_root: DatasetRoot) -> None:
    best = train_run(own_root, "a", replace(CONFIG, residual=False))
    train_run(own_root, "b", init=best)
    assert read_losses(own_root, "b")[0] < read_losses(own_root, "a")[0] - 0.3
    with pytest.raises(DataError, match="was trained for ego2exo, not exo2ego"):
        train(
            own_root,
            Direction.EXO2EGO,
            CONFIG,
            RunFolder.of(own_root, "exo2ego"),
            options=MatchingOptions(features=Features("rgb_grid"), init=best, quiet=True),
        )
    with pytest.raises(
        DataError, match=r"takes features of 3 channels, efficientnet-lite0 has 472"
    ):
        features = Features("efficientnet-lite0", cached=False)
        train(
            own_root,
            Direction.EGO2EXO,
            CONFIG,
            RunFolder.of(own_root, "ego2exo"),
            options=MatchingOptions(features=features, init=best, quiet=True),
        )


def make_portrait(root: DatasetRoot, camera: str) -> None:
    """Transpose a camera's frames, proposals and masks in every take."""
    for path in root.processed.glob(f"*/{camera}/*.jpg"):
        cv2.imwrite(str(path), cv2.transpose(cv2.imread(str(path))))
    for take_uid in TAKES:
        unit = f"{take_uid}.{camera}"
        for table, part in (("frames", unit), ("proposals", unit), ("masks", take_uid)):
            if root.part(table, part).exists():
                rows = read_manifest(root, table, units=[part]).to_pylist()
                rows = [transpose(row) if row["camera"] == camera else row for row in rows]
                write_manifest(root, table, part, rows)
        rewrite_digests(root, unit)


def transpose(row: dict[str, Any]) -> dict[str, Any]:
    if row.get("rle_counts"):
        mask = MaskRle(row["rle_height"], row["rle_width"], row["rle_counts"]).decode().T
        row = {**row, "rle_counts": MaskRle.encode(mask).counts}
        x, y, w, h = row["bbox_xywh"]
        row["bbox_xywh"] = [y, x, h, w]
    for height, width in (("height", "width"), ("rle_height", "rle_width")):
        if height in row:
            row = {**row, height: row[width], width: row[height]}
    if "source_height" in row:
        row |= {"source_height": row["source_width"], "source_width": row["source_height"]}
    return row


def test_reference_behaviour_trains_on_squashed_portrait_frames(own_root: DatasetRoot) -> None:
    make_portrait(own_root, "cam01")
    run_features(own_root, backbone="rgb_grid", run=INLINE).check()
    train_run(own_root, "ours")
    assert read_config(own_root, "ours")["model"]["dest_grid_hw"] == [16, 10]
    reference = replace(CONFIG, reference_behaviour=True)
    with pytest.raises(DataError, match=r"run `omama features .* --reference-behaviour"):
        train_run(own_root, "cached", reference)
    summary = run_features(own_root, backbone="rgb_grid", squash_portrait=True, run=INLINE).check()
    assert (summary.done, summary.skipped) == (4, 9)  # cam01 of four takes
    train_run(own_root, "cached", reference)
    train_run(own_root, "live", reference, cached=False)
    assert read_config(own_root, "live")["model"]["dest_grid_hw"] == [10, 16]
    assert read_losses(own_root, "live") == pytest.approx(read_losses(own_root, "cached"), abs=2e-3)
    assert read_losses(own_root, "live") != pytest.approx(read_losses(own_root, "ours"), abs=2e-2)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all(own_root: DatasetRoot) -> None:
    command = [*torchrun(own_root), "--epochs", "4000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    path = own_root.runs / "ego2exo" / "log.jsonl"
    while child.poll() is None and not (path.exists() and path.read_text().count("\n") > 6):
        time.sleep(0.05)
    ranks = {
        process.environ().get("RANK"): process
        for process in psutil.Process(child.pid).children(recursive=True)
    }
    ranks["1"].send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode != 0
    steps = load_checkpoint(path.with_name("checkpoint_last.pt")).step
    assert len(read_losses(own_root, "ego2exo")) == steps > 0
    config = TrainConfig(width=16, batch_pairs=4, epochs=4000)
    with pytest.raises(SettingsError, match="was trained with ranks=2, now 1; resume with the"):
        train_run(own_root, "ego2exo", config, resume=True)


def torchrun(root: DatasetRoot) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
        "--no-python", str(Path(sys.executable).with_name("omama")),
        "train", str(root.path), "--direction", "ego2exo",
        "--backbone", "rgb_grid", "--width", "16", "--batch-pairs", "4", "--quiet",
    ]  # fmt: skip


@pytest.mark.slow
def test_two_ranks_share_a_run(own_root: DatasetRoot) -> None:
    command = [*torchrun(own_root), "--epochs", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr
    assert child.stdout.count("best checkpoint") == 1
    assert len(read_losses(own_root, "ego2exo")) == 2 * 2  # 16 pairs, two ranks of four
    best = load_checkpoint(own_root.runs / "ego2exo" / "checkpoint_best.pt")
    assert best.val_iou is not None and best.val_iou > 0


def test_a_checkpoint_that_training_destroys_is_kept_with_a_warning(
    own_root: DatasetRoot, caplog: pytest.LogCaptureFixture
) -> None:
    first = train_run(own_root, "a", replace(CONFIG, residual=False))
    config = replace(CONFIG, learning_rate=30.0, epochs=2)
    best = load_checkpoint(train_run(own_root, "b", config, init=first))
    assert (best.step, best.val_iou) == (0, 1.0)
    started = load_checkpoint(first)
    assert all(torch.equal(best.weights[key], started.weights[key]) for key in best.weights)
    assert (
        "b: no validation matches the val IoU 1.000 of the initial weights; the best" in caplog.text
    )
    assert read_log(own_root, "b")[0] == {
        "step": 0, "epoch": 0, "start_val_iou": 1.0, "knn_val_iou": 1.0,
    }  # fmt: skip
    finish_run(own_root, "b")
    settings = read_config(own_root, "b")
    assert settings["val_iou"] == {"start": 1.0, "knn": 1.0, "best": 1.0, "best_step": 0}


def test_a_model_below_nearest_neighbours_gives_a_warning(
    own_root: DatasetRoot, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(CONFIG, learning_rate=30.0, epochs=1, residual=False)
    best = load_checkpoint(train_run(own_root, "a", config))
    assert best.step > 0 and best.state.start == {"knn": 1.0}
    assert "knn, without training, has 1.000. Predict with knn" in caplog.text


def test_a_start_that_training_harms_is_kept_with_a_warning(
    own_root: DatasetRoot, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An absurd rate alone ends in a loss that is no number, or as good as it began: the own part
    # is not trained.
    real = Loop._step

    def harmful(loop: Loop[Any], *args: Any) -> StepLog:
        step = real(loop, *args)
        blind(loop.task.model.descriptor_part)  # type: ignore[arg-type]
        return step

    monkeypatch.setattr(Loop, "_step", harmful)
    config = replace(CONFIG, epochs=2, residual=True)
    best = load_checkpoint(train_run(own_root, "a", config))
    first, *later = read_log(own_root, "a")
    ends = [line["val_iou"] for line in later if "val_iou" in line]
    assert (best.step, best.val_iou) == (0, first["start_val_iou"])
    assert best.val_iou is not None and max(ends) < best.val_iou
    assert "a: no validation matches the val IoU" in caplog.text
    board = EventAccumulator(str(own_root.runs / "a" / "tensorboard"))
    board.Reload()
    for name in ("start_val_iou", "knn_val_iou"):
        (event,) = board.Scalars(name)
        assert (event.step, event.value) == (0, pytest.approx(first[name]))
    assert [event.value for event in board.Scalars("val_iou")] == pytest.approx(ends)


def test_init_and_resume_refuse_a_different_kind_of_model(own_root: DatasetRoot) -> None:
    first = train_run(own_root, "a", replace(CONFIG, residual=False))
    with pytest.raises(SettingsError, match="residual=True, but .* without a descriptor part"):
        train_run(own_root, "b", replace(CONFIG, residual=True), init=first)
    train_run(own_root, "b", init=first, stop_after=2)
    with pytest.raises(SettingsError, match="holds a model with residual=False, now True; resume"):
        train_run(own_root, "b", resume=True)
