"""Neighbours of proposals: the goldens, the slow twin, and where the reference breaks."""

from pathlib import Path

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle import MaskRle
from omama.features.frame_masks import read_masks
from omama.features.negatives import adjacency, box_overlap

NAN = (np.nan, np.nan)


def neighbours(points: list[tuple[float, float]], order: int = 1) -> list[tuple[int, int]]:
    rows, cols = np.nonzero(adjacency(np.array(points, dtype=float).reshape(-1, 2), order=order))
    return [(i, j) for i, j in zip(rows.tolist(), cols.tolist(), strict=True) if i < j]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_adjacency_equals_the_golden_one(goldens: Path, order: int) -> None:
    golden = np.load(goldens / "adjacency.npz")
    masks = np.unpackbits(golden["masks"], axis=-1, count=golden["masks_shape"][2])
    rles = MaskColumns.from_rles([MaskRle.encode(mask) for mask in masks])
    frame = read_masks(MaskColumns.from_rles([]), rles, prepared_hw=masks.shape[1:], patch_size=14)
    actual = adjacency(frame.centroids, order=order)
    off_diagonal = ~np.eye(len(masks), dtype=bool)
    np.testing.assert_array_equal(actual[off_diagonal], golden[f"order{order}"][off_diagonal] > 0)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("count", [3, 4, 9, 16])
def test_adjacency_equals_its_slow_twin(count: int, order: int) -> None:
    points = np.random.default_rng(count).uniform(0, 900, (count, 2)).round(3)
    expected = reference.plain_adjacency(points.tolist(), order)
    np.testing.assert_array_equal(adjacency(points, order=order), expected)


@pytest.mark.parametrize(
    ("points", "edges"),
    [
        ([], []),
        ([(1, 1)], []),
        ([NAN, NAN], []),
        ([(1, 1), (5, 5)], [(0, 1)]),
        ([(0, 0), (20, 20), (10, 10)], [(0, 2), (1, 2)]),
        ([(5, 30), (5, 10), (5, 20)], [(0, 2), (1, 2)]),
        ([(5 + 1e-5, 30), (5, 10), (5 - 1e-5, 20)], [(0, 2), (1, 2)]),
        ([(4, 4), (4, 4), (4, 4)], [(0, 1), (0, 2), (1, 2)]),
        ([(0, 0), (9, 0), (9, 0), (0, 9)], [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]),
        ([(0, 0), NAN, (9, 0), (0, 9)], [(0, 2), (0, 3), (2, 3)]),
    ],
    ids=[
        "none", "one", "all empty", "two", "diagonal line", "vertical line", "nearly a line",
        "one place", "two in one place", "an empty mask moves no index",
    ],
)  # fmt: skip
def test_degenerate_points_where_the_reference_fails(
    points: list[tuple[float, float]], edges: list[tuple[int, int]]
) -> None:
    assert neighbours(points) == edges


def test_the_order_is_the_number_of_edges() -> None:
    line = [(float(x), 0.0) for x in range(5)]
    assert neighbours(line, 2) == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)]
    assert (0, 3) in neighbours(line, 3) and (0, 4) not in neighbours(line, 3)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=14))
def test_any_points_give_symmetric_connected_neighbours(points: list[tuple[int, int]]) -> None:
    steps = adjacency(np.array(points, dtype=float).reshape(-1, 2), order=1)
    assert (steps == steps.T).all() and not steps.diagonal().any()
    everywhere = adjacency(np.array(points, dtype=float).reshape(-1, 2), order=14)
    assert (everywhere | np.eye(len(points), dtype=bool)).all()


def test_box_overlap_is_iou() -> None:
    boxes = [(0, 0, 10, 10), (5, 0, 10, 10), (50, 50, 1, 1), (0, 0, 0, 0)]
    assert box_overlap(boxes, (0, 0, 10, 10)).tolist() == [1.0, 50 / 150, 0.0, 0.0]
    assert box_overlap(boxes[3:], (0, 0, 0, 0)).tolist() == [0.0]
    assert box_overlap([], (0, 0, 1, 1)).shape == (0,)
    table = box_overlap(boxes, boxes[:2])
    assert [row.tolist() for row in table] == [
        box_overlap(boxes, box).tolist() for box in boxes[:2]
    ]
