"""Mask columns agree with the single masks of which they consist."""

import numpy as np
import pyarrow as pa
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from egoexo_tools.arrays import Bool
from egoexo_tools.errors import DataError
from egoexo_tools.masks.columns import MaskColumns, mask_from_row, mask_to_row
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.masks.rle_loops import BAD_TEXT, NEGATIVE_RUN, OK, WRONG_TOTAL

SIZES = [(6, 9), (5, 5), (11, 3), (1, 40)]
SHARES = [0.0, 0.02, 0.5, 0.98, 1.0]


@st.composite
def some_masks(draw: st.DrawFn) -> list[Bool]:
    """Up to six noisy masks, some of one size, some empty or full."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parameters = st.tuples(st.sampled_from(SIZES), st.sampled_from(SHARES))
    return [rng.random(size) < share for size, share in draw(st.lists(parameters, max_size=6))]


def columns(masks: list[Bool]) -> MaskColumns:
    return MaskColumns.from_rles([MaskRle.encode(mask) for mask in masks])


def table(rles: list[MaskRle | None], chunk: int) -> pa.Table:
    """The masks as in a manifest, in chunks of `chunk` rows."""
    rows = pa.table(
        {
            "rle_height": pa.array([rle and rle.height for rle in rles], pa.int32()),
            "rle_width": pa.array([rle and rle.width for rle in rles], pa.int32()),
            "rle_counts": pa.array([rle and rle.counts for rle in rles], pa.string()),
        }
    )
    return pa.concat_tables(
        [rows[:0], *(rows[at : at + chunk] for at in range(0, len(rows), chunk))]
    )


@settings(max_examples=60, deadline=None)
@given(some_masks(), st.data())
def test_rows_equal_the_single_masks(masks: list[Bool], data: st.DataObject) -> None:
    rles = [MaskRle.encode(mask) for mask in masks]
    rows = np.array(data.draw(st.lists(st.sampled_from(range(len(rles))))) if rles else [], int)
    start = data.draw(st.integers(0, len(rles)))
    stop = data.draw(st.integers(start, len(rles)))
    for mask_columns in (columns(masks), MaskColumns.from_table(table([*rles], chunk=4))):
        assert mask_columns.rles() == rles and len(mask_columns) == len(rles)
        assert mask_columns.counts.to_pylist() == [rle.counts for rle in rles]
        assert mask_columns.take(rows).rles() == [rles[row] for row in rows]
        part = mask_columns.slice(start, stop)
        assert part.rles() == rles[start:stop]
        assert part.counts.to_pylist() == [rle.counts for rle in rles[start:stop]]
        assert part.take(np.arange(len(part))[::-1]).rles() == rles[start:stop][::-1]
        rles_by_size = {
            size: mask_columns.take(size_rows).rles()
            for size, size_rows in mask_columns.rows_by_size()
        }
        assert list(rles_by_size) == sorted({mask.shape for mask in masks})
        for size, size_rles in rles_by_size.items():
            assert size_rles == [rle for rle in rles if (rle.height, rle.width) == size]


@settings(max_examples=60, deadline=None)
@given(some_masks())
def test_measure_agrees_with_the_decoded_masks(masks: list[Bool]) -> None:
    areas, boxes, problems = columns(masks).measure()
    assert areas.tolist() == [mask.sum() for mask in masks]
    assert boxes.tolist() == [list(reference.mask_box_xywh(mask)) for mask in masks]
    assert problems.tolist() == [OK] * len(masks)


@settings(max_examples=60, deadline=None)
@given(some_masks(), st.data())
def test_each_row_is_resized_to_its_own_size(masks: list[Bool], data: st.DataObject) -> None:
    sizes = st.sampled_from([*SIZES, (17, 23), (1, 1), (64, 2)])
    requests = data.draw(
        st.lists(st.tuples(st.integers(-1, len(masks) - 1), sizes), min_size=1, max_size=9)
    )
    rows, heights, widths = np.array([(row, *size) for row, size in requests]).T
    resized = columns(masks).resize(rows, heights, widths)
    assert [(rle.height, rle.width) for rle in resized.rles()] == [size for _, size in requests]
    expected = [
        np.zeros(size, bool) if row < 0 else reference.plain_resize(masks[row], *size) > 0
        for row, size in requests
    ]
    assert resized.counts.to_pylist() == [MaskRle.encode(mask).counts for mask in expected]


def test_resize_of_a_slice_counts_rows_from_its_start() -> None:
    masks = [np.eye(6, 9) > 0, np.ones((5, 5), bool), np.zeros((11, 3), bool)]
    rows, sides = np.array([1, 0]), np.array([7, 8])
    part = columns(masks).slice(1, 3)
    assert [rle.area() for rle in part.resize(rows, sides, sides).rles()] == [0, 64]


def test_a_null_means_no_mask() -> None:
    rle = MaskRle(2, 3, "6")
    for mask_columns in (
        MaskColumns.from_rles([None, rle, None]),
        MaskColumns.from_table(table([None, rle, None], 2)),
    ):
        assert mask_columns.heights.tolist() == [0, 2, 0]
        assert mask_columns.counts.to_pylist() == ["", "6", ""]
        assert mask_columns.common_size((9, 9)) == (2, 3)
        assert mask_columns.slice(2, 3).common_size((9, 9)) == (9, 9)
        with pytest.raises(DataError, match="0 x 0"):
            mask_columns.rle(0)


def test_masks_of_two_sizes_have_no_common_size() -> None:
    with pytest.raises(DataError, match="masks of 2x3 and 3x2 pixels"):
        MaskColumns.from_rles([MaskRle(3, 2, "6"), MaskRle(2, 3, "6")]).common_size((1, 1))


def test_a_table_keeps_its_boxes_and_its_text() -> None:
    square = np.zeros((5, 7), bool)
    square[1:3, 2:6] = True
    rows = table([MaskRle.encode(square)] * 3, chunk=9)
    boxes = pa.array([[2.0, 1.0, 3.0, 1.0], [0.0] * 4, [1.0] * 4], pa.list_(pa.float32(), 4))
    mask_columns = MaskColumns.from_table(rows.append_column("bbox_xywh", boxes))
    assert mask_columns.boxes is not None and mask_columns.boxes[0].tolist() == [2, 1, 3, 1]
    assert mask_columns.take(np.array([2, 0])).boxes.tolist() == [[1] * 4, [2, 1, 3, 1]]
    assert mask_columns.slice(1, 2).boxes.tolist() == [[0] * 4]
    arrow_text = rows["rle_counts"].chunk(0).buffers()[2]
    if rows["rle_counts"].num_chunks == 1:
        assert mask_columns.text.ctypes.data == arrow_text.address


def test_measure_reports_the_problem_of_each_mask() -> None:
    square = np.zeros((5, 7), bool)
    square[1:3, 2:6] = True
    empty = MaskRle.encode(square & False)
    texts = ["!", "4", "6N", "", "\ud800é"]
    broken = [MaskRle(5, 7, text) for text in texts]
    areas, boxes, problems = MaskColumns.from_rles(
        [MaskRle.encode(square), empty, *broken]
    ).measure()
    assert areas.tolist() == [8, 0, 0, 0, 0, 0, 0]
    assert boxes[0].tolist() == [2, 1, 3, 1] and not boxes[1:].any()
    assert problems.tolist() == [
        OK, OK, BAD_TEXT, WRONG_TOTAL, NEGATIVE_RUN, WRONG_TOTAL, BAD_TEXT,
    ]  # fmt: skip


def test_resize_rejects_a_damaged_mask() -> None:
    masks = MaskColumns.from_rles([MaskRle(2, 2, "4"), MaskRle(2, 2, "!")])
    three = np.array([3, 3])
    with pytest.raises(DataError, match="not COCO compressed run lengths: '!'"):
        masks.resize(np.array([0, 1]), three, three)


@given(masks=some_masks())
def test_a_manifest_row_stores_a_mask(masks: list[Bool]) -> None:
    for mask in masks:
        rle = MaskRle.encode(mask)
        assert mask_from_row({"object_name": "cup", **mask_to_row(rle)}) == rle
