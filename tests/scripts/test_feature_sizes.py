"""The table of feature sizes counts the bytes that are written."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from selected_pairs import keep_pairs, remove_proposals_and_features

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import RunOptions
from egoexo_tools.stages.propose import run_propose
from omama.features.cache import CacheOptions, run_features

INLINE = RunOptions(executor="inline", quiet=True)
BACKBONE = "efficientnet-lite0"


def test_the_table_equals_the_written_bytes(
    own_root: DatasetRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = remove_proposals_and_features(own_root)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    feature_sizes = importlib.import_module("feature_sizes")
    run_propose(root, proposer="oracle", run=INLINE).check()
    keep_pairs(root, [0, 30])
    frames = list(feature_sizes.frames_of_root(root))
    for form, cache in (
        ("fp16", CacheOptions()),
        ("int8", CacheOptions(precision="int8")),
        ("descriptors", CacheOptions(descriptors_only=True)),
    ):
        shutil.rmtree(root.path / "features", ignore_errors=True)
        shutil.rmtree(root.path / "status" / "features", ignore_errors=True)
        run_features(root, backbone=BACKBONE, cache=cache, run=INLINE).check()
        files = [np.load(path) for path in root.path.glob(f"features/{BACKBONE}*/*/*.npy")]
        written = sum(array.nbytes for array in files)
        assert sum(frame.bytes(BACKBONE, form) for frame in frames) == written
