"""Sources of a frame's features: the cache, the backbone itself, or masks only.

A store works in two steps. `read` may run in a thread some batches ahead: it decodes a picture or
copies from a memory map. `finish` runs in order in the training thread: it runs the backbone.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from egoexo_tools.aliases import TakeCamera
from egoexo_tools.arrays import Int64
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, path_component
from egoexo_tools.running.inputs import FileDigests, hash_files
from omama.dataset import FrameTable, Pairs
from omama.features.cache_files import INDEX, CameraFeatures, DamagedCache, input_files, read_camera
from omama.features.frame_features import IMAGES_AT_ONCE, Extractor, FrameFeatures, RawFrame
from omama.features.frame_masks import mask_ious
from omama.features.key import STORED, FeatureKey, feature_key, make_extractor
from omama.features.mask_relations import MaskRelations
from omama.tables.mapped import open_digests


class FeatureStore(Protocol):
    """Source of the features of a FrameTable's frames, which are given by position."""

    key: FeatureKey
    """Key of the features."""
    is_cache: bool
    """Whether `read` is so cheap that threads do not help on a CPU."""

    def read(self, frames: Int64) -> list[Any]:
        """The part of the work that may run in any thread."""
        ...

    def finish(self, raw: Sequence[Any]) -> list[FrameFeatures]:
        """The features of the frames that `read` returned, in its order."""
        ...


class LiveFeatures:
    """A FeatureStore that runs the backbone."""

    is_cache = False

    def __init__(self, frames: FrameTable, extractor: Extractor) -> None:
        self.key = FeatureKey.of(extractor)
        self._frames = frames
        self._extractor = extractor

    def read(self, frames: Int64) -> list[RawFrame]:
        return [self._extractor.read(self._frames, frame) for frame in frames.tolist()]

    def finish(self, raw: Sequence[RawFrame]) -> list[FrameFeatures]:
        starts = range(0, len(raw), IMAGES_AT_ONCE)
        batches = [raw[start : start + IMAGES_AT_ONCE] for start in starts]
        return [features for batch in batches for features in self._extractor(batch)]


class MasksOnly:
    """A FeatureStore for matchers that use only masks: it reads no picture."""

    key = FeatureKey(backbone="none", weights_hash="", patch_size=1, width=1)
    is_cache = False

    def __init__(self, frames: FrameTable) -> None:
        self._frames = frames

    def read(self, frames: Int64) -> list[FrameFeatures]:
        features = []
        for frame in frames.tolist():
            masks = self._frames.masks.of_frame(frame)
            proposals = self._frames.proposals.of_frame(frame)
            ious = mask_ious(masks, proposals)
            relations = MaskRelations(
                ious=ious, best=np.zeros(len(masks), np.int64), near=np.zeros(ious.shape, np.bool_)
            )
            # Zeros of one channel stand for tokens and descriptors, which such matchers ignore.
            features.append(
                FrameFeatures(
                    tokens=torch.zeros(1, 1, 1),
                    masks=torch.zeros(len(masks), 2),
                    proposals=torch.zeros(len(proposals), 2),
                    relations=relations,
                )
            )
        return features

    def finish(self, raw: Sequence[FrameFeatures]) -> list[FrameFeatures]:
        return list(raw)


class CachedFeatures:
    """A FeatureStore that reads the cache of one backbone for the frames of a table."""

    is_cache = True

    def __init__(self, frames: FrameTable, key: FeatureKey, needed: Int64 | None = None) -> None:
        """Open the cache of every camera in the table.

        Raises DataError for a camera that does not fit, or that lacks one of the `needed` frames
        (positions). A camera without needed frames is not opened.
        """
        self.key = key
        self._frames = frames
        rows = frames.rows
        cameras = rows.groupby(["take_uid", "camera"], sort=False).ngroup().to_numpy()
        first = np.unique(cameras, return_index=True)[1]
        self._camera: Int64 = cameras.astype(np.int64)
        self._row: Int64 = np.full((len(rows), 2), -1, np.int64)
        needed_cameras = set(np.unique(cameras if needed is None else cameras[needed]).tolist())
        digests = open_digests(frames.root)
        # Squashing changes portrait frames only: other cameras are cached under the plain key.
        plain = replace(key, squash_portrait=False)
        portrait = (rows["height"] > rows["width"]).to_numpy()[first].tolist()
        names = rows.iloc[first][["take_uid", "camera"]].itertuples(index=False)
        # A table's frames are sorted by camera, so that each camera is one run of rows.
        frame_idx = np.split(rows["frame_idx"].to_numpy(np.int64), first[1:])
        self._cameras: dict[int, CameraFeatures] = {}
        for camera, (take_uid, name) in enumerate(names):
            if camera in needed_cameras:
                camera_key = key if portrait[camera] else plain
                features = _open_camera(
                    frames.root, camera_key, (str(take_uid), str(name)), digests
                )
                rows_of_camera = slice(first[camera], first[camera] + frame_idx[camera].size)
                self._row[rows_of_camera] = features.rows(frame_idx[camera])
                self._cameras[camera] = features
        self._check(np.arange(0) if needed is None else needed)

    def read(self, frames: Int64) -> list[FrameFeatures]:
        self._check(frames)
        features = []
        for camera, (files, row) in zip(
            self._camera[frames].tolist(), self._row[frames].tolist(), strict=True
        ):
            features.append(self._cameras[camera].files[files].frame(row))
        return features

    def finish(self, raw: Sequence[Any]) -> list[FrameFeatures]:
        return list(raw)

    def _check(self, frames: Int64) -> None:
        """DataError if one of the frames is not in the cache."""
        missing = frames[self._row[frames, 0] < 0]
        if missing.size:
            raise DataError(
                f"the cached features {self.key.name} lack frame "
                f"{self._frames.name(int(missing[0]))}"
                + (f" and {missing.size - 1:,} more" if missing.size > 1 else "")
                + f"; run `omama features {self._frames.root.path} {self.key.command}`, which "
                "adds the frames that the root's pairs use"
            )


def open_store(
    frames: FrameTable,
    *,
    backbone: str,
    weights: Path | None,
    cached: bool,
    feature_precision: str = "fp32",
    squash_portrait: bool = False,
    pairs: Pairs | None = None,
    tokens: bool = True,
) -> FeatureStore:
    """The cache of a backbone, or the backbone itself. DataError if the cache does not fit.

    Of several caches the most exact one is taken, and one with only descriptors if no `tokens` are
    needed. With `pairs`, all their frames must be cached.
    """
    preparation: dict[str, Any] = {
        "feature_precision": feature_precision,
        "squash_portrait": squash_portrait,
    }
    if not cached:
        return LiveFeatures(frames, make_extractor(backbone, weights, **preparation))
    needed = None
    if pairs is not None:
        needed = np.unique(np.concatenate([pairs.source_frame, pairs.dest_frame]))
    key = _stored_key(frames.root, feature_key(backbone, weights, **preparation), tokens=tokens)
    return CachedFeatures(frames, key, needed)


def _stored_key(root: DatasetRoot, key: FeatureKey, *, tokens: bool) -> FeatureKey:
    """Key of the most exact cache that exists; `key` itself if none exists."""
    existing = [
        each
        for each in (replace(key, stored=storage) for storage in STORED)
        # Only portrait cameras have squashed features, and there may be no such camera.
        if any(root.features(replace(each, squash_portrait=False).name).glob(f"*/{INDEX}"))
    ]
    usable = [each for each in existing if each.stored != "descriptors" or not tokens]
    if existing and not usable:
        raise DataError(
            f"the cached features {existing[0].name} are only descriptors, which k-NN reads; a "
            f"trained matcher and its training need tokens: run `omama features {root.path} "
            f"{key.command}`"
        )
    return usable[0] if usable else key


def _open_camera(
    root: DatasetRoot, key: FeatureKey, camera: TakeCamera, digests: FileDigests
) -> CameraFeatures:
    """The cached features of a camera. DataError if they are missing, damaged or outdated."""
    name = ".".join(camera)
    folder = root.features(key.name) / path_component(name)
    advice = f"run `omama features {root.path} {key.command}`"
    try:
        features = read_camera(folder)
    except DamagedCache as error:
        raise DataError(f"the cached features in {folder} are damaged; {advice}") from error
    if features is None:
        raise DataError(f"{name} has no cached features {key.name}; {advice} first")
    if features.inputs != hash_files(input_files(root, camera), digests=digests):
        raise DataError(
            f"the cached features {key.name} of {name} are older than its frames, masks or "
            f"proposals; {advice}"
        )
    return features
