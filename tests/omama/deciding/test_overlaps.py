"""IoU of masks and boxes against plain versions."""

import numpy as np
import pytest

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.metrics import official_size
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle import MaskRle
from omama.deciding.overlaps import box_ious, mask_ious


def test_mask_ious_are_those_at_the_size_of_scoring() -> None:
    rng = np.random.default_rng(0)
    masks = [MaskRle.encode(rng.random((540, 960)) > threshold) for threshold in (0.2, 0.5, 0.8)]
    masks.append(MaskRle.encode(np.zeros((540, 960), np.bool_)))
    rows = np.array([3, 0, 2])
    ious = mask_ious(MaskColumns.from_rles(masks), rows)
    bitmaps = [masks[row].decode_at(*official_size((540, 960))).astype(bool) for row in rows]
    for i, j in np.ndindex(3, 3):
        union = (bitmaps[i] | bitmaps[j]).sum()
        expected = (bitmaps[i] & bitmaps[j]).sum() / union if union else 0.0
        assert ious[i, j] == pytest.approx(expected, abs=1e-6)


def test_damaged_run_lengths_name_the_proposal() -> None:
    masks = MaskColumns.from_rles([MaskRle(4, 4, "00"), MaskRle(4, 4, "99")])
    with pytest.raises(DataError, match="proposal 1 of a frame"):
        mask_ious(masks, np.array([1]))


def test_box_ious() -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 5, 5]], np.float32)
    expected = [[1, 1 / 7, 0], [1 / 7, 1, 0], [0, 0, 0]]
    assert box_ious(boxes, boxes) == pytest.approx(np.array(expected))
