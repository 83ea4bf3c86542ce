"""A GPU gives the results of the CPU: features, training, predictions.

FastSAM in half precision is in test_fastsam.py, LM-EEC in lm_eec/test_gpu.py. Every test runs twice
on the same data, once on the CPU by hiding the GPU.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from square_trainings import CONFIG, read_losses, train_run
from tiny_root import make_tiny_root
from torch import Tensor

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.proposers.encoding import encode_masks
from egoexo_tools.running.records import RunOptions
from egoexo_tools.runs import RunFolder
from egoexo_tools.vocab import Direction, Split
from omama.config import Features
from omama.features.cache import run_features
from omama.features.descriptors import describe
from omama.matching.config import MatchingOptions, TrainConfig
from omama.writing import predict_run

pytestmark = pytest.mark.gpu

QUIET = RunOptions(executor="inline", quiet=True)


@contextmanager
def on(device: str) -> Iterator[torch.device]:
    """With "cpu", torch reports no GPU; with "cuda", something must be allocated on it."""
    before = allocations()
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.MonkeyPatch.context() as patch:
        if device == "cpu":
            patch.setattr("torch.cuda.is_available", lambda: False)
        yield torch.device("cuda" if torch.cuda.is_available() else "cpu")
    AcceleratorState._reset_state(reset_partial_state=True)
    if torch.cuda.is_available():
        assert (allocations() > before) == (device == "cuda")


def allocations() -> int:
    """Number of allocations on the GPU since the program started."""
    return int(torch.cuda.memory_stats().get("allocation.all.allocated", 0))


@pytest.fixture(scope="module")
def vit_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights of DINOv2's shape, with layer scales that let its blocks contribute."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_base_patch14_reg4_dinov2", pretrained=False, num_classes=0)
    state = vit.state_dict()
    for name, values in state.items():
        if name.endswith("gamma"):
            values.fill_(0.3)
    path = tmp_path_factory.mktemp("weights") / "vit.pth"
    torch.save(state, path)
    return path


def pop_cache(root: DatasetRoot) -> dict[str, Tensor]:
    """Every cached array of a root by its name; removes the cache."""
    arrays = {
        f"{path.parent.name}/{path.stem}": torch.from_numpy(np.load(path)).float()
        for path in root.path.glob("features/*/*/*.npy")
    }
    shutil.rmtree(root.path / "features")
    shutil.rmtree(root.path / "status" / "features")
    return arrays


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("bf16", 0.99)])
def test_cached_features(tmp_path: Path, vit_weights: Path, precision: str, least: float) -> None:
    root = make_tiny_root(tmp_path / "root")
    features = {}
    for device, device_precision in (("cuda", precision), ("cpu", "fp32")):
        with on(device):
            run_features(
                root,
                backbone="dinov2",
                weights=vit_weights,
                feature_precision=device_precision,
                run=QUIET,
            ).check()
        features[device] = pop_cache(root)
    assert features["cuda"].keys() == features["cpu"].keys() and len(features["cpu"]) == 3 * 9
    for name, theirs in features["cpu"].items():
        ours = features["cuda"][name]
        channels = 1 if name.endswith("tokens") else -1
        assert F.cosine_similarity(ours, theirs, dim=channels).min() > least, name
        if name.endswith("proposals"):  # their nearest neighbours stay the same
            assert torch.equal(nearest(ours), nearest(theirs)) or precision == "bf16"


def nearest(rows: Tensor) -> Tensor:
    units = F.normalize(rows[:, : rows.shape[1] // 2], dim=1)
    return (units @ units.T).fill_diagonal_(-1).argmax(dim=1)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-3), ("bf16", 5e-2)])
def test_losses_of_training(
    own_root: DatasetRoot, precision: str, tolerance: float, cached: bool
) -> None:
    config = TrainConfig(**{**CONFIG.to_dict(), "precision": precision})
    with on("cuda"):
        train_run(own_root, "ours", config, cached=cached, stop_after=4)
    with on("cpu"):
        train_run(own_root, "theirs", CONFIG, cached=cached, stop_after=4)
    assert read_losses(own_root, "ours") == pytest.approx(
        read_losses(own_root, "theirs"), rel=tolerance
    )
    assert len(read_losses(own_root, "ours")) == 4


@pytest.mark.parametrize("cached", [True, False])
def test_predictions_choose_the_same(own_root: DatasetRoot, cached: bool) -> None:
    with on("cpu"):
        checkpoint = train_run(own_root, "trained", stop_after=4)
    tables = []
    for device in ("cuda", "cpu"):
        with on(device):
            path = predict_run(
                "o-mama", own_root, Direction.EGO2EXO, Split.TEST,
                RunFolder.of(own_root, device), checkpoint=checkpoint,
                options=MatchingOptions(features=Features("rgb_grid", cached=cached), quiet=True),
            )  # fmt: skip
        tables.append(pq.read_table(path.with_suffix(".parquet")).to_pylist())
    for ours, theirs in zip(*tables, strict=True):
        assert ours.pop("confidence") == pytest.approx(theirs.pop("confidence"), abs=2e-3)
        assert ours.pop("similarity") == pytest.approx(theirs.pop("similarity"), abs=2e-3)
        assert ours == theirs


def test_pooling_and_encoding() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(32, 38, 68, generator=generator)
    masks = torch.rand(20, 133, 238, generator=generator) > 0.7
    boxes = torch.tensor([[100.0, 50.0, 300.0, 200.0]]).expand(20, 4)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ours, theirs = (
        describe(tokens.to(at), masks.to(at), boxes.to(at), patch_size=14).cpu()
        for at in (device, torch.device("cpu"))
    )
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert encode_masks(masks.to(device)) == [MaskRle.encode(mask.numpy()) for mask in masks]
