"""Preparation of frames, masks and boxes, against OpenCV and torch themselves."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from egoexo_tools.errors import DataError
from omama.features.images import (
    PreparationConfig,
    candidate_idx,
    cut_image,
    normalise,
    prepare_image,
    prepared_size,
    scale_boxes,
    token_grid,
)

RNG = np.random.default_rng(5)


@pytest.mark.parametrize(
    ("frame_hw", "patch_size", "squash", "prepared_hw"),
    [
        ((540, 960), 14, False, (532, 952)),
        ((704, 704), 14, False, (700, 700)),
        ((448, 796), 14, False, (448, 784)),
        ((960, 540), 14, False, (952, 532)),
        ((960, 540), 14, True, (532, 952)),
        ((540, 960), 14, True, (532, 952)),
        ((540, 960), 16, False, (528, 960)),
        ((540, 960), 32, False, (512, 960)),
    ],
)
def test_sizes_are_rounded_down_to_multiples_of_the_patch(
    frame_hw: tuple[int, int], patch_size: int, squash: bool, prepared_hw: tuple[int, int]
) -> None:
    config = PreparationConfig(patch_size=patch_size, squash_portrait=squash)
    assert prepared_size(*frame_hw, config) == prepared_hw
    assert token_grid(*frame_hw, config) == tuple(side // patch_size for side in prepared_hw)
    rgb = RNG.integers(0, 256, (*frame_hw, 3), dtype=np.uint8)
    assert cut_image(rgb, config).shape == (*prepared_hw, 3)


def test_a_frame_smaller_than_a_patch_is_rejected() -> None:
    with pytest.raises(DataError, match="960x10 pixels is smaller than one 14-pixel patch"):
        prepared_size(10, 960, PreparationConfig())


def test_images_are_normalised_with_imagenets_values() -> None:
    rgb = RNG.integers(0, 256, (30, 45, 3), dtype=np.uint8)
    cut = cv2.resize(rgb, (42, 28), interpolation=cv2.INTER_NEAREST)
    expected = (cut / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    image = prepare_image(rgb, PreparationConfig())
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image.permute(1, 2, 0), expected, atol=1e-6)
    batch = normalise(torch.from_numpy(np.stack([cut, cut])))
    torch.testing.assert_close(batch[1], image)


@pytest.mark.parametrize("size_out", [7, 133, 175, 238, 532, 700, 952, 1000])
@pytest.mark.parametrize("size_in", [7, 270, 448, 540, 704, 960, 2160])
def test_candidate_idx_equals_torchs_nearest(size_in: int, size_out: int) -> None:
    positions = torch.arange(size_in, dtype=torch.float32)[None, None]
    expected = F.interpolate(positions, size=size_out, mode="nearest").flatten().long()
    np.testing.assert_array_equal(candidate_idx(size_in, size_out), expected)


def test_boxes_are_scaled_with_the_image() -> None:
    scaled = scale_boxes([(96, 54, 960, 540)], (540, 960), (532, 952))
    np.testing.assert_allclose(scaled, [(95.2, 53.2, 952, 532)], rtol=1e-6)
    assert scale_boxes([], (540, 960), (532, 952)).shape == (0, 4)
