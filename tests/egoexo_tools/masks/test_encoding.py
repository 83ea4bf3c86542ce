"""Stacks of masks are encoded as each mask is alone."""

import numpy as np
import pytest

from egoexo_tools.masks.encoding import encode_stack
from egoexo_tools.masks.rle import MaskRle


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_each_mask_of_a_stack_is_encoded_as_alone(share: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        shape = tuple(rng.integers(1, 9, 3))
        masks = np.asarray((rng.random(shape) < share) * rng.integers(1, 256), np.uint8)
        assert encode_stack(masks).rles() == [MaskRle.encode(mask) for mask in masks]


def test_an_empty_stack_has_no_masks() -> None:
    assert len(encode_stack(np.zeros((0, 4, 5), np.uint8))) == 0
