"""LM-EEC on a CUDA device: what the CPU says, bfloat16, training, and a GPU that is full.

    pytest -m gpu tests/test_memory_gpu.py

In float32 without TensorFloat-32 a GPU sums in another order, no more: logits (of some tens here)
agree within 1e-3 of the largest, and so do gradients. Banks drop tokens by comparing distances, so
that a longer track could part for good where two are equal to the last bit; none does here.
"""

from __future__ import annotations

import copy
import gc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from lm_eec_networks import SMALL, drawn_state, drawn_track, small_network  # noqa: E402
from squares_root import make_squares_root  # noqa: E402

from egoexo_tools.errors import DataError  # noqa: E402
from egoexo_tools.runs import RunFolder  # noqa: E402
from egoexo_tools.vocab import Direction, Split  # noqa: E402
from omama.checkpoint import Checkpoint, save_checkpoint  # noqa: E402
from omama.lm_eec.config import NetworkConfig  # noqa: E402
from omama.lm_eec.network import build_network  # noqa: E402
from omama.lm_eec.predict import predict  # noqa: E402
from omama.lm_eec.settings import LmEecOptions, LmEecTrainConfig  # noqa: E402
from omama.lm_eec.tracking import track_logits  # noqa: E402
from omama.lm_eec.training.losses import clip_losses, run_clips  # noqa: E402
from omama.lm_eec.training.rates import recompute_blocks  # noqa: E402
from omama.lm_eec.training.train import train  # noqa: E402
from omama.lm_eec.weights import METHOD, load_network  # noqa: E402

pytestmark = pytest.mark.gpu
QUIET = LmEecOptions(quiet=True)
FEW = LmEecTrainConfig(epochs=2, batch_pairs=2, accumulate=1, clips_per_track=2)
SHARE = 1e-3
"""Of the largest logit or gradient, that CUDA and CPU may differ by."""


@pytest.fixture(autouse=True)
def exact_float32():
    """Convolutions are rounded to TensorFloat-32 otherwise; matrix products are not by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_squares_root(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    weights = small_network().state_dict()
    save_checkpoint(Checkpoint(SMALL.to_dict(), weights, method=METHOD), path)
    return path


@pytest.fixture
def tiny_checkpoint(tmp_path):
    """A network whose pictures need more than what lies idle between its weights."""
    config = NetworkConfig.tiny()
    weights = build_network(config, drawn_state(config)).state_dict()
    save_checkpoint(Checkpoint(config.to_dict(), weights, method=METHOD), tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


@pytest.fixture(params=[0, 1], ids=["no room", "room for the weights"])
def full_card(request, tiny_checkpoint):
    """How many networks fit the part of GPU memory that this process may hold."""
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


def assert_near(found, expected):
    unit = float(expected.abs().max())
    assert float((found.cpu() - expected).abs().max()) <= SHARE * unit


@pytest.mark.parametrize("reference", [True, False])
@torch.no_grad()
def test_a_track_is_what_the_cpu_says(reference):
    """Long enough for banks that drop tokens, and with a gap."""
    track = drawn_track(13, empty=(3, 9))
    ran, expected = track_logits(small_network(), *track, reference)
    network = copy.deepcopy(small_network()).cuda()
    again, found = track_logits(network, *(part.cuda() for part in track), reference)
    assert again == ran
    assert_near(found, expected)


@torch.no_grad()
def test_base_plus_is_what_the_cpu_says():
    config = NetworkConfig.base_plus()
    network = build_network(config, drawn_state(config))
    track = drawn_track(2, size=config.image_size)
    _, expected = track_logits(network, *track)
    network.cuda()
    _, found = track_logits(network, *(part.cuda() for part in track))
    assert_near(found, expected)


@torch.no_grad()
def test_bfloat16_draws_nearly_the_same():
    track = [part.cuda() for part in drawn_track(10)]
    network = copy.deepcopy(small_network()).cuda()
    _, exact = track_logits(network, *track, False)
    with torch.autocast("cuda", torch.bfloat16):
        _, rounded = track_logits(network, *track, False)
    assert rounded.isfinite().all()
    assert torch.corrcoef(torch.stack([exact.flatten(), rounded.flatten()]))[0, 1] > 0.98


def test_gradients_are_what_the_cpu_says():
    """With the encoder's blocks computed again. Some parameters' gradients are small differences of
    large terms (the decoder's second self-attention: float32 on a CPU is 4e-4 of its norm away from
    float64), so that 1e-7 of the whole gradient's norm is allowed too."""
    clip = [part[None] for part in drawn_track(8)]
    found = {}
    for device in ("cpu", "cuda"):
        network = copy.deepcopy(small_network()).to(device).train()
        recompute_blocks(network)
        source, dest, masks = (part.to(device) for part in clip)
        loss = clip_losses(network, run_clips(network, source, dest, masks), masks).total
        loss.backward()
        found[device] = [p.grad for p in network.parameters() if p.grad is not None], loss
    assert_near(found["cuda"][1].detach(), found["cpu"][1].detach())
    whole = float(torch.stack([part.norm() for part in found["cpu"][0]]).norm())
    for on_gpu, on_cpu in zip(found["cuda"][0], found["cpu"][0], strict=True):
        apart = float((on_gpu.cpu() - on_cpu).norm())
        assert apart <= SHARE * float(on_cpu.norm()) + 1e-7 * whole


@pytest.mark.parametrize(("precision", "written"), [("auto", b"bf16"), ("fp32", b"fp32")])
def test_predictions_of_a_root(root, checkpoint, precision, written):
    options = replace(QUIET, model_precision=precision, reference_behaviour=True)
    table = pa.concat_tables(
        predict(root, Direction.EGO2EXO, Split.TEST, checkpoint, options=options)
    )
    assert len(table) == 9 and table.schema.metadata[b"precision"] == written
    assert np.isin(table["confidence"].to_numpy(), (0, 1)).all()


@pytest.mark.parametrize("direction", Direction)
def test_training_goes_on_where_it_was(root, checkpoint, tmp_path, direction):
    """In bfloat16, with dropout, stochastic depth, augmentation and recomputation."""
    dropping = tmp_path / "start.pt"
    config = replace(SMALL, dropout=0.1, stochastic_depth=0.2)
    weights = small_network().state_dict()
    save_checkpoint(Checkpoint(config.to_dict(), weights, method=METHOD), dropping)
    options = replace(QUIET, init=dropping)
    whole, stopped = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    train(root, direction, FEW, whole, options=options)
    for _ in range(FEW.epochs):
        train(root, direction, FEW, stopped, options=replace(options, resume=True), stop_after=1)
    ends = [torch.load(run.checkpoint_last, weights_only=True)["model"] for run in (whole, stopped)]
    for name, value in ends[0].items():
        assert value.isfinite().all(), name
        # Sums of gradients that are added atomically may come in another order.
        torch.testing.assert_close(ends[1][name], value, rtol=0, atol=1e-6, msg=name)
    assert list(predict(root, direction, Split.TEST, whole.checkpoint_best, options=QUIET))


def test_a_full_card_is_one_sentence(root, tiny_checkpoint, full_card, tmp_path):
    """Of predict, and of train."""
    says = ["no room for the network", "side by side; try --batch-pairs 16"][full_card]
    options = replace(QUIET, reference_behaviour=True)
    with pytest.raises(DataError, match=says) as caught:
        list(predict(root, Direction.EGO2EXO, Split.TEST, tiny_checkpoint, options=options))
    assert "\n" not in str(caught.value)
    says = ["no room for the network", "try --batch-pairs 1 and --accumulate 2"][full_card]
    options = replace(QUIET, init=tiny_checkpoint)
    with pytest.raises(DataError, match=says) as caught:
        train(root, Direction.EGO2EXO, FEW, RunFolder(tmp_path), options=options)
    assert "\n" not in str(caught.value)
