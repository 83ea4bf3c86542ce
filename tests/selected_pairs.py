"""Roots with few pairs, and the frames that pairs, proposals and features have in them."""

import shutil
from collections.abc import Sequence

import numpy as np

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.vocab import Direction, Split

FrameKey = tuple[str, str, int]
"""take_uid, camera, frame_idx."""


def remove_proposals_and_features(root: DatasetRoot) -> DatasetRoot:
    shutil.rmtree(root.table("proposals"))
    shutil.rmtree(root.path / "features")
    shutil.rmtree(root.path / "status")
    return root


def keep_pairs(
    root: DatasetRoot, frames: Sequence[int], directions: Sequence[Direction] = (Direction.EGO2EXO,)
) -> None:
    """Keep only the pairs of some frames and directions, out of all that the root once had."""
    for direction in Direction:
        for split in Split:
            backup = root.path / "all_pairs" / f"{split}.{direction}.parquet"
            part = root.part("pairs", f"{split}.{direction}")
            backup.parent.mkdir(exist_ok=True)
            if not backup.exists():
                shutil.copy(part, backup)
            shutil.copy(backup, part)
            rows = read_manifest(root, "pairs", units=[part.stem]).to_pylist()
            rows = [row for row in rows if row["frame_idx"] in frames and direction in directions]
            write_manifest(root, "pairs", part.stem, rows)


def pair_frames(root: DatasetRoot, *sides: str) -> set[FrameKey]:
    """The frames of the pairs: the plain twin of `needed_frames`."""
    rows = read_manifest(root, "pairs").to_pylist()
    return {(r["take_uid"], r[f"{side}_camera"], r["frame_idx"]) for r in rows for side in sides}


def manifest_frames(root: DatasetRoot, table: str) -> set[FrameKey]:
    """The frames in a manifest."""
    rows = read_manifest(root, table).to_pylist()
    return {(row["take_uid"], row["camera"], row["frame_idx"]) for row in rows}


def feature_frames(root: DatasetRoot) -> list[FrameKey]:
    """The frames of every row in the only cache, also of rows that a later one replaces."""
    (cache,) = (path for path in (root.path / "features").iterdir() if path.is_dir())
    frames = []
    for index in cache.rglob("index.npz"):
        take_uid, camera = index.relative_to(cache).parts[0].split(".")
        frames += [(take_uid, camera, idx) for idx in np.load(index)["frame_idx"].tolist()]
    return frames
