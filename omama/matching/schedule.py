"""Which pairs come when: an epoch's order, its batches, and which frames each batch must load.

Pairs of one instant (a take at a frame_idx, over all its cameras) come together, so that a
frame passes through the backbone once an epoch for all its objects and pairs: a batch that cuts
an instant hands the frames on to the next one. Everything follows from (seed, epoch), never
from a generator's state, so that training resumes at any step with the batches it would have
had.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from omama.dataset import Pairs

Int: TypeAlias = NDArray[np.int64]


def epoch_batches(
    pairs: Pairs, *, seed: int, epoch: int, batch_size: int, rank: int = 0, ranks: int = 1
) -> list[Int]:
    """Indices of an epoch's pairs, in batches of `batch_size` (the last may be smaller).

    Instants come in random order. With several ranks each takes one stretch of the order, all of
    one length: the last ones begin again from the front, as in DistributedSampler.
    """
    instants = _instants(pairs)
    rng = np.random.default_rng((seed, epoch))
    place = rng.permutation(int(instants.max()) + 1)
    order = np.lexsort((pairs.dest_frame, pairs.source_frame, place[instants]))
    share = -(-order.size // ranks)
    order = np.resize(order, share * ranks)[rank * share : (rank + 1) * share]
    return in_batches(order, batch_size)


def frame_order(pairs: Pairs, *, batch_size: int) -> list[Int]:
    """All pairs in batches, instant by instant in table order: for evaluation and prediction."""
    order = np.lexsort((pairs.dest_frame, pairs.source_frame, _instants(pairs)))
    return in_batches(order, batch_size)


def in_batches(order: Int, batch_size: int) -> list[Int]:
    return [order[start : start + batch_size] for start in range(0, order.size, batch_size)]


def frames_of(pairs: Pairs, batch: Int) -> Int:
    """The frames that a batch of pairs needs, each once, ascending."""
    return np.unique(np.concatenate([pairs.source_frame[batch], pairs.dest_frame[batch]]))


def frames_to_load(pairs: Pairs, batches: Sequence[Int]) -> list[Int]:
    """Per batch: the frames that the batch before did not have."""
    loads = []
    before = np.empty(0, np.int64)
    for batch in batches:
        frames = frames_of(pairs, batch)
        loads.append(np.setdiff1d(frames, before, assume_unique=True))
        before = frames
    return loads


def backbone_passes(pairs: Pairs, batches: Sequence[Int]) -> int:
    """How many images the backbone sees in these batches."""
    return sum(frames.size for frames in frames_to_load(pairs, batches))


def _instants(pairs: Pairs) -> Int:
    """(P,) a number for each (take_uid, frame_idx), without gaps."""
    return np.asarray(pairs.rows.groupby(["take_uid", "frame_idx"], sort=True).ngroup(), np.int64)
