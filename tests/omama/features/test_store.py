"""Cached features: equal to live ones, and rejected when they are outdated."""

import json
import shutil
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny_root import EGO, TAKES

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.running.records import RunOptions
from egoexo_tools.vocab import Direction, Split
from omama.features.cache import CacheOptions, run_features
from omama.features.key import make_extractor
from omama.features.store import open_store
from omama.matching.config import ModelConfig
from omama.matching.loading import frame_order, load_batches
from omama.matching.matchers import match_descriptors
from omama.matching.model import OMama
from omama.matching.objective import compare_bucket
from omama.matching.samples import Bucket
from omama.tables.loading import load_dataset

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


def test_cached_and_live_features_are_equal(own_root: DatasetRoot) -> None:
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
    array = np.load(tokens)
    assert array.dtype == np.int8
    assert np.load(tokens.with_name("scales.npy")).shape == (4, *array.shape[2:])
    torch.manual_seed(0)
    config = ModelConfig("exo2ego", backbone, array.shape[1], 32, source_grid_hw=(10, 16))
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


def test_the_more_exact_of_two_caches_is_read(own_root: DatasetRoot) -> None:
    run_features(
        own_root, backbone="rgb_grid", cache=CacheOptions(precision="int8"), run=INLINE
    ).check()
    data = load_dataset(own_root, split=Split.TRAIN, direction=Direction.EXO2EGO)
    options = {"backbone": "rgb_grid", "weights": None, "cached": True, "pairs": data.pairs}
    exact = open_store(data.frames, **options).key
    assert exact.stored == "fp16" and "stored" not in exact.settings
    shutil.rmtree(own_root.features(exact.name))
    assert open_store(data.frames, **options).key.stored == "int8"
    # No camera is portrait here, so that squashed features equal the others.
    store = open_store(data.frames, **options, squash_portrait=True)
    assert store.key.stored == "int8" and len(store.read(np.unique(data.pairs.dest_frame)))
    with pytest.raises(SettingsError, match="cache precision 'fp4'; use fp16 or int8"):
        run_features(own_root, backbone="rgb_grid", cache=CacheOptions(precision="fp4"))


def test_features_older_than_the_proposals_are_rejected(own_root: DatasetRoot) -> None:
    unit = f"{FIRST}.{EGO}"
    rows = read_manifest(own_root, "proposals", units=[unit]).to_pylist()
    write_manifest(own_root, "proposals", unit, rows[:-1])
    with pytest.raises(DataError, match=rf"rgb_grid-\w+ of {unit} are older than its frames"):
        scores(own_root, "rgb_grid", cached=True, matcher=lambda b: b.truth.ious)
    redone = run_features(own_root, backbone="rgb_grid", run=INLINE)
    assert (redone.done, redone.skipped) == (1, 8)
    scores(own_root, "rgb_grid", cached=True, matcher=lambda b: b.truth.ious)


def test_missing_and_damaged_features_are_rejected(own_root: DatasetRoot) -> None:
    with pytest.raises(
        DataError, match="has no cached features efficientnet.*--backbone efficientnet-lite0"
    ):
        scores(own_root, "efficientnet-lite0", cached=True, matcher=lambda b: b.truth.ious)
    (index,) = own_root.path.glob(f"features/*/{FIRST}.cam01/index.npz")
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(DataError, match="cam01 are damaged"):
        scores(own_root, "rgb_grid", cached=True, matcher=lambda b: b.truth.ious)


def test_each_precision_has_its_own_cache(own_root: DatasetRoot) -> None:
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
