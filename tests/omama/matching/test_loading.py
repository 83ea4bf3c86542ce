"""Order of pairs: each once, instants together, each frame loaded once."""

import numpy as np
import pandas as pd
import pytest

from omama.dataset import Pairs
from omama.matching.loading import epoch_batches, frame_order, frames_to_load


def some_pairs(instants: int, objects: int, exo_cameras: int) -> Pairs:
    """Every object in every exo camera at every instant, source ego: shuffled rows."""
    rows = [
        {"take_uid": f"take{i % 3}", "frame_idx": i, "source": i, "dest": 1000 + 10 * i + c}
        for i in range(instants)
        for c in range(exo_cameras)
        for _ in range(objects)
    ]
    table = pd.DataFrame(rows).sample(frac=1, random_state=1, ignore_index=True)
    zeros = np.zeros(len(table), np.int64)
    return Pairs(
        rows=table,
        source_frame=table["source"].to_numpy(),
        dest_frame=table["dest"].to_numpy(),
        source_mask=zeros,
        dest_mask=zeros,
        state=zeros.astype(np.int8),
    )


@pytest.mark.parametrize("objects", [1, 5, 30])
@pytest.mark.parametrize("exo_cameras", [1, 3])
def test_a_frame_passes_once_an_epoch(objects: int, exo_cameras: int) -> None:
    pairs = some_pairs(11, objects, exo_cameras)
    batches = epoch_batches(pairs, seed=0, epoch=2, batch_size=8)
    assert sorted(np.concatenate(batches)) == list(range(len(pairs)))
    assert {batch.size for batch in batches[:-1]} <= {8}
    for order in (batches, frame_order(pairs, batch_size=8)):
        loaded = np.concatenate(frames_to_load(pairs, order))
        assert len(set(loaded.tolist())) == loaded.size == 11 + 11 * exo_cameras


def test_epochs_differ_and_repeat() -> None:
    pairs = some_pairs(20, 2, 1)
    first, second, repeated = (
        epoch_batches(pairs, seed=0, epoch=epoch, batch_size=7) for epoch in (0, 1, 0)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, repeated, strict=True))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_an_epoch(ranks: int) -> None:
    pairs = some_pairs(7, 3, 1)  # 21 pairs
    shares = [
        np.concatenate(epoch_batches(pairs, seed=0, epoch=0, batch_size=4, rank=rank, ranks=ranks))
        for rank in range(ranks)
    ]
    assert {share.size for share in shares} == {-(-21 // ranks)}
    assert set(np.concatenate(shares).tolist()) == set(range(21))
