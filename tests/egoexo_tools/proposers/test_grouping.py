"""Grouping of super-pixels, with results computed by hand."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from egoexo_tools.proposers import grouping

LABELS = np.array([[0, 0, 0, 0, 4], [0, 1, 1, 0, 4], [0, 1, 2, 0, 4], [0, 0, 0, 0, 3]], np.int32)


def pixels() -> grouping.Superpixels:
    edges = np.arange(LABELS.size, dtype=np.float32).reshape(LABELS.shape)
    return grouping.describe(LABELS, edges)


def test_describe_measures_superpixels() -> None:
    measured = pixels()
    assert measured.sizes.tolist() == [12, 3, 1, 1, 3]
    assert measured.boxes[1].tolist() == [1, 1, 2, 2]
    assert measured.at_edge.tolist() == [True, False, False, True, True]
    pairs = list(map(tuple, measured.borders.tolist()))
    lengths = dict(zip(pairs, measured.border_length, strict=True))
    assert lengths == {(0, 1): 6, (0, 2): 2, (0, 3): 1, (0, 4): 3, (1, 2): 2, (3, 4): 1}
    strength = dict(zip(pairs, measured.border_strength, strict=True))
    assert strength[(1, 2)] == 12 + 12
    assert strength[(0, 4)] == 4 + 9 + 14


def test_enclosed_superpixels_are_filled_in() -> None:
    members = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 1]], bool)
    filled = grouping.without_holes(pixels(), members)
    assert filled.astype(int).tolist() == [[1, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 1]]


def test_outlines_and_boxes_are_measured() -> None:
    members = np.array([[0, 1, 1, 0, 0], [0, 0, 0, 0, 1]], bool)
    measured = grouping.outlines(pixels(), members)
    assert measured.length.tolist() == [8, 4]
    assert measured.inside[1] == (9 + 14) / 2
    assert measured.strength[1] == (4 + 9 + 14 + 19) / 4
    assert grouping.box_areas(pixels(), members).tolist() == [4, 3]


def test_grouping_merges_the_most_similar_regions_first() -> None:
    features = np.eye(5, dtype=np.float32)
    features[2] = features[1]
    tree = grouping.group(pixels(), features, size_weight=0.0, fill_weight=0.0)
    assert tree.shape == (9, 5)
    assert tree[5].tolist() == [False, True, True, False, False]
    assert tree[-1].all()
    assert (tree[5:].sum(axis=1) >= 2).all()


def test_suppression_keeps_the_better_of_two_overlapping_regions() -> None:
    overlaps = np.array([[1, 0.85, 0.1], [0.85, 1, 0.1], [0.1, 0.1, 1]], np.float32)
    assert grouping.suppress(overlaps, threshold=0.8, limit=5).tolist() == [0, 2]
    assert grouping.suppress(overlaps, threshold=0.9, limit=5).tolist() == [0, 1, 2]
    assert grouping.suppress(overlaps, threshold=0.9, limit=2).tolist() == [0, 1]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.booleans(), min_size=70, max_size=70), min_size=1, max_size=12))
def test_first_of_equals_agrees_with_numpy_unique(rows: list[list[bool]]) -> None:
    members = np.array(rows + rows[:1])
    _, expected = np.unique(np.packbits(members, axis=1), axis=0, return_index=True)
    np.testing.assert_array_equal(grouping.first_of_equals(members), expected)
