"""Cached features: equal to those made on the fly, and refused by name when they are stale."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_root import EGO, TAKES, make_tiny_root

from egoexo_tools.errors import DataError, SettingsError, StageFailed
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.running.records import RunOptions
from egoexo_tools.vocab import Direction, Split
from omama.features.backbones import Backbone
from omama.features.cache import CacheOptions, run_features
from omama.features.cache_files import quantise
from omama.features.frame_features import Extractor
from omama.features.key import make_extractor
from omama.features.store import open_store
from omama.matching.config import ModelConfig
from omama.matching.loading import frame_order, load_batches
from omama.matching.matchers import match_descriptors
from omama.matching.model import OMama
from omama.matching.objective import compare_bucket
from omama.matching.samples import Bucket
from omama.tables.loading import load_dataset
from omama.tables.parquet import load_frames

FIRST = next(iter(TAKES))
INLINE = RunOptions(executor="inline", quiet=True)


def scores(
    root: DatasetRoot,
    backbone: str,
    *,
    cached: bool,
    matcher: Callable[[Bucket], torch.Tensor],
    feature_precision: str = "fp32",
) -> torch.Tensor:
    data = load_dataset(root, split=Split.TRAIN, direction=Direction.EXO2EGO)
    store = open_store(
        data.frames,
        backbone=backbone,
        weights=None,
        cached=cached,
        feature_precision=feature_precision,
    )
    batches = frame_order(data.pairs, batch_size=100)
    (buckets,) = list(load_batches(data.frames, data.pairs, batches, store))
    (bucket,) = buckets
    return matcher(bucket).masked_fill(~bucket.is_proposal[bucket.group], -1.0)


def test_cached_and_live_features_agree(own_root: DatasetRoot) -> None:
    run_features(own_root, backbone="efficientnet-lite0", run=INLINE).check()
    torch.manual_seed(0)
    config = ModelConfig("exo2ego", "efficientnet-lite0", 472, 32, source_grid_hw=(8, 14))
    model = OMama(config).eval()
    for matcher in (
        lambda b: compare_bucket(model, b).similarity,
        lambda b: match_descriptors(b).similarity,
    ):
        with torch.no_grad():
            live = scores(own_root, "efficientnet-lite0", cached=False, matcher=matcher)
            cached = scores(own_root, "efficientnet-lite0", cached=True, matcher=matcher)
        assert (live - cached).abs().max() < 1e-3
        assert torch.equal(live.argmax(dim=1), cached.argmax(dim=1))


def test_int8_tokens_give_the_same_choices(own_root: DatasetRoot) -> None:
    backbone = "efficientnet-lite0"
    run_features(
        own_root, backbone=backbone, cache=CacheOptions(precision="int8"), run=INLINE
    ).check()
    (tokens,) = own_root.path.glob(f"features/{backbone}*/{FIRST}.cam01/tokens.npy")
    kept = np.load(tokens)
    assert kept.dtype == np.int8
    assert np.load(tokens.with_name("scales.npy")).shape == (4, *kept.shape[2:])
    torch.manual_seed(0)
    config = ModelConfig("exo2ego", backbone, kept.shape[1], 32, source_grid_hw=(10, 16))
    model = OMama(config).eval()
    for matcher in (
        lambda b: compare_bucket(model, b).similarity,
        lambda b: match_descriptors(b).similarity,
    ):
        with torch.no_grad():
            live = scores(own_root, backbone, cached=False, matcher=matcher)
            cached = scores(own_root, backbone, cached=True, matcher=matcher)
        assert (live - cached).abs().max() < 2e-3
        assert torch.equal(live.argmax(dim=1), cached.argmax(dim=1))


def test_a_token_is_whole_numbers_and_a_scale() -> None:
    """Against the plain way, token by token; a token of zeros stays one."""
    tokens = np.random.default_rng(0).normal(size=(7, 3, 4)).astype(np.float32)
    tokens[:, 1, 2] = 0
    numbers, scales = quantise(tokens)
    assert numbers.dtype == np.int8 and scales.dtype == np.float32
    for row in range(3):
        for column in range(4):
            token = tokens[:, row, column].tolist()
            largest = max(abs(value) for value in token)
            assert scales[row, column] == pytest.approx(largest / 127, rel=1e-6)
            for value, number in zip(token, numbers[:, row, column].tolist(), strict=True):
                assert abs(number * largest / 127 - value) <= largest / 127 / 2 * 1.0001
            assert (abs(numbers[:, row, column]).max() == 127) == (largest > 0)


def test_the_exact_cache_is_read_where_there_are_two(own_root: DatasetRoot) -> None:
    run_features(
        own_root, backbone="rgb_grid", cache=CacheOptions(precision="int8"), run=INLINE
    ).check()
    data = load_dataset(own_root, split=Split.TRAIN, direction=Direction.EXO2EGO)
    wanted = {"backbone": "rgb_grid", "weights": None, "cached": True, "pairs": data.pairs}
    exact = open_store(data.frames, **wanted).key
    assert exact.stored == "fp16" and "stored" not in exact.settings
    shutil.rmtree(own_root.features(exact.name))
    assert open_store(data.frames, **wanted).key.stored == "int8"
    # No camera here is portrait, so that the reference's squashed ones are the same.
    store = open_store(data.frames, **wanted, squash_portrait=True)
    assert store.key.stored == "int8" and len(store.read(np.unique(data.pairs.dest_frame)))
    with pytest.raises(SettingsError, match="cache precision 'fp4'; use fp16 or int8"):
        run_features(own_root, backbone="rgb_grid", cache=CacheOptions(precision="fp4"))


def test_a_second_run_has_nothing_to_do_and_backbones_lie_side_by_side(
    own_root: DatasetRoot,
) -> None:
    again = run_features(own_root, backbone="rgb_grid", run=INLINE)
    assert (again.done, again.skipped) == (0, 9)
    other = run_features(own_root, backbone="efficientnet-lite0", run=INLINE)
    assert (other.done, other.counts["frames"]) == (9, 36)
    assert len(list((own_root.path / "features").iterdir())) == 2


def test_features_older_than_the_proposals_are_refused_by_name(own_root: DatasetRoot) -> None:
    unit = f"{FIRST}.{EGO}"
    rows = read_manifest(own_root, "proposals", units=[unit]).to_pylist()
    write_manifest(own_root, "proposals", unit, rows[:-1])
    with pytest.raises(DataError, match=rf"rgb_grid-\w+ of {unit} are older than its frames"):
        scores(own_root, "rgb_grid", cached=True, matcher=lambda b: b.truth.ious)
    redone = run_features(own_root, backbone="rgb_grid", run=INLINE)
    assert (redone.done, redone.skipped) == (1, 8)
    scores(own_root, "rgb_grid", cached=True, matcher=lambda b: b.truth.ious)


def test_missing_and_damaged_features_are_refused_by_name(own_root: DatasetRoot) -> None:
    with pytest.raises(
        DataError, match="has no cached features efficientnet.*--backbone efficientnet-lite0"
    ):
        scores(own_root, "efficientnet-lite0", cached=True, matcher=lambda b: b.truth.ious)
    (index,) = own_root.path.glob(f"features/*/{FIRST}.cam01/index.npz")
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(DataError, match="cam01 are damaged"):
        scores(own_root, "rgb_grid", cached=True, matcher=lambda b: b.truth.ious)


def test_a_missing_picture_fails_its_unit_alone(own_root: DatasetRoot) -> None:
    own_root.frame(FIRST, EGO, 30).unlink()
    summary = run_features(own_root, backbone="efficientnet-lite0", run=INLINE)
    assert summary.done == 8
    with pytest.raises(StageFailed, match="30.jpg is missing; run"):
        summary.check()
    assert not list(own_root.path.glob(f"features/efficientnet-lite0*/{FIRST}.{EGO}/*"))


def test_precisions_have_caches_of_their_own(own_root: DatasetRoot) -> None:
    ious = {"cached": True, "matcher": lambda b: b.truth.ious}
    with pytest.raises(DataError, match="--backbone rgb_grid --feature-precision bf16` first"):
        scores(own_root, "rgb_grid", feature_precision="bf16", **ious)
    run_features(own_root, backbone="rgb_grid", feature_precision="bf16", run=INLINE).check()
    scores(own_root, "rgb_grid", feature_precision="bf16", **ious)
    settings = [
        json.loads(path.read_bytes())["precision"]
        for path in own_root.path.glob("features/*/settings.json")
    ]
    assert sorted(settings) == ["bf16", "fp32"]
    with pytest.raises(SettingsError, match="feature precision 'fp8'; use fp32 or bf16"):
        make_extractor("rgb_grid", None, feature_precision="fp8")


class Greedy(torch.nn.Module):
    """Wants more memory than any device has."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_backbone_without_memory_says_how_many_images_to_try(own_root: DatasetRoot) -> None:
    backbone = Backbone(Greedy(), name="greedy", patch_size=14, dim=3)
    extractor = Extractor(backbone, device=torch.device("cpu"))
    frames = load_frames(own_root, [(FIRST, EGO)])
    raws = [extractor.read(frames, frame) for frame in range(4)]
    with pytest.raises(DataError, match="with 1 images at once; use --feature-precision bf16, or"):
        extractor(raws)  # a CPU takes them one by one
    with pytest.raises(DataError, match="with 4 images at once; try --images-at-once 2 of `omama"):
        extractor._features(raws)


def test_tokens_are_the_mean_colours_in_float16(featured_root: DatasetRoot) -> None:
    (tokens,) = featured_root.path.glob(f"features/*/{FIRST}.cam01/tokens.npy")
    array = np.load(tokens, mmap_mode="r")
    assert (array.dtype, array.shape) == (np.float16, (4, 3, 10, 16))


@pytest.mark.slow
def test_a_full_disk_fails_a_camera_and_nothing_else(small_disk: Path) -> None:
    """In a process of its own: a map of a file without room would end it."""
    import subprocess
    import sys

    root = make_tiny_root(small_disk.parent / "root")
    (root.path / "features").symlink_to(small_disk)
    command = ["features", str(root.path), "--backbone", "efficientnet-lite0", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "omama.cli", *command], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "the disk is full; make room and run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
