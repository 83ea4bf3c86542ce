"""Where the features of frames come from: the cache, the backbone as it goes, or masks alone.

A store gives features in two steps: `read` may run in a thread a few batches ahead (a picture
decoded, a memory map copied), `finish` runs in order in the thread that trains (the backbone).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from omama.dataset import FrameTable
from omama.features.cache import IMAGES_AT_ONCE, CachedFeatures
from omama.features.frame_features import Extractor, FrameFeatures, RawFrame
from omama.features.frame_masks import mask_ious
from omama.features.frame_shape import FrameShape
from omama.features.key import FeatureKey, make_extractor

Int: TypeAlias = NDArray[np.int64]


class FeatureStore(Protocol):
    """Where the features of a FrameTable's frames come from."""

    key: FeatureKey
    """What the features are of."""
    is_cache: bool

    def read(self, frames: Int) -> list[Any]:
        """What a thread can prepare of these frames."""
        ...

    def finish(self, raw: Sequence[Any]) -> list[FrameFeatures]:
        """The rest, in the order of `read`."""
        ...


class LiveFeatures:
    """A FeatureStore that runs the backbone as it goes, and counts its passes."""

    is_cache = False

    def __init__(self, frames: FrameTable, extractor: Extractor) -> None:
        self.key = FeatureKey.of(extractor)
        self.passes = 0
        self._frames = frames
        self._extractor = extractor

    def read(self, frames: Int) -> list[RawFrame]:
        return [self._extractor.read(self._frames, frame) for frame in frames.tolist()]

    def finish(self, raw: Sequence[RawFrame]) -> list[FrameFeatures]:
        self.passes += len(raw)
        chunks = [raw[at : at + IMAGES_AT_ONCE] for at in range(0, len(raw), IMAGES_AT_ONCE)]
        return [features for chunk in chunks for features in self._extractor(chunk)]


class MasksOnly:
    """A FeatureStore for matchers that look at masks alone: no picture is read."""

    key = FeatureKey(backbone="none", weights_hash="", patch_size=1, width=1)
    is_cache = False

    def __init__(self, frames: FrameTable) -> None:
        self._frames = frames

    def read(self, frames: Int) -> list[FrameFeatures]:
        return [self._read(frame) for frame in frames.tolist()]

    def finish(self, raw: Sequence[FrameFeatures]) -> list[FrameFeatures]:
        return list(raw)

    def _read(self, frame: int) -> FrameFeatures:
        masks, proposals = (
            self._frames.masks.of_frame(frame),
            self._frames.proposals.of_frame(frame),
        )
        ious = mask_ious(masks, proposals)
        near = np.zeros(ious.shape, np.bool_)
        return FrameFeatures(
            tokens=torch.zeros(1, 1, 1),
            masks=torch.zeros(len(masks), 2),
            proposals=torch.zeros(len(proposals), 2),
            shape=FrameShape(ious=ious, best=np.zeros(len(masks), np.int64), near=near),
        )


def open_store(
    frames: FrameTable,
    *,
    backbone: str,
    weights: Path | None,
    cached: bool,
    feature_precision: str = "fp32",
    squash_portrait: bool = False,
) -> FeatureStore:
    """The cache of a backbone, or the backbone itself. DataError where the cache does not fit."""
    extractor = make_extractor(
        backbone, weights, feature_precision=feature_precision, squash_portrait=squash_portrait
    )
    if cached:
        return CachedFeatures(frames, FeatureKey.of(extractor))
    return LiveFeatures(frames, extractor)
