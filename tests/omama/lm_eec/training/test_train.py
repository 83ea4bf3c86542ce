"""LM-EEC's training runs: learning, resuming, several processes, and clear errors."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eec_networks import SMALL, save_network, small_network
from squares_root import make_squares_root
from tiny_root import rewrite_digests

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.runs import RunFolder
from egoexo_tools.vocab import Direction, Split
from omama.lm_eec.config import NetworkConfig
from omama.lm_eec.naming import to_file
from omama.lm_eec.network import LmEecNetwork, build_network
from omama.lm_eec.predict import predict
from omama.lm_eec.settings import LmEecOptions, LmEecTrainConfig
from omama.lm_eec.training.clips import load_clip_tracks
from omama.lm_eec.training.train import train

DROPPING = replace(SMALL, dropout=0.1, stochastic_depth=0.2)
FEW = LmEecTrainConfig(epochs=3, batch_pairs=1, accumulate=1, clips_per_track=1)


@pytest.fixture(scope="module")
def small_start(tmp_path_factory) -> Path:
    """Initial weights of a network with dropout and stochastic depth."""
    path = tmp_path_factory.mktemp("start") / "small.pt"
    return save_network(path, small_network(), DROPPING)


def read_log(run):
    return [json.loads(line) for line in run.log.read_text().splitlines()]


@pytest.mark.slow
def test_a_tiny_network_overfits_to_a_clip(squares_root, tmp_path):
    """From random weights in a file like SAM 2.1's; ego2exo."""
    torch.manual_seed(0)
    state = to_file(build_network(NetworkConfig.tiny(), None).state_dict())
    sam = {key: value for key, value in state.items() if not key.startswith("MV_MoE.")}
    torch.save({"model": sam}, tmp_path / "sam.pt")
    config = LmEecTrainConfig(
        epochs=20, batch_pairs=1, accumulate=1, clips_per_track=1, learning_rate=1e-3,
        image_encoder_share=1.0, weight_decay=0.0, augment=False, val_every_steps=20,
    )  # fmt: skip
    run = RunFolder(tmp_path / "run")
    options = LmEecOptions(init=tmp_path / "sam.pt", quiet=True)
    best = train(squares_root, Direction.EGO2EXO, config, run, options=options)
    steps = [line for line in read_log(run) if "loss" in line]
    assert steps[-1]["loss"] < 0.5 * steps[1]["loss"]
    tables = predict(
        squares_root, Direction.EGO2EXO, Split.TRAIN, best, options=LmEecOptions(quiet=True)
    )
    truth = dest_masks(squares_root)
    ious = [
        MaskRle(row["rle_height"], row["rle_width"], row["rle_counts"]).iou(
            MaskRle.encode(truth[row["pair_id"]].decode_at(row["rle_height"], row["rle_width"]))
        )
        for table in tables
        for row in table.to_pylist()
    ]
    assert len(ious) == 9 and np.mean(ious) > 0.8


def dest_masks(squares_root):
    """The train take's true masks by pair_id."""
    (clip,) = load_clip_tracks(squares_root, Direction.EGO2EXO, Split.TRAIN)
    masks = clip.take.frames.masks
    return {
        f"{clip.take.take_uid}/{clip.track.source_camera}>cam01/{idx}/red cup": masks.rle(int(row))
        for idx, row in zip(clip.track.frame_idxs, clip.track.dest_masks, strict=True)
    }


@pytest.mark.slow
@pytest.mark.parametrize("direction", Direction)
def test_a_run_resumed_at_any_step_equals_an_undisturbed_run(
    squares_root, small_start, tmp_path, direction
):
    """With dropout, stochastic depth, augmentation and recomputation, in either direction."""
    options = LmEecOptions(init=small_start, quiet=True)
    whole = RunFolder(tmp_path / "whole")
    train(squares_root, direction, FEW, whole, options=options)
    expected = torch.load(whole.checkpoint_last, weights_only=True)["model"]
    stopped = RunFolder(tmp_path / "stopped")
    for _ in range(FEW.epochs):
        train(
            squares_root,
            direction,
            FEW,
            stopped,
            options=replace(options, resume=True),
            stop_after=1,
        )
    losses = [
        [line["loss"] for line in read_log(run) if "loss" in line] for run in (whole, stopped)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == FEW.epochs
    weights = torch.load(stopped.checkpoint_last, weights_only=True)["model"]
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name


@pytest.mark.slow
def test_two_processes_train_one_network(squares_root, small_start, tmp_path):
    """As on two GPUs, but on the CPU; with dropout, stochastic depth and recomputation."""
    words = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
        "-m", "omama.cli", "train", str(squares_root.path), "--method", "lm-eec", "--quiet",
        "--direction", "ego2exo", "--init", str(small_start), "--run-name", "two",
        "--epochs", "2", "--batch-pairs", "1", "--accumulate", "1",
    ]  # fmt: skip
    process = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 0, process.stderr
    run = RunFolder.of(squares_root, "two")
    steps = [line["step"] for line in read_log(run) if "loss" in line]
    assert steps == [1, 2]
    assert list(predict(squares_root, Direction.EGO2EXO, Split.TEST, run.checkpoint_best,
                        options=LmEecOptions(quiet=True)))  # fmt: skip


def test_training_requires_initial_weights(squares_root, tmp_path):
    with pytest.raises(SettingsError, match=re.escape("give --init, sam2.1_hiera_base_plus.pt")):
        train(
            squares_root,
            Direction.EGO2EXO,
            FEW,
            RunFolder(tmp_path),
            options=LmEecOptions(quiet=True),
        )


def test_the_released_code_trains_one_direction(squares_root, small_start, tmp_path):
    config = replace(FEW, reference_behaviour=True)
    options = LmEecOptions(init=small_start, quiet=True)
    with pytest.raises(SettingsError, match="only trains ego to exo; train exo2ego without"):
        train(squares_root, Direction.EXO2EGO, config, RunFolder(tmp_path), options=options)


def test_a_clip_that_cannot_be_loaded_stops_the_run_with_its_name(tmp_path, small_start):
    broken = make_squares_root(tmp_path / "root")
    (clip, *_) = load_clip_tracks(broken, Direction.EGO2EXO, Split.TRAIN)
    config = replace(FEW, reference_behaviour=True)
    broken.frame(clip.take.take_uid, "cam01", 120).write_bytes(b"no picture")
    rewrite_digests(broken, f"{clip.take.take_uid}.cam01")
    options = LmEecOptions(init=small_start, quiet=True)
    with pytest.raises(DataError, match=re.escape(f"the clip {clip.name}, frames [")):
        train(broken, Direction.EGO2EXO, config, RunFolder(tmp_path / "run"), options=options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "clips", "accumulate", "message"),
    [
        ("encode_images", 3, 2, "with 3 clips a batch; try --batch-pairs 1 and --accumulate 6"),
        ("encode_images", 1, 2, "with 1 clips a batch; wait for the programs that use it"),
        ("to", 1, 1, r"no room for the network's \d+ MiB of weights: wait for the programs"),
    ],
)
def test_a_full_gpu_gives_a_clear_message(
    squares_root, small_start, tmp_path, monkeypatch, method, clips, accumulate, message
):
    def full(*args):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(LmEecNetwork, method, full)
    config = replace(FEW, batch_pairs=clips, accumulate=accumulate)
    options = LmEecOptions(init=small_start, quiet=True)
    with pytest.raises(DataError, match=message) as caught:
        train(squares_root, Direction.EGO2EXO, config, RunFolder(tmp_path), options=options)
    assert "\n" not in str(caught.value)
