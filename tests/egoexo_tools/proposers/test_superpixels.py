"""Compiled super-pixels equal those of scikit-image, their slow twin."""

import numpy as np
import pytest
from skimage.segmentation import felzenszwalb

from egoexo_tools.proposers.superpixels import oversegment


def noisy_blobs(seed: int, height: int, width: int) -> np.ndarray:
    """Blobs with noise, so that no two edges have the same strength."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:height, :width]
    image = np.zeros((height, width, 3))
    for _ in range(6):
        row, col = rng.uniform(0, (height, width))
        image[np.hypot(rows - row, cols - col) < rng.uniform(4, 15)] += rng.uniform(-0.4, 0.4, 3)
    return (image + rng.normal(0, 0.02, image.shape)).astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("scale", "sigma", "min_size"), [(0.12, 0.5, 20), (0.5, 0.8, 5)])
def test_labels_equal_those_of_scikit_image(
    seed: int, scale: float, sigma: float, min_size: int
) -> None:
    image = noisy_blobs(seed, 48, 61)
    # scikit-image's `scale` is 255 times the paper's k.
    expected = felzenszwalb(image, scale=255 * scale, sigma=sigma, min_size=min_size)
    labels = oversegment(image, scale=scale, sigma=sigma, min_size=min_size)
    assert labels.max() > 3
    np.testing.assert_array_equal(labels, expected)


def test_an_image_without_edges_is_one_segment() -> None:
    assert oversegment(np.zeros((5, 7, 3), np.float32), scale=0.1, sigma=0.5, min_size=3).max() == 0
