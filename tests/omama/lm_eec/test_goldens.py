"""LM-EEC against results of the running reference; skipped without the shared folder."""

import copy
import json
import math
from functools import cache

import numpy as np
import pytest
import torch
from conftest import SHARED
from PIL import Image

from omama.lm_eec.bank import REFERENCE, TrackMemory, compress
from omama.lm_eec.config import NetworkConfig
from omama.lm_eec.naming import file_names
from omama.lm_eec.network import ViewFusion, build_network
from omama.lm_eec.tracking import TrackStep, advance, encode_source, track_logits
from omama.lm_eec.training.losses import clip_losses, run_clips

GOLDENS = SHARED / "goldens" / "lm_eec"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not GOLDENS.exists(), reason=f"no goldens in {GOLDENS}"),
]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def golden(name):
    with np.load(GOLDENS / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays}


def random_state(shapes):
    random = np.random.RandomState(7)
    state = {}
    for key in sorted(shapes):
        values, shape = random.standard_normal(shapes[key]), shapes[key]
        if len(shape) > 1:
            values = values / math.sqrt(np.prod(shape[1:]))
        elif key.endswith("weight"):
            values = 1 + 0.1 * values
        else:
            values = 0.1 * values
        state[key] = torch.from_numpy(values.astype(np.float32))
    return state


@cache
def network():
    state = random_state(json.loads((GOLDENS / "shapes.json").read_text()))
    state["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += 1.66
    return build_network(NetworkConfig.tiny(), state)


def picture(pixels):
    small = Image.fromarray(pixels).resize((160, 160), Image.Resampling.BICUBIC)
    return torch.from_numpy(((np.asarray(small) / 255 - MEAN) / STD).astype(np.float32)).permute(
        2, 0, 1
    )


def masks_at_160(masks):
    shape = torch.from_numpy(masks).float()[:, None]
    small = torch.nn.functional.interpolate(
        shape, (160, 160), mode="bilinear", antialias=True, align_corners=False
    )
    return (small[:, 0] >= 0.5).float()


def inputs(arrays):
    source = torch.stack([picture(pixels) for pixels in arrays["source_frames"]])
    dest = torch.stack([picture(pixels) for pixels in arrays["dest_frames"]])
    return source, dest, masks_at_160(arrays["source_masks"])


def assert_near(ours, theirs, tolerance=1e-5):
    """Within `tolerance`, in units of the largest value where that is above 1."""
    unit = max(1.0, float(np.abs(theirs).max()))
    assert np.abs(np.asarray(ours, np.float64) - theirs).max() <= tolerance * unit


def test_the_fusion_equals_the_reference():
    arrays = golden("mvmoe")
    shapes = {key: list(value.shape) for key, value in ViewFusion(256).state_dict().items()}
    fusion = ViewFusion(256)
    fusion.load_state_dict(random_state(shapes))
    memory, view = (torch.from_numpy(arrays[name]) for name in ("memory", "view"))
    with torch.no_grad():
        assert_near(fusion(memory, view), arrays["out"])


def test_the_bank_equals_the_reference():
    arrays = golden("bank")
    raw = torch.from_numpy(arrays["raw"])
    bank = raw[:6]
    for number, (expected, origins_of_tokens) in enumerate(
        zip(arrays["banks"], arrays["kept"], strict=True)
    ):
        bank = compress(torch.cat([bank, raw[6 + number][None]]))
        assert np.array_equal(bank, expected)
        frames = (bank[None] == raw[:, None]).all(-1).float().argmax(0)
        assert np.array_equal(frames, origins_of_tokens)


@pytest.mark.parametrize("name", ["clip", "gap"])
def test_a_track_equals_the_reference(name):
    arrays = golden(name)
    with torch.no_grad():
        frames, logits = track_logits(network(), *inputs(arrays))
    assert frames == arrays["ran"].tolist()
    assert_near(logits, arrays["low_res_logits"])
    areas = (network().full_logits(logits) > 0).sum((1, 2))
    assert areas.tolist() == arrays["areas"][frames].tolist()


@pytest.mark.parametrize("name", ["clip", "gap"])
def test_memories_equal_the_reference(name):
    """Scores, pointers, and the frame that each token of both banks comes from, at every frame."""
    arrays = golden(name)
    ours = network()
    source, dest, masks = inputs(arrays)
    memory, raw = TrackMemory(len(masks)), {}
    with torch.no_grad():
        views = [ours.encode_images(images) for images in (source, dest)]
        for place, frame in enumerate(arrays["ran"].tolist()):
            source_frame, dest_frame = (view.select(torch.tensor([frame])) for view in views)
            encoded = encode_source(ours, source_frame, dest_frame, masks[[frame]])
            step = TrackStep([frame], dest_frame, *encoded)
            decoded = advance(ours, [memory], step, REFERENCE)
            raw[frame] = memory.recent[-1].memories
            assert_near(decoded.object_score, arrays["object_score_logits"][place])
            assert_near(decoded.iou, arrays["iou"][place])
            assert_near(decoded.pointer[0], arrays["obj_ptr"][place])
            expected = np.stack([arrays["source_kept"][place], arrays["dest_kept"][place]])
            assert np.array_equal(origins(memory.bank, raw), expected)
    first = raw[int(arrays["ran"][0])].transpose(1, 2).reshape(2, 64, 10, 10)
    assert_near(first[0], arrays["source_memory_first"])
    assert_near(first[1], arrays["dest_memory_first"])


def origins(bank, raw):
    frames = np.full((2, 6, 100), -1)
    if bank is None:
        return frames
    for frame, memories in raw.items():
        same = (bank == memories[:, None]).all(-1).numpy()
        frames[:, : same.shape[1]][same] = frame
    return frames


def test_losses_and_gradients_equal_the_reference():
    arrays = golden("train")
    ours = copy.deepcopy(network()).train()
    images = {
        side: torch.from_numpy(arrays[f"{side}_images"]).repeat_interleave(8, 3)
        for side in ("source", "dest")
    }
    images = {side: batch.repeat_interleave(8, 4) for side, batch in images.items()}
    masks = {
        side: torch.from_numpy(np.unpackbits(arrays[f"{side}_masks"], axis=-1)).transpose(0, 1)
        for side in ("source", "dest")
    }
    outputs = run_clips(ours, images["source"], images["dest"], masks["source"])
    losses = clip_losses(ours, outputs, masks["dest"])
    losses.total.backward()
    logits = torch.stack([output.low_res_logits for output in outputs]).detach()
    assert_near(logits, arrays["low_res_logits"])
    scores = torch.stack([output.object_score for output in outputs]).detach()
    assert_near(scores, arrays["object_score_logits"])
    for ours_, theirs in (
        (losses.mask, "loss_mask"), (losses.dice, "loss_dice"), (losses.iou, "loss_iou"),
        (losses.present, "loss_class"), (losses.total, "core_loss"),
    ):  # fmt: skip
        assert ours_.item() == pytest.approx(float(arrays[theirs]), rel=1e-4)
    expected = dict(zip(arrays["grad_parts"].tolist(), arrays["grad_norms"], strict=True))
    norms = gradient_norms(ours)
    assert {part for part, norm in norms.items() if norm} == {
        part for part, norm in expected.items() if norm
    }
    for part, norm in norms.items():
        assert norm == pytest.approx(float(expected[part]), rel=1e-4)


def gradient_norms(network):
    squares = {}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            part = ".".join(file_names(name)[0].split(".")[:2])
            squares[part] = squares.get(part, 0.0) + float(parameter.grad.double().square().sum())
    return {part: math.sqrt(square) for part, square in squares.items()}
