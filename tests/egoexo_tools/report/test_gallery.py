"""Cropping of frames, and the masks drawn into them."""

from typing import Any

import numpy as np
import pytest

from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.report.gallery import draw_masks, window_around


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((200, 300, 20, 20), (150, 230, 120, 160)),  # small: not smaller than SMALLEST_WINDOW
        ((200, 300, 100, 100), (160, 230, 180, 240)),
        ((0, 0, 20, 20), (0, 0, 120, 160)),  # at the frame's corner
        ((0, 0, 540, 960), (0, 0, 540, 960)),
    ],
)
def test_window(box: tuple[int, int, int, int], window: tuple[int, int, int, int]) -> None:
    y, x, height, width = box
    mask = np.zeros((540, 960), np.bool_)
    mask[y : y + height, x : x + width] = True
    assert np.abs(np.subtract(window_around([mask], mask.shape), window)).max() <= 1
    assert window_around([], mask.shape) == (0, 0, 540, 960)


def test_truth_is_blue_and_prediction_orange() -> None:
    frame = np.full((540, 960, 3), 128, np.uint8)
    masks = [np.zeros((540, 960), np.uint8) for _ in range(2)]
    masks[0][200:240, 300:340] = 1
    masks[1][200:240, 380:420] = 1
    drawings: list[Any] = [
        (MaskRle.encode(masks[0]), (40, 120, 255), False),
        (MaskRle.encode(masks[1]), (255, 140, 0), True),
    ]
    picture = draw_masks(frame, drawings).astype(int)
    assert picture.shape == (240, 320, 3)
    blue = picture[..., 2] - picture[..., 0] > 40
    orange = picture[..., 0] - picture[..., 2] > 40
    middle = picture.shape[1] // 2
    assert blue[:, :middle].sum() > 1000 and not blue[:, middle:].any()
    assert orange[:, middle:].sum() > 1000 and not orange[:, :middle].any()
