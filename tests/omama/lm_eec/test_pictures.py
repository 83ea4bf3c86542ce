"""Squashed masks, against torch's antialiased resampling."""

import numpy as np
import pytest
import torch

from egoexo_tools.masks.rle import MaskRle
from omama.lm_eec.pictures import squash_mask


@pytest.mark.parametrize("size", [(54, 96), (704, 704), (2160, 3840), (40, 64)])
def test_a_mask_is_squashed_as_torch_does_it(size):
    generator = np.random.default_rng(0)
    mask = np.zeros(size, np.bool_)
    y, x = generator.integers(0, size[0] // 2), generator.integers(0, size[1] // 2)
    part = generator.random((size[0] // 8, size[1] // 8)) > 0.5
    part = part.repeat(3, 0).repeat(2, 1)[: size[0] - y, : size[1] - x]
    mask[y : y + part.shape[0], x : x + part.shape[1]] = part
    shares = torch.nn.functional.interpolate(
        torch.from_numpy(mask)[None, None].float(), (160, 160), mode="bilinear", antialias=True
    )[0, 0].numpy()
    squashed = squash_mask(MaskRle.encode(mask), 160)
    clear = np.abs(shares - 0.5) > 1e-5  # at exactly 0.5 the last digit decides
    assert clear.mean() > 0.9
    assert np.array_equal(squashed[clear], (shares >= 0.5)[clear])
    assert not squash_mask(MaskRle.encode(np.zeros(size, np.bool_)), 160).any()
