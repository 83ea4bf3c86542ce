"""The code that runs on a GPU, on fake CUDA tensors, which need no GPU.

PyTorch's FakeTensorMode propagates shapes, types and devices through every operation, and fails
if tensors of two devices meet. Values are not computed.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from egoexo_tools.vocab import Direction
from omama.features.backbones import Backbone, RgbGrid
from omama.features.descriptors import _upsampling
from omama.features.frame_features import Extractor, RawFrame
from omama.features.mask_relations import MaskRelations
from omama.matching.config import ModelConfig, TrainConfig
from omama.matching.matchers import match_descriptors, model_matcher
from omama.matching.model import OMama
from omama.matching.objective import Objective, compare_bucket, visibility_logit
from omama.matching.samples import Bucket, TrainingCandidates, Truth

CUDA = torch.device("cuda", 0)
GROUPS, SOURCES, ROWS, PAIRS, CANDIDATES, WIDTH = 2, 3, 7, 5, 4, 12
CONFIG = ModelConfig(
    direction=Direction.EGO2EXO,
    backbone="rgb_grid",
    feature_width=WIDTH,
    width=24,
    source_grid_hw=(5, 5),
    dest_grid_hw=(4, 6),
    heads=2,
)


@pytest.fixture(autouse=True)
def no_gpu_needed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Autocast for CUDA turns itself off without a GPU; fake modules cannot be moved.
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    monkeypatch.setattr("torch.nn.Module.to", lambda module, device: module)
    with FakeTensorMode():
        yield
    _upsampling.cache_clear()  # it caches fake tensors


def on_gpu(model: Callable[[], torch.nn.Module]) -> Any:
    """Make a module on the fake GPU."""
    with CUDA:
        return model()


def bucket(device: torch.device | None) -> Bucket:
    """As from `make_buckets`: features on the backbone's device, everything else on the CPU."""
    return Bucket(
        source_tokens=torch.randn(GROUPS, WIDTH, 5, 5, device=device),
        dest_tokens=torch.randn(GROUPS, WIDTH, 4, 6, device=device),
        sources=torch.randn(GROUPS, SOURCES, 2 * WIDTH, device=device),
        dests=torch.randn(GROUPS, ROWS, 2 * WIDTH, device=device),
        is_proposal=torch.ones(GROUPS, ROWS, dtype=torch.bool),
        first_proposal=torch.zeros(GROUPS, dtype=torch.long),
        group=torch.zeros(PAIRS, dtype=torch.long),
        source_row=torch.zeros(PAIRS, dtype=torch.long),
        pair=torch.arange(PAIRS),
        truth=Truth(torch.ones(PAIRS, dtype=torch.bool), torch.zeros(PAIRS, ROWS)),
        candidates=TrainingCandidates(
            rows=torch.zeros(PAIRS, CANDIDATES, dtype=torch.long),
            valid=torch.ones(PAIRS, CANDIDATES, dtype=torch.bool),
        ),
    )


def test_fake_tensors_of_two_devices_are_refused() -> None:
    with pytest.raises(RuntimeError, match="two different devices"):
        torch.ones(3, device=CUDA).masked_fill(torch.ones(3, dtype=torch.bool), 0)


@pytest.mark.slow
@pytest.mark.parametrize("made_on", [None, CUDA])
@pytest.mark.parametrize("bf16", [False, True])
def test_matching(made_on: torch.device | None, bf16: bool) -> None:
    matcher = model_matcher(on_gpu(lambda: OMama(CONFIG)), calibration=None, device=CUDA, bf16=bf16)
    for scores in (matcher(bucket(made_on)), match_descriptors(bucket(made_on))):
        assert scores.similarity.shape == (PAIRS, ROWS)
        assert scores.confidence.shape == (PAIRS,)
        assert scores.similarity.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("projected", [False, True])
def test_the_loss_of_a_training_step(precision: str, projected: bool) -> None:
    config = CONFIG if projected else replace(CONFIG, width=WIDTH)
    train = TrainConfig(precision=precision)
    objective = Objective(on_gpu(lambda: OMama(config)), train, visible_share=0.5)
    loss, _ = objective([bucket(CUDA).to(CUDA), bucket(None).to(CUDA)])
    assert loss.device == CUDA and loss.dtype == torch.float32 and loss.requires_grad


def test_validation_uses_the_head() -> None:
    model, gpu_bucket = on_gpu(lambda: OMama(CONFIG)), bucket(None).to(CUDA)
    matches = compare_bucket(model, gpu_bucket)
    assert visibility_logit(model, matches).device == CUDA
    assert gpu_bucket.truth.ious.gather(1, matches.best_row[:, None]).device == CUDA


@pytest.mark.parametrize("bf16", [False, True])
def test_features(bf16: bool) -> None:
    backbone = Backbone(RgbGrid(), name="rgb_grid", patch_size=14, dim=3)
    raw = RawFrame(
        image=torch.zeros(56, 84, 3, dtype=torch.uint8),
        quarters=torch.ones(5, 14, 21, dtype=torch.bool),
        boxes=torch.ones(5, 4),
        masks=2,
        relations=MaskRelations(ious=None, best=None, near=None),  # type: ignore[arg-type]
    )
    for features in Extractor(backbone, device=CUDA, bf16=bf16)([raw, raw]):
        shapes = [features.tokens.shape, features.masks.shape, features.proposals.shape]
        assert shapes == [(3, 4, 6), (2, 6), (3, 6)]
        assert {features.tokens.device, features.masks.device} == {CUDA}
        assert features.tokens.dtype == features.masks.dtype == torch.float32
