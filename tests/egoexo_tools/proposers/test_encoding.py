"""A stack of masks on a device is encoded as each mask is alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.proposers import encoding

torch = pytest.importorskip("torch")

STACKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9))


@settings(deadline=None)  # the first call loads compiled code
@given(STACKS, st.integers(1, 200))
def test_each_mask_is_encoded_as_alone(masks: np.ndarray, at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "PIXELS_AT_ONCE", at_once)
        rles = encoding.encode_masks(torch.from_numpy(masks))
    assert rles == [MaskRle.encode(mask) for mask in masks]


def test_an_empty_stack_has_no_rles() -> None:
    assert encoding.encode_masks(torch.zeros(0, 5, 7, dtype=torch.bool)) == []


def test_full_and_empty_masks() -> None:
    masks = torch.stack([torch.ones(4, 6), torch.zeros(4, 6)]).bool()
    full, empty = encoding.encode_masks(masks)
    assert (full.area(), empty.area()) == (24, 0)
