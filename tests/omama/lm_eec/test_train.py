"""LM-EEC's training: clips, augmentation, rates, and runs that learn and resume."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from lm_eec_networks import SMALL, drawn_track, small_network  # noqa: E402
from squares_root import make_squares_root  # noqa: E402
from tiny_root import make_tiny_root  # noqa: E402

from egoexo_tools.errors import DataError, SettingsError  # noqa: E402
from egoexo_tools.masks.rle import MaskRle  # noqa: E402
from egoexo_tools.runs import RunFolder  # noqa: E402
from egoexo_tools.vocab import Direction, Split  # noqa: E402
from omama.checkpoint import Checkpoint, save_checkpoint  # noqa: E402
from omama.lm_eec.config import NetworkConfig  # noqa: E402
from omama.lm_eec.naming import file_names, to_file  # noqa: E402
from omama.lm_eec.network import (  # noqa: E402
    LmEecNetwork,  # noqa: E402
    build_network,  # noqa: E402
)
from omama.lm_eec.pictures import squash_mask  # noqa: E402
from omama.lm_eec.predict import predict  # noqa: E402
from omama.lm_eec.settings import LmEecOptions, LmEecTrainConfig  # noqa: E402
from omama.lm_eec.training.augmentation import (  # noqa: E402
    Geometry,
    draw_colours,
    draw_geometry,
    recolour,
    warp,
    warp_nearest,
)
from omama.lm_eec.training.clips import ClipSettings, draw_clip, load_clip_tracks  # noqa: E402
from omama.lm_eec.training.frame_store import run_squash  # noqa: E402
from omama.lm_eec.training.losses import clip_losses, run_clips  # noqa: E402
from omama.lm_eec.training.rates import add_stochastic_depth, parameter_groups, recompute_blocks  # noqa: E402
from omama.lm_eec.training.train import train  # noqa: E402
from omama.lm_eec.weights import METHOD  # noqa: E402

DROPPING = replace(SMALL, dropout=0.1, stochastic_depth=0.2)
FEW = LmEecTrainConfig(epochs=3, batch_pairs=1, accumulate=1, clips_per_track=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_squares_root(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def small_start(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("start") / "small.pt"
    weights = small_network().state_dict()
    save_checkpoint(Checkpoint(DROPPING.to_dict(), weights, method=METHOD), path)
    return path


def log_of(run):
    return [json.loads(line) for line in run.log.read_text().splitlines()]


@pytest.mark.slow
def test_a_tiny_network_learns_a_clip_by_heart(root, tmp_path):
    """From weights that know nothing, as SAM 2.1's file would come; ego2exo."""
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
    best = train(root, Direction.EGO2EXO, config, run, options=options)
    steps = [line for line in log_of(run) if "loss" in line]
    assert steps[-1]["loss"] < 0.5 * steps[1]["loss"]
    seen = predict(root, Direction.EGO2EXO, Split.TRAIN, best, options=LmEecOptions(quiet=True))
    truth = squares(root)
    ious = [
        MaskRle(row["rle_height"], row["rle_width"], row["rle_counts"]).iou(
            MaskRle.encode(truth[row["pair_id"]].decode_at(row["rle_height"], row["rle_width"]))
        )
        for table in seen
        for row in table.to_pylist()
    ]
    assert len(ious) == 9 and np.mean(ious) > 0.8


def squares(root):
    (clip,) = load_clip_tracks(root, Direction.EGO2EXO, Split.TRAIN)
    masks = clip.take.frames.masks
    return {
        f"{clip.take.take_uid}/{clip.track.source_camera}>cam01/{idx}/red cup": masks.rle(int(row))
        for idx, row in zip(clip.track.frame_idxs, clip.track.dest_masks, strict=True)
    }


@pytest.mark.slow
@pytest.mark.parametrize("direction", Direction)
def test_a_run_resumed_at_any_step_is_undisturbed(root, small_start, tmp_path, direction):
    """With dropout, stochastic depth, augmentation and recomputation, in either direction."""
    options = LmEecOptions(init=small_start, quiet=True)
    whole = RunFolder(tmp_path / "whole")
    train(root, direction, FEW, whole, options=options)
    expected = torch.load(whole.checkpoint_last, weights_only=True)["model"]
    stopped = RunFolder(tmp_path / "stopped")
    for _ in range(FEW.epochs):
        train(root, direction, FEW, stopped, options=replace(options, resume=True), stop_after=1)
    losses = [[line["loss"] for line in log_of(run) if "loss" in line] for run in (whole, stopped)]
    assert losses[0] == losses[1] and len(losses[0]) == FEW.epochs
    found = torch.load(stopped.checkpoint_last, weights_only=True)["model"]
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.slow
def test_two_processes_learn_one_network(root, small_start, tmp_path):
    """Started as on two GPUs, on the CPU; dropout, stochastic depth and recomputation as well."""
    words = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
        "-m", "omama.cli", "train", str(root.path), "--method", "lm-eec", "--quiet",
        "--direction", "ego2exo", "--init", str(small_start), "--run-name", "two",
        "--epochs", "2", "--batch-pairs", "1", "--accumulate", "1",
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    run = RunFolder.of(root, "two")
    steps = [line["step"] for line in log_of(run) if "loss" in line]
    assert steps == [1, 2]
    assert list(predict(root, Direction.EGO2EXO, Split.TEST, run.checkpoint_best,
                        options=LmEecOptions(quiet=True)))  # fmt: skip


def test_what_it_starts_from(root, tmp_path):
    with pytest.raises(SettingsError, match=re.escape("give --init, sam2.1_hiera_base_plus.pt")):
        train(root, Direction.EGO2EXO, FEW, RunFolder(tmp_path), options=LmEecOptions(quiet=True))


def test_the_released_code_learns_one_direction(root, small_start, tmp_path):
    config = replace(FEW, reference_behaviour=True)
    options = LmEecOptions(init=small_start, quiet=True)
    with pytest.raises(SettingsError, match="only trains ego to exo; train exo2ego without"):
        train(root, Direction.EXO2EGO, config, RunFolder(tmp_path), options=options)


def test_tracks_that_are_too_short(tmp_path):
    with pytest.raises(DataError, match="no train track of ego2exo with 8 frames annotated"):
        load_clip_tracks(make_tiny_root(tmp_path), Direction.EGO2EXO, Split.TRAIN)


def test_a_clip_that_cannot_be_loaded_stops_with_its_name(tmp_path, small_start):
    broken = make_squares_root(tmp_path / "root")
    (clip, *_) = load_clip_tracks(broken, Direction.EGO2EXO, Split.TRAIN)
    config = replace(FEW, reference_behaviour=True)
    broken.frame(clip.take.take_uid, "cam01", 120).unlink()
    options = LmEecOptions(init=small_start, quiet=True)
    with pytest.raises(DataError, match=re.escape(f"the clip {clip.name}, frames [")):
        train(broken, Direction.EGO2EXO, config, RunFolder(tmp_path / "run"), options=options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "clips", "accumulate", "says"),
    [
        ("encode_images", 3, 2, "with 3 clips a batch; try --batch-pairs 1 and --accumulate 6"),
        ("encode_images", 1, 2, "with 1 clips a batch; wait for the programs that use it"),
        ("to", 1, 1, r"no room for the network's \d+ MiB of weights: wait for the programs"),
    ],
)
def test_a_full_gpu_is_one_sentence(
    root, small_start, tmp_path, monkeypatch, method, clips, accumulate, says
):
    def full(*args):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(LmEecNetwork, method, full)
    config = replace(FEW, batch_pairs=clips, accumulate=accumulate)
    options = LmEecOptions(init=small_start, quiet=True)
    with pytest.raises(DataError, match=says) as caught:
        train(root, Direction.EGO2EXO, config, RunFolder(tmp_path), options=options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("native", [False, True])
def test_a_clip_is_the_same_frames_in_both_views(root, native):
    (clip,) = load_clip_tracks(root, Direction.EGO2EXO, Split.TRAIN)
    cameras = [(clip.take.take_uid, camera) for camera in ("aria01_214-1", "cam01")]
    run_squash(root, cameras, size=64).check()
    how = ClipSettings(64, 0, True, native)
    drawn = [draw_clip(root, clip, how, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert np.array_equal(drawn[0].pictures, drawn[1].pictures)
    assert not np.array_equal(drawn[0].pictures, drawn[2].pictures)
    for one in drawn:
        assert one.pictures.shape == (2, 8, 64, 64, 3) and one.masks.shape == (2, 8, 64, 64)
        reds = one.pictures[..., 0].astype(int) - one.pictures[..., 1] > 90
        assert (reds == one.masks).mean() > 0.98
        assert one.masks[:, 0].any((1, 2)).all()


@pytest.mark.parametrize(
    "geometry",
    [Geometry(), Geometry(True), Geometry(False, 20.0, 0.0), Geometry(True, -13.0, 17.0)],
)
def test_a_squashed_picture_is_turned_as_if_it_were_not(geometry):
    mask = np.zeros((108, 192), np.uint8)
    mask[30:70, 60:140] = 1
    native = squash_mask(MaskRle.encode(warp_nearest(mask, geometry)), 96)
    soft = squash_mask(MaskRle.encode(mask), 96).astype(np.uint8) * 255
    small = warp(soft, geometry, mask.shape) >= 128
    assert (native & small).sum() / (native | small).sum() > 0.93


def test_outside_of_a_turned_picture_is_the_mean_colour():
    turned = warp(np.zeros((40, 60, 3), np.uint8), Geometry(degrees=25.0), (40, 60))
    assert turned[0, 0].tolist() == [123, 116, 103] and turned[20, 30].tolist() == [0, 0, 0]


def test_what_is_drawn_lies_in_the_recipes_ranges():
    rng = np.random.default_rng(0)
    drawn = [draw_geometry(rng) for _ in range(500)]
    assert 0.4 < np.mean([g.mirrored for g in drawn]) < 0.6
    for values, reach in (
        ([g.degrees for g in drawn], 25), ([g.shear_degrees for g in drawn], 20),
    ):  # fmt: skip
        assert -reach <= min(values) < -0.9 * reach and 0.9 * reach < max(values) <= reach
    colours = [draw_colours(rng, 8) for _ in range(500)]
    assert 0.02 < np.mean([c.grey for c in colours]) < 0.09
    clip, frames = np.stack([c.clip for c in colours]), np.stack([c.frames for c in colours])
    assert frames.shape == (500, 2, 8, 3)
    np.testing.assert_allclose(np.abs(clip - 1).max(0), [0.1, 0.03, 0.03], rtol=0.05)
    np.testing.assert_allclose(np.abs(frames - 1).max((0, 1, 2)), [0.1, 0.05, 0.05], rtol=0.01)


def test_colours():
    pictures = torch.rand(2, 3, 8, 8)
    none, flat = torch.ones(2, 2, 3), torch.tensor([False, True])
    plain = recolour(pictures, none, torch.tensor([False, False]))
    torch.testing.assert_close(plain, pictures)
    grey = recolour(pictures, none, flat)[1]
    torch.testing.assert_close(grey[0], grey[2])
    torch.testing.assert_close(
        grey[0], (pictures[1] * torch.tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(0)
    )
    brighter = none.clone()
    brighter[:, 1, 0] = 1.05
    torch.testing.assert_close(
        recolour(pictures, brighter, ~flat & flat), (pictures * 1.05).clamp(0, 1)
    )


def test_rates_of_base_plus():
    with torch.device("meta"):
        network = LmEecNetwork(NetworkConfig.base_plus())
    groups = parameter_groups(network, LmEecTrainConfig())
    names = {id(p): file_names(name)[0] for name, p in network.named_parameters()}
    rates = {names[id(p)]: group for group in groups for p in group.parameters}
    trunk = "image_encoder.trunk"
    expected = {
        "MV_MoE.mlp1.0.weight": (5e-6, 0.1),
        "MV_MoE.mlp1.0.bias": (5e-6, 0.0),
        "maskmem_tpos_enc": (5e-6, 0.1),
        "image_encoder.neck.convs.0.conv.weight": (3e-6, 0.1),
        f"{trunk}.pos_embed": (3e-6, 0.1),
        f"{trunk}.patch_embed.proj.weight": (3e-6 * 0.9**25, 0.1),
        f"{trunk}.blocks.0.mlp.layers.0.weight": (3e-6 * 0.9**24, 0.1),
        f"{trunk}.blocks.23.norm1.weight": (3e-6 * 0.9, 0.0),
        "memory_encoder.fuser.layers.0.norm.weight": (5e-6, 0.1),
        "sam_mask_decoder.output_upscaling.1.weight": (5e-6, 0.1),
        "memory_attention.norm.weight": (5e-6, 0.0),
    }
    for name, (rate, decay) in expected.items():
        group = rates[name]
        assert group.learning_rate == pytest.approx(rate), name
        assert group.final_learning_rate == pytest.approx(rate / 10)
        assert group.weight_decay == decay, name
    learnt = {name for name, p in network.named_parameters() if p.requires_grad}
    assert len(rates) == len(learnt)


def test_recomputing_blocks_changes_no_gradient():
    clip = drawn_track(3)
    found = []
    for recompute in (False, True):
        network = copy.deepcopy(small_network()).train()
        if recompute:
            recompute_blocks(network)
        source, dest, masks = (part[None] for part in clip)
        loss = clip_losses(network, run_clips(network, source, dest, masks), masks).total
        loss.backward()
        found.append([p.grad for p in network.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)


@torch.no_grad()
def test_stochastic_depth_leaves_branches_out_for_whole_pictures():
    network = LmEecNetwork(replace(SMALL, stochastic_depth=0.5)).eval()
    pictures = torch.randn(6, 3, 64, 64)
    plain = network.encode_images(pictures).stride16
    add_stochastic_depth(network)
    torch.testing.assert_close(network.encode_images(pictures).stride16, plain)
    network.train()
    torch.manual_seed(0)
    last = network.sam.vision_encoder.backbone.blocks[-1]
    seen = []
    last.mlp.register_forward_hook(lambda module, args, output: seen.append(output))
    network.encode_images(pictures)
    dropped = (seen[0] == 0).flatten(1)
    assert (dropped.all(1) | ~dropped.any(1)).all()
    assert 0 < dropped.all(1).sum() < 6
