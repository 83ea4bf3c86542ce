"""Index maps of nearest-neighbour resizing. Whole masks are compared with OpenCV in test_rle."""

import pytest

from egoexo_tools.masks.resizing import dest_edges, nearest_idxs


@pytest.mark.parametrize(("source", "dest"), [(1, 1), (1408, 480), (480, 1408), (3840, 952)])
def test_edges_count_the_destination_rows_before_each_source_row(source: int, dest: int) -> None:
    source_rows = nearest_idxs(source, dest)
    row_edges, column_edges = dest_edges((source, 3), (dest, 3))
    expected = [int((source_rows < border).sum()) for border in range(source + 1)]
    assert row_edges.tolist() == expected
    assert column_edges.tolist() == [0, 1, 2, 3]
