"""Candidates of a training sample, and batches that share work between pairs."""

import numpy as np
import pytest
import torch

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.vocab import Direction, Split
from omama.features.frame_features import FrameFeatures
from omama.features.mask_relations import MaskRelations
from omama.features.store import open_store
from omama.matching.config import ModelConfig
from omama.matching.loading import frames_of
from omama.matching.model import OMama
from omama.matching.objective import compare_bucket
from omama.matching.samples import (
    FAR,
    NEAR,
    NEVER,
    NegativeSampling,
    draw_candidates,
    make_buckets,
    negative_ranks,
)
from omama.tables.loading import load_dataset

N = NEVER


def draw_often(ranks: list[int], truth: int, count: int, first: int = 2) -> list[list[int]]:
    """The candidates of 200 draws for one pair, without padding."""
    rng = np.random.default_rng(0)
    table = np.repeat(np.array([ranks], np.int8), 200, axis=0)
    rows, valid = draw_candidates(rng, table, np.full(200, truth), np.full(200, first), count)
    return [row[keep].tolist() for row, keep in zip(rows, valid, strict=True)]


def test_neighbours_are_drawn_before_other_proposals() -> None:
    #        proposal 0    1     2    3    4
    draws = draw_often([FAR, NEAR, NEVER, NEAR, FAR], truth=1, count=4)
    assert all(draw[0] == 1 and set(draw[1:3]) == {3, 5} for draw in draws)
    assert {draw[3] for draw in draws} == {2, 6}


def test_of_too_many_neighbours_a_random_part_is_drawn() -> None:
    draws = draw_often([NEAR, NEAR, NEAR, FAR], truth=0, count=3)
    assert {tuple(sorted(draw[1:])) for draw in draws} == {(2, 3), (2, 4), (3, 4)}


def test_an_absent_object_gets_only_negatives() -> None:
    draws = draw_often([FAR, FAR, FAR], truth=-1, count=2)
    assert {tuple(sorted(draw)) for draw in draws} == {(2, 3), (2, 4), (3, 4)}


def test_too_few_proposals_are_padded() -> None:
    assert draw_often([NEAR, NEVER], truth=1, count=5)[0] == [1, 2]
    rows, valid = draw_candidates(
        np.random.default_rng(0), np.zeros((1, 0), np.int8), np.array([0]), np.array([1]), 3
    )
    assert valid.tolist() == [[True, False, False]] and rows[0, 0] == 0


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (NegativeSampling(32, 0.5, False), [NEVER, NEAR, NEVER, FAR]),
        (NegativeSampling(32, None, False), [NEVER, NEAR, NEAR, FAR]),
        (NegativeSampling(32, 0.5, True), [NEAR, NEAR, NEAR, FAR]),
    ],
)
def test_ranks_of_proposals(sampling: NegativeSampling, expected: list[int]) -> None:
    relations = MaskRelations(
        ious=np.array([[0.9, 0.1, 0.6, 0.0]], np.float32),
        best=np.array([0]),
        near=np.array([[False, True, True, False]]),
    )
    empty = torch.zeros(0)
    ranks = negative_ranks(FrameFeatures(empty, empty, empty, relations), sampling)
    assert ranks.tolist() == [expected, [FAR] * 4]


def test_a_batch_gives_the_similarities_of_each_pair_alone(featured_root: DatasetRoot) -> None:
    data = load_dataset(featured_root, split=Split.TRAIN, direction=Direction.EGO2EXO)
    store = open_store(data.frames, backbone="rgb_grid", weights=None, cached=True)
    torch.manual_seed(0)
    config = ModelConfig(
        "ego2exo", "rgb_grid", 3, 16, source_grid_hw=(10, 10), dest_grid_hw=(10, 16)
    )
    model = OMama(config).eval()
    batch = np.arange(len(data.pairs))[::-1].copy()
    frames = frames_of(data.pairs, batch)
    features = dict(zip(frames.tolist(), store.finish(store.read(frames)), strict=True))
    (bucket,) = make_buckets(data.frames, data.pairs, batch, features)
    matches = compare_bucket(model, bucket)
    for i, pair in enumerate(bucket.pair.tolist()):
        source = features[int(data.pairs.source_frame[pair])]
        dest = features[int(data.pairs.dest_frame[pair])]
        row = data.pairs.source_mask[pair] - data.frames.masks.start[data.pairs.source_frame[pair]]
        alone = model(
            source.masks[row][None, None].float(),
            dest.proposals[None].float(),
            source.tokens[None].float(),
            dest.tokens[None].float(),
        )[0, 0]
        first = len(dest.masks)
        in_batch = matches.similarity[i, first : first + alone.numel()]
        assert torch.allclose(in_batch, alone, atol=1e-5)
        assert int(matches.best_row[i]) == first + int(alone.argmax())
        if data.pairs.dest_mask[pair] >= 0:
            assert float(bucket.truth.ious[i].max()) == 1.0  # the tiny root proposes every object
