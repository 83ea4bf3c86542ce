"""The order of pairs, and their batches with the features of their frames.

Pairs of one instant (a take at a frame_idx, over all its cameras) are consecutive, so that a frame
passes through the backbone once an epoch for all its objects and pairs. A batch that ends within an
instant shares the frames with the next one. The order depends on (seed, epoch) alone, not on the
state of a generator, so that a resumed training has the batches of an undisturbed one.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from egoexo_tools.arrays import Int64
from omama.dataset import VISIBLE, Dataset, FrameTable, Pairs
from omama.features.frame_features import READERS, FrameFeatures
from omama.features.store import FeatureStore
from omama.matching.samples import Bucket, NegativeSampling, make_buckets

BATCHES_AHEAD = READERS
DESCRIBED_PAIRS = 4096
"""Several per direction of the widest descriptor; they take seconds from a cache."""


def epoch_batches(
    pairs: Pairs, *, seed: int, epoch: int, batch_size: int, rank: int = 0, ranks: int = 1
) -> list[Int64]:
    """Positions of an epoch's pairs, in batches of `batch_size` (the last may be smaller).

    Instants are in random order. With several ranks each gets one part of the order, all of one
    length: as in DistributedSampler, the order continues at its beginning where it is too short.
    """
    instants = _instants(pairs)
    rng = np.random.default_rng((seed, epoch))
    place = rng.permutation(int(instants.max()) + 1)
    order = np.lexsort((pairs.dest_frame, pairs.source_frame, place[instants]))
    share = -(-order.size // ranks)
    order = np.resize(order, share * ranks)[rank * share : (rank + 1) * share]
    return _split(order, batch_size)


def frame_order(pairs: Pairs, *, batch_size: int) -> list[Int64]:
    """Positions of all pairs in batches, by instant in table order: for val and prediction."""
    order = np.lexsort((pairs.dest_frame, pairs.source_frame, _instants(pairs)))
    return _split(order, batch_size)


def _instants(pairs: Pairs) -> Int64:
    """(P,) the number of each pair's (take_uid, frame_idx), from 0 without gaps."""
    return np.asarray(pairs.rows.groupby(["take_uid", "frame_idx"], sort=True).ngroup(), np.int64)


def _split(order: Int64, batch_size: int) -> list[Int64]:
    return [order[start : start + batch_size] for start in range(0, order.size, batch_size)]


def frames_of(pairs: Pairs, batch: Int64) -> Int64:
    """The frames that a batch of pairs needs, each once, ascending."""
    return np.unique(np.concatenate([pairs.source_frame[batch], pairs.dest_frame[batch]]))


def frames_to_load(pairs: Pairs, batches: Sequence[Int64]) -> list[Int64]:
    """For each batch the frames that the batch before it does not have."""
    loads = []
    before = np.empty(0, np.int64)
    for batch in batches:
        frames = frames_of(pairs, batch)
        loads.append(np.setdiff1d(frames, before, assume_unique=True))
        before = frames
    return loads


def load_batches(
    frames: FrameTable,
    pairs: Pairs,
    batches: Sequence[Int64],
    store: FeatureStore,
    *,
    sampling: NegativeSampling | None = None,
    rng: Callable[[int], np.random.Generator] | None = None,
) -> Iterator[list[Bucket]]:
    """Each batch as buckets, in order; features are on the device where the store made them.

    With `sampling` and `rng` (number of the batch → its generator) pairs get training candidates.
    """
    features: dict[int, FrameFeatures] = {}
    loads = frames_to_load(pairs, batches)
    for number, raw in enumerate(_read_ahead(store, loads)):
        features.update(zip(loads[number].tolist(), store.finish(raw), strict=True))
        # Other frames are dropped: the next batch shares at most the instant that this one splits.
        features = {frame: features[frame] for frame in frames_of(pairs, batches[number]).tolist()}
        generator = rng(number) if rng is not None else None
        yield make_buckets(
            frames, pairs, batches[number], features, sampling=sampling, rng=generator
        )


def _read_ahead(store: FeatureStore, loads: Sequence[Int64]) -> Iterator[list[Any]]:
    if store.is_cache and not torch.cuda.is_available():
        # Reading takes microseconds, and the CPU is busy with the model: threads would only cost.
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


def pair_descriptors(data: Dataset, store: FeatureStore) -> tuple[torch.Tensor, torch.Tensor]:
    """Descriptors (P, 2C) of visible pairs' source masks, and of the proposals that overlap the
    destination masks most.

    On the CPU, of up to DESCRIBED_PAIRS pairs, the same ones on every rank. Every pair's
    destination frame must have proposals.
    """
    visible = np.flatnonzero(data.pairs.state == VISIBLE)
    sample = np.random.default_rng(0).permutation(visible)[:DESCRIBED_PAIRS]
    pairs = data.pairs.take(np.sort(sample))
    first = data.frames.masks.start
    source_row = pairs.source_mask - first[pairs.source_frame]
    dest_row = pairs.dest_mask - first[pairs.dest_frame]
    sources, dests = [], []
    for batch in frame_order(pairs, batch_size=64):
        frames = frames_of(pairs, batch)
        features = dict(zip(frames.tolist(), store.finish(store.read(frames)), strict=True))
        for pair in batch.tolist():
            dest = features[int(pairs.dest_frame[pair])]
            sources.append(features[int(pairs.source_frame[pair])].masks[source_row[pair]])
            dests.append(dest.proposals[int(dest.relations.best[dest_row[pair]])])
    return torch.stack(sources).float().cpu(), torch.stack(dests).float().cpu()
