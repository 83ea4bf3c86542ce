"""Compiled super-pixels against scikit-image's, their slow twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.segmentation import felzenszwalb

from egoexo_tools.proposers.grouping import first_of_equals
from egoexo_tools.proposers.superpixels import oversegment


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """Blobs under noise: every edge has a strength of its own."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:height, :width]
    image = np.zeros((height, width, 3))
    for _ in range(6):
        row, col = rng.uniform(0, (height, width))
        image[np.hypot(rows - row, cols - col) < rng.uniform(4, 15)] += rng.uniform(-0.4, 0.4, 3)
    return (image + rng.normal(0, 0.02, image.shape)).astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("scale", "sigma", "min_size"), [(0.12, 0.5, 20), (0.5, 0.8, 5)])
def test_labels_are_those_of_scikit_image(
    seed: int, scale: float, sigma: float, min_size: int
) -> None:
    image = picture(seed, 48, 61)
    # Its `scale` is 255 times the paper's k.
    expected = felzenszwalb(image, scale=255 * scale, sigma=sigma, min_size=min_size)
    labels = oversegment(image, scale=scale, sigma=sigma, min_size=min_size)
    assert labels.max() > 3
    np.testing.assert_array_equal(labels, expected)


def test_a_picture_without_edges_is_one_segment() -> None:
    assert oversegment(np.zeros((5, 7, 3), np.float32), scale=0.1, sigma=0.5, min_size=3).max() == 0


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.booleans(), min_size=70, max_size=70), min_size=1, max_size=12))
def test_of_equal_rows_the_first_is_kept_in_binary_order(rows: list[list[bool]]) -> None:
    members = np.array(rows + rows[:1])
    _, expected = np.unique(np.packbits(members, axis=1), axis=0, return_index=True)
    np.testing.assert_array_equal(first_of_equals(members), expected)
