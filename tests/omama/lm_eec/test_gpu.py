"""LM-EEC on a CUDA device: equal to the CPU, in bfloat16, training, and with full GPU memory.

    pytest -m gpu tests/omama/lm_eec/test_gpu.py

In float32 without TensorFloat-32 a GPU differs from a CPU only in the order of sums: logits (of
some tens here) and gradients agree within 1e-3 of the largest. Banks drop tokens by comparing
distances, so that a longer track could differ from the first tie on; none does here.
"""

import copy
import gc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from lm_eec_networks import SMALL, random_state, random_track, save_network, small_network

from egoexo_tools.errors import DataError
from egoexo_tools.runs import RunFolder
from egoexo_tools.vocab import Direction, Split
from omama.lm_eec.config import NetworkConfig
from omama.lm_eec.network import build_network
from omama.lm_eec.predict import predict
from omama.lm_eec.settings import LmEecOptions, LmEecTrainConfig
from omama.lm_eec.tracking import track_logits
from omama.lm_eec.training.losses import clip_losses, run_clips
from omama.lm_eec.training.rates import recompute_blocks
from omama.lm_eec.training.train import train
from omama.lm_eec.weights import load_network

pytestmark = pytest.mark.gpu
QUIET = LmEecOptions(quiet=True)
FEW = LmEecTrainConfig(epochs=2, batch_pairs=2, accumulate=1, clips_per_track=2)
SHARE = 1e-3
"""Of the largest logit or gradient, that CUDA and CPU may differ by."""


@pytest.fixture(autouse=True)
def exact_float32():
    """Convolutions are rounded to TensorFloat-32 otherwise; matrix products are not by default."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = allowed


@pytest.fixture
def tiny_checkpoint(tmp_path):
    """A network whose pictures need more memory than is left between its weights."""
    config = NetworkConfig.tiny()
    return save_network(tmp_path / "tiny.pt", build_network(config, random_state(config)))


@pytest.fixture(params=[0, 1], ids=["no room", "room for the weights"])
def full_gpu(request, tiny_checkpoint):
    """Limit this process's GPU memory; returns the number of networks that fit."""
    gc.collect()
    torch.cuda.empty_cache()
    networks = [load_network(tiny_checkpoint).network.cuda() for _ in range(request.param)]
    room = torch.cuda.memory_reserved() + 2**20 * request.param
    del networks
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(room / total)
    yield request.param
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def assert_near(values, expected):
    unit = float(expected.abs().max())
    assert float((values.cpu() - expected).abs().max()) <= SHARE * unit


@pytest.mark.parametrize("reference", [True, False])
@torch.no_grad()
def test_a_track_equals_that_of_the_cpu(reference):
    """Long enough for banks that drop tokens, and with a gap."""
    track = random_track(13, empty=(3, 9))
    frames, expected = track_logits(small_network(), *track, reference)
    network = copy.deepcopy(small_network()).cuda()
    gpu_frames, logits = track_logits(network, *(part.cuda() for part in track), reference)
    assert gpu_frames == frames
    assert_near(logits, expected)


@torch.no_grad()
def test_base_plus_equals_that_of_the_cpu():
    config = NetworkConfig.base_plus()
    network = build_network(config, random_state(config))
    track = random_track(2, size=config.image_size)
    _, expected = track_logits(network, *track)
    network.cuda()
    _, logits = track_logits(network, *(part.cuda() for part in track))
    assert_near(logits, expected)


@torch.no_grad()
def test_bfloat16_is_close_to_float32():
    track = [part.cuda() for part in random_track(10)]
    network = copy.deepcopy(small_network()).cuda()
    _, exact = track_logits(network, *track, False)
    with torch.autocast("cuda", torch.bfloat16):
        _, rounded = track_logits(network, *track, False)
    assert rounded.isfinite().all()
    assert torch.corrcoef(torch.stack([exact.flatten(), rounded.flatten()]))[0, 1] > 0.98


def test_gradients_equal_those_of_the_cpu():
    """With the encoder's blocks computed again. Some parameters' gradients are small differences of
    large terms (the decoder's second self-attention: float32 on a CPU is 4e-4 of its norm away from
    float64), so that 1e-7 of the whole gradient's norm is allowed too."""
    clip = [part[None] for part in random_track(8)]
    results = {}
    for device in ("cpu", "cuda"):
        network = copy.deepcopy(small_network()).to(device).train()
        recompute_blocks(network)
        source, dest, masks = (part.to(device) for part in clip)
        loss = clip_losses(network, run_clips(network, source, dest, masks), masks).total
        loss.backward()
        results[device] = [p.grad for p in network.parameters() if p.grad is not None], loss
    assert_near(results["cuda"][1].detach(), results["cpu"][1].detach())
    whole = float(torch.stack([part.norm() for part in results["cpu"][0]]).norm())
    for on_gpu, on_cpu in zip(results["cuda"][0], results["cpu"][0], strict=True):
        difference = float((on_gpu.cpu() - on_cpu).norm())
        assert difference <= SHARE * float(on_cpu.norm()) + 1e-7 * whole


@pytest.mark.parametrize(("precision", "written"), [("auto", b"bf16"), ("fp32", b"fp32")])
def test_a_root_is_predicted(squares_root, checkpoint, precision, written):
    options = replace(QUIET, model_precision=precision, reference_behaviour=True)
    table = pa.concat_tables(
        predict(squares_root, Direction.EGO2EXO, Split.TEST, checkpoint, options=options)
    )
    assert len(table) == 9 and table.schema.metadata[b"precision"] == written
    assert np.isin(table["confidence"].to_numpy(), (0, 1)).all()


@pytest.mark.parametrize("direction", Direction)
def test_a_resumed_run_equals_an_undisturbed_one(squares_root, tmp_path, direction):
    """In bfloat16, with dropout, stochastic depth, augmentation and recomputation."""
    config = replace(SMALL, dropout=0.1, stochastic_depth=0.2)
    start = save_network(tmp_path / "start.pt", small_network(), config)
    options = replace(QUIET, init=start)
    whole, stopped = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    train(squares_root, direction, FEW, whole, options=options)
    for _ in range(FEW.epochs):
        resumed = replace(options, resume=True)
        train(squares_root, direction, FEW, stopped, options=resumed, stop_after=1)
    ends = [torch.load(run.checkpoint_last, weights_only=True)["model"] for run in (whole, stopped)]
    for name, value in ends[0].items():
        assert value.isfinite().all(), name
        # Sums of gradients that are added atomically may come in another order.
        torch.testing.assert_close(ends[1][name], value, rtol=0, atol=1e-6, msg=name)
    assert list(predict(squares_root, direction, Split.TEST, whole.checkpoint_best, options=QUIET))


def test_a_full_gpu_gives_a_clear_message(squares_root, tiny_checkpoint, full_gpu, tmp_path):
    message = ["no room for the network", "side by side; try --batch-pairs 16"][full_gpu]
    options = replace(QUIET, reference_behaviour=True)
    with pytest.raises(DataError, match=message) as caught:
        list(predict(squares_root, Direction.EGO2EXO, Split.TEST, tiny_checkpoint, options=options))
    assert "\n" not in str(caught.value)
    message = ["no room for the network", "try --batch-pairs 1 and --accumulate 2"][full_gpu]
    options = replace(QUIET, init=tiny_checkpoint)
    with pytest.raises(DataError, match=message) as caught:
        train(squares_root, Direction.EGO2EXO, FEW, RunFolder(tmp_path), options=options)
    assert "\n" not in str(caught.value)
