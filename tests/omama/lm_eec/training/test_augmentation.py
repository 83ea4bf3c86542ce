"""Augmentation of clips: warps, colours, and the ranges of the recipe."""

import numpy as np
import pytest
import torch

from egoexo_tools.masks.rle import MaskRle
from omama.lm_eec.pictures import squash_mask
from omama.lm_eec.training.augmentation import (
    Geometry,
    draw_colours,
    draw_geometry,
    recolour,
    warp,
    warp_nearest,
)


@pytest.mark.parametrize(
    "geometry",
    [Geometry(), Geometry(True), Geometry(False, 20.0, 0.0), Geometry(True, -13.0, 17.0)],
)
def test_a_squashed_mask_is_warped_like_the_frame(geometry):
    mask = np.zeros((108, 192), np.uint8)
    mask[30:70, 60:140] = 1
    native = squash_mask(MaskRle.encode(warp_nearest(mask, geometry)), 96)
    squashed = squash_mask(MaskRle.encode(mask), 96).astype(np.uint8) * 255
    small = warp(squashed, geometry, mask.shape) >= 128
    assert (native & small).sum() / (native | small).sum() > 0.93


def test_outside_of_a_warped_picture_is_the_mean_colour():
    warped = warp(np.zeros((40, 60, 3), np.uint8), Geometry(degrees=25.0), (40, 60))
    assert warped[0, 0].tolist() == [123, 116, 103] and warped[20, 30].tolist() == [0, 0, 0]


def test_random_factors_are_in_the_ranges_of_the_recipe():
    rng = np.random.default_rng(0)
    geometries = [draw_geometry(rng) for _ in range(500)]
    assert 0.4 < np.mean([g.mirrored for g in geometries]) < 0.6
    for values, reach in (
        ([g.degrees for g in geometries], 25), ([g.shear_degrees for g in geometries], 20),
    ):  # fmt: skip
        assert -reach <= min(values) < -0.9 * reach and 0.9 * reach < max(values) <= reach
    colours = [draw_colours(rng, 8) for _ in range(500)]
    assert 0.02 < np.mean([c.grey for c in colours]) < 0.09
    clip, frames = np.stack([c.clip for c in colours]), np.stack([c.frames for c in colours])
    assert frames.shape == (500, 2, 8, 3)
    np.testing.assert_allclose(np.abs(clip - 1).max(0), [0.1, 0.03, 0.03], rtol=0.05)
    np.testing.assert_allclose(np.abs(frames - 1).max((0, 1, 2)), [0.1, 0.05, 0.05], rtol=0.01)


def test_recolouring_changes_grey_and_brightness():
    pictures = torch.rand(2, 3, 8, 8)
    ones, grey_second = torch.ones(2, 2, 3), torch.tensor([False, True])
    no_grey = torch.tensor([False, False])
    plain = recolour(pictures, ones, no_grey)
    torch.testing.assert_close(plain, pictures)
    grey = recolour(pictures, ones, grey_second)[1]
    torch.testing.assert_close(grey[0], grey[2])
    torch.testing.assert_close(
        grey[0], (pictures[1] * torch.tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(0)
    )
    brighter = ones.clone()
    brighter[:, 1, 0] = 1.05
    torch.testing.assert_close(recolour(pictures, brighter, no_grey), (pictures * 1.05).clamp(0, 1))
