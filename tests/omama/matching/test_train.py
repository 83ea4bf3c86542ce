"""Training: resumed runs equal undisturbed ones, best by val IoU, and clear ends."""

import json
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
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_root import TAKES

from egoexo_tools.errors import DataError, SettingsError, StageFailed
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, read_tables, write_manifest
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.running.records import RunOptions, StageSummary
from egoexo_tools.runs import RunFolder, read_stamp
from egoexo_tools.vocab import Direction, Split
from omama import methods
from omama.checkpoint import load_checkpoint
from omama.config import Features
from omama.deciding.decide import Mode
from omama.deciding.decision import Decision
from omama.features.cache import run_features
from omama.features.descriptor_part import DescriptorPart
from omama.loop import Loop, StepLog
from omama.matching.config import MatchingOptions, TrainConfig
from omama.matching.train import train
from omama.steps import run_train
from omama.writing import predict_run

CONFIG = TrainConfig(epochs=3, batch_pairs=4, width=16, learning_rate=3e-3)
FIRST = next(iter(TAKES))
INLINE = RunOptions(executor="inline", quiet=True)


def run(root: DatasetRoot, name: str, config: TrainConfig = CONFIG, **options: Any) -> Path:
    cached, stop_after = options.pop("cached", True), options.pop("stop_after", None)
    return train(
        root,
        Direction.EGO2EXO,
        config,
        RunFolder.of(root, name),
        options=MatchingOptions(
            features=Features("rgb_grid", cached=cached), **{"quiet": True, **options}
        ),
        stop_after=stop_after,
    )


def finish(root: DatasetRoot, name: str) -> None:
    """What `omama train` does after training."""
    options = MatchingOptions(features=Features("rgb_grid"))
    run_folder = RunFolder.of(root, name)
    methods.finish_training("o-mama", root, Direction.EGO2EXO, run_folder, options=options)


def log(root: DatasetRoot, name: str) -> list[dict[str, Any]]:
    lines = (root.runs / name / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(root: DatasetRoot, name: str) -> list[float]:
    return [line["loss"] for line in log(root, name) if "loss" in line]


@pytest.mark.parametrize(("accumulate", "average_decay"), [(1, 0.9), (2, 0.0)])
@pytest.mark.parametrize("stop_after", [1, 5])
def test_a_resumed_run_equals_an_undisturbed_one(
    own_root: DatasetRoot, accumulate: int, average_decay: float, stop_after: int
) -> None:
    config = replace(CONFIG, accumulate=accumulate, average_decay=average_decay)
    run(own_root, "whole", config)
    run(own_root, "parts", config, stop_after=stop_after)
    assert len(losses(own_root, "parts")) == stop_after
    run(own_root, "parts", config, resume=True)
    assert losses(own_root, "parts") == losses(own_root, "whole")
    assert len(losses(own_root, "whole")) == 3 * -(-16 // (4 * accumulate))
    one, two = (
        load_checkpoint(own_root.runs / n / "checkpoint_last.pt") for n in ("whole", "parts")
    )
    assert all(torch.equal(one.weights[key], two.weights[key]) for key in one.weights)
    assert (one.state.best_iou, one.step) == (two.state.best_iou, two.step)
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        one, two = (load_checkpoint(own_root.runs / n / name) for n in ("whole", "parts"))
        average, other = one.state.average or one.weights, two.state.average or two.weights
        assert all(torch.equal(average[key], other[key]) for key in average)


def test_the_best_checkpoint_holds_the_average_of_the_weights(own_root: DatasetRoot) -> None:
    config = replace(CONFIG, average_decay=0.75)
    average: dict[str, torch.Tensor] = {}
    for _ in range(4):  # an epoch, step by step
        run(own_root, "run", config, stop_after=1, resume=True)
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
    assert "16 train pairs, 7 val pairs; 20 image features an epoch, computed when needed" in (
        capsys.readouterr().err
    )
    settings = json.loads((own_root.runs / "live" / "config.json").read_text())
    assert settings["image_features_per_epoch"] == 20


def test_the_best_checkpoint_has_the_best_val_iou(own_root: DatasetRoot) -> None:
    best = load_checkpoint(run(own_root, "a"))
    ious = [line["val_iou"] for line in log(own_root, "a") if "val_iou" in line]
    assert len(ious) == 3
    assert best.val_iou == max(ious) == 1.0  # three colours: nothing to confuse
    assert best.calibration["balanced_accuracy"] > 0.5
    assert best.step == 4 * (1 + ious.index(max(ious)))


def test_a_val_without_absent_pairs_chooses_a_threshold_too(own_root: DatasetRoot) -> None:
    rows = read_manifest(own_root, "pairs", units=["val.ego2exo"]).to_pylist()
    visible = [row for row in rows if row["dest_state"] == "visible"]
    write_manifest(own_root, "pairs", "val.ego2exo", visible)
    best = load_checkpoint(run(own_root, "a"))
    assert best.calibration["balanced_accuracy"] > 0.5
    assert any("val_visibility_accuracy" in line for line in log(own_root, "a"))


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


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals go to the main one"
)
def test_a_signal_saves_and_a_resumed_run_goes_on(own_root: DatasetRoot) -> None:
    config = replace(CONFIG, epochs=400)
    path = own_root.runs / "a" / "log.jsonl"

    def stop_soon() -> None:
        while not (path.exists() and path.read_text().count("\n") > 6):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=stop_soon, daemon=True)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        run(own_root, "a", config)
    watcher.join()
    done = load_checkpoint(path.with_name("checkpoint_last.pt")).step
    assert len(losses(own_root, "a")) == done
    run(own_root, "a", config, resume=True, stop_after=3)
    run(own_root, "b", config, stop_after=done + 3)
    assert losses(own_root, "a") == losses(own_root, "b")


def test_other_pairs_start_anew(own_root: DatasetRoot, caplog: pytest.LogCaptureFixture) -> None:
    run(own_root, "a")
    rows = read_manifest(own_root, "pairs", units=["train.ego2exo"]).to_pylist()
    write_manifest(own_root, "pairs", "train.ego2exo", rows[4:])
    run(own_root, "a", resume=True)
    assert "trained on other data" in caplog.text
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
    best = run(own_root, "a", replace(CONFIG, residual=False))
    run(own_root, "b", init=best)
    assert losses(own_root, "b")[0] < losses(own_root, "a")[0] - 0.3
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
    """Turn a camera's frames, proposals and masks by a transposition, in every take."""
    for take_uid in TAKES:
        unit = f"{take_uid}.{camera}"
        for table, part in (("frames", unit), ("proposals", unit), ("masks", take_uid)):
            if root.part(table, part).exists():
                rows = read_manifest(root, table, units=[part]).to_pylist()
                turned = [turn(row) if row["camera"] == camera else row for row in rows]
                write_manifest(root, table, part, turned)
    for path in root.processed.glob(f"*/{camera}/*.jpg"):
        cv2.imwrite(str(path), cv2.transpose(cv2.imread(str(path))))


def turn(row: dict[str, Any]) -> dict[str, Any]:
    if row.get("rle_counts"):
        mask = MaskRle(row["rle_height"], row["rle_width"], row["rle_counts"]).decode().T
        row = {**row, "rle_counts": MaskRle.encode(mask).counts}
        x, y, w, h = row["bbox_xywh"]
        row["bbox_xywh"] = [y, x, h, w]
    for one, two in (("height", "width"), ("rle_height", "rle_width")):
        if one in row:
            row = {**row, one: row[two], two: row[one]}
    if "source_height" in row:
        row |= {"source_height": row["source_width"], "source_width": row["source_height"]}
    return row


def test_portrait_frames_are_squashed_where_the_reference_does(own_root: DatasetRoot) -> None:
    make_portrait(own_root, "cam01")
    run_features(own_root, backbone="rgb_grid", run=INLINE).check()
    run(own_root, "ours")
    assert model_config(own_root, "ours")["dest_grid_hw"] == [16, 10]
    theirs = replace(CONFIG, reference_behaviour=True)
    with pytest.raises(DataError, match=r"run `omama features .* --reference-behaviour"):
        run(own_root, "cached", theirs)
    redone = run_features(own_root, backbone="rgb_grid", squash_portrait=True, run=INLINE).check()
    assert (redone.done, redone.skipped) == (4, 9)  # cam01 of four takes
    run(own_root, "cached", theirs)
    run(own_root, "live", theirs, cached=False)
    assert model_config(own_root, "live")["dest_grid_hw"] == [10, 16]
    assert losses(own_root, "live") == pytest.approx(losses(own_root, "cached"), abs=2e-3)
    assert losses(own_root, "live") != pytest.approx(losses(own_root, "ours"), abs=2e-2)


def model_config(root: DatasetRoot, name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((root.runs / name / "config.json").read_text())
    return dict(config["model"])


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
    done = load_checkpoint(path.with_name("checkpoint_last.pt")).step
    assert 0 < done < 100
    features = Features("rgb_grid")

    def again(config: TrainConfig) -> StageSummary:
        return run_train(own_root, [Direction.EGO2EXO], config, features, run=INLINE)

    with pytest.raises(StageFailed, match="trained with learning_rate=0.003, now 0.1; resume with"):
        again(replace(config, learning_rate=0.1)).check()
    assert again(config).check().done == 1
    assert load_checkpoint(path.with_name("checkpoint_last.pt")).step == 100
    run(own_root, "whole", config)
    assert losses(own_root, "ego2exo") == losses(own_root, "whole")
    assert again(config).check().done == 0
    with pytest.raises(SettingsError, match="train was done with learning_rate=0.003, now 0.1"):
        again(replace(config, learning_rate=0.1))


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
    done = load_checkpoint(path.with_name("checkpoint_last.pt")).step
    assert len(losses(own_root, "ego2exo")) == done > 0
    config = TrainConfig(width=16, batch_pairs=4, epochs=4000)
    with pytest.raises(SettingsError, match="was trained with ranks=2, now 1; resume with the"):
        run(own_root, "ego2exo", config, resume=True)


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
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best checkpoint") == 1
    assert len(losses(own_root, "ego2exo")) == 2 * 2  # 16 pairs, two ranks of four
    best = load_checkpoint(own_root.runs / "ego2exo" / "checkpoint_best.pt")
    assert best.val_iou is not None and best.val_iou > 0


def test_training_that_destroys_its_start_keeps_the_start_and_says_so(
    own_root: DatasetRoot, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(own_root, "a", replace(CONFIG, residual=False))
    config = replace(CONFIG, learning_rate=30.0, epochs=2)
    best = load_checkpoint(run(own_root, "b", config, init=first))
    assert (best.step, best.val_iou) == (0, 1.0)
    started = load_checkpoint(first)
    assert all(torch.equal(best.weights[key], started.weights[key]) for key in best.weights)
    assert "b: no validation came up to the start's val IoU of 1.000; the best" in caplog.text
    assert log(own_root, "b")[0] == {
        "step": 0, "epoch": 0, "start_val_iou": 1.0, "knn_val_iou": 1.0,
    }  # fmt: skip
    finish(own_root, "b")
    settings = json.loads((own_root.runs / "b" / "config.json").read_text())
    assert settings["val_iou"] == {"start": 1.0, "knn": 1.0, "best": 1.0, "best_step": 0}


def test_a_model_below_nearest_neighbours_is_told(
    own_root: DatasetRoot, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(CONFIG, learning_rate=30.0, epochs=1, residual=False)
    best = load_checkpoint(run(own_root, "a", config))
    assert best.step > 0 and best.state.start == {"knn": 1.0}
    assert "that of knn, which learns nothing, 1.000; predict with knn" in caplog.text


def blind(part: DescriptorPart) -> None:
    """Make a model's similarities all the same, so that it chooses the first proposal."""
    part.mean.fill_(1e8)  # less this, all descriptors are one
    part.logit.data.fill_(-60)


def test_a_start_that_training_harms_is_kept_and_told(
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
    best = load_checkpoint(run(own_root, "a", config))
    first, *others = log(own_root, "a")
    ends = [line["val_iou"] for line in others if "val_iou" in line]
    assert (best.step, best.val_iou) == (0, first["start_val_iou"])
    assert best.val_iou is not None and max(ends) < best.val_iou
    assert "a: no validation came up to the start's val IoU" in caplog.text
    board = EventAccumulator(str(own_root.runs / "a" / "tensorboard"))
    board.Reload()
    for name in ("start_val_iou", "knn_val_iou"):
        (event,) = board.Scalars(name)
        assert (event.step, event.value) == (0, pytest.approx(first[name]))
    assert [event.value for event in board.Scalars("val_iou")] == pytest.approx(ends)


def test_a_run_that_stays_below_nearest_neighbours_keeps_these(
    own_root: DatasetRoot, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DescriptorPart, "fit", lambda part, *pairs: blind(part))
    config = replace(CONFIG, learning_rate=1e-9, epochs=1, residual=True)
    path = run(own_root, "a", config)
    finish(own_root, "a")
    best = load_checkpoint(path)
    first = log(own_root, "a")[0]
    assert first["start_val_iou"] < first["knn_val_iou"], "or this would prove nothing"
    assert (best.step, best.val_iou) == (0, first["knn_val_iou"])
    assert "holds nearest neighbours now, val IoU" in caplog.text
    settings = json.loads((own_root.runs / "a" / "config.json").read_text())
    assert settings["val_iou"]["best"] == first["knn_val_iou"]
    assert best.decision is not None
    chosen = {}
    for name, method, checkpoint in (("model", "o-mama", path), ("nearest", "knn", None)):
        folder = RunFolder.of(own_root, name)
        options = MatchingOptions(features=Features("rgb_grid"), decision="best", quiet=True)
        predict_run(
            method, own_root, Direction.EGO2EXO, Split.TEST, folder,
            checkpoint=checkpoint, options=options,
        )  # fmt: skip
        rows = read_tables([folder.predictions], "predictions").to_pylist()
        chosen[name] = {row["pair_id"]: row["similarity"] for row in rows}
    # Of proposals of one colour any may be the nearest.
    assert chosen["model"] == pytest.approx(chosen["nearest"], abs=1e-4)


def test_init_and_resume_refuse_a_different_kind_of_model(own_root: DatasetRoot) -> None:
    first = run(own_root, "a", replace(CONFIG, residual=False))
    with pytest.raises(SettingsError, match="residual=True, but .* without a descriptor part"):
        run(own_root, "b", replace(CONFIG, residual=True), init=first)
    run(own_root, "b", init=first, stop_after=2)
    with pytest.raises(SettingsError, match="holds a model with residual=False, now True; resume"):
        run(own_root, "b", resume=True)


def test_training_ends_with_a_decision_that_prediction_goes_by(own_root: DatasetRoot) -> None:
    best = run(own_root, "decided", replace(CONFIG, epochs=1))
    finish(own_root, "decided")
    decision = Decision.from_dict(load_checkpoint(best).decision, best)
    assert set(decision.modes) == {Mode.FRAME, Mode.TRACK_CAUSAL, Mode.TRACK}
    folder = RunFolder.of(own_root, "predicted")
    predict_run("o-mama", own_root, Direction.EGO2EXO, Split.TEST, folder, checkpoint=best)
    assert read_stamp(folder).decision == decision.best_mode
    theirs = run(own_root, "reference", replace(CONFIG, epochs=1, reference_behaviour=True))
    finish(own_root, "reference")
    assert load_checkpoint(theirs).decision is None
