"""Batches for training and prediction: features fetched once a frame, from the cache or live.

A store gives features in two steps: `read` may run in a thread a few batches ahead (a picture
decoded, a memory map copied), `finish` runs in order in the thread that trains (the backbone).
`load_batches` keeps the frames of the batch before, so that an instant cut by a batch's end does
not pass through the backbone twice.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from omama.dataset import FrameTable, Pairs
from omama.features.cache import IMAGES_AT_ONCE, CachedFeatures
from omama.features.frame_features import READERS, Extractor, FrameFeatures, RawFrame
from omama.features.frame_masks import mask_ious
from omama.features.frame_shape import FrameShape
from omama.features.key import FeatureKey, make_extractor
from omama.matching.samples import Bucket, Draw, make_buckets
from omama.matching.schedule import frames_of, frames_to_load

Int: TypeAlias = NDArray[np.int64]
BATCHES_AHEAD = READERS


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
    precision: str = "fp32",
    squash_portrait: bool = False,
) -> FeatureStore:
    """The cache of a backbone, or the backbone itself. DataError where the cache does not fit."""
    extractor = make_extractor(
        backbone, weights, precision=precision, squash_portrait=squash_portrait
    )
    if cached:
        return CachedFeatures(frames, FeatureKey.of(extractor))
    return LiveFeatures(frames, extractor)


def load_batches(
    frames: FrameTable,
    pairs: Pairs,
    batches: Sequence[Int],
    store: FeatureStore,
    *,
    draw: Draw | None = None,
    rng: Callable[[int], np.random.Generator] | None = None,
) -> Iterator[list[Bucket]]:
    """Each batch as buckets on the CPU or where `finish` left the features, in order.

    `draw` with `rng` (number of the batch → its generator) gives training candidates.
    """
    kept: dict[int, FrameFeatures] = {}
    loads = frames_to_load(pairs, batches)
    for number, raw in enumerate(_read_ahead(store, loads)):
        kept.update(zip(loads[number].tolist(), store.finish(raw), strict=True))
        needed = frames_of(pairs, batches[number]).tolist()
        kept = {frame: kept[frame] for frame in needed}
        generator = rng(number) if rng is not None else None
        yield make_buckets(frames, pairs, batches[number], kept, draw=draw, rng=generator)


def _read_ahead(store: FeatureStore, loads: Sequence[Int]) -> Iterator[list[Any]]:
    if store.is_cache and not torch.cuda.is_available():
        # It is read in microseconds, and nobody works meanwhile: threads would only cost.
        yield from map(store.read, loads)
        return
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[Future[list[Any]]] = deque()
        try:
            for load in loads:
                waiting.append(pool.submit(store.read, load))
                if len(waiting) > BATCHES_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
