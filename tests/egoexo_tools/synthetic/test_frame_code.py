"""A frame's index is readable after scaling, noise and encoding."""

import cv2
import numpy as np
import pytest

from egoexo_tools.errors import DataError
from egoexo_tools.synthetic import read_frame_index
from egoexo_tools.synthetic.frame_code import draw_frame_index


@pytest.mark.slow
@pytest.mark.parametrize("frame_idx", [0, 1, 30, 255, 256, 4711, 65535])
@pytest.mark.parametrize("hw", [(1408, 1408), (2160, 3840), (3840, 2160)])
@pytest.mark.parametrize("shrink", [1, 2, 4])
def test_frame_index_survives_noise_and_scaling(
    frame_idx: int, hw: tuple[int, int], shrink: int
) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8)
    draw_frame_index(rgb, frame_idx)
    small = cv2.resize(rgb, (hw[1] // shrink, hw[0] // shrink))
    assert read_frame_index(small) == frame_idx


def test_an_image_without_frame_index_is_rejected() -> None:
    with pytest.raises(DataError, match="no frame index"):
        read_frame_index(np.full((100, 100, 3), 255, np.uint8))
    with pytest.raises(DataError, match="16 bits"):
        draw_frame_index(np.zeros((100, 100, 3), np.uint8), 65536)
