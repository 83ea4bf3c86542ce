"""Compression of a memory bank against its slow twin."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_lm_eec import plain_compress, quick_compress

from omama.lm_eec.bank import compress


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 8), st.integers(1, 5), st.integers(1, 3), st.integers(1, 4)),
    seed=st.integers(0, 1000),
    levels=st.sampled_from([2, 1000]),
)
def test_compression_equals_the_plain_twin(shape, seed, levels):
    """Also with ties: two levels make many equal distances, of which the first counts."""
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randint(levels, shape, generator=generator).float()
    columns = [plain_compress(list(bank[:, :, track])) for track in range(shape[2])]
    expected = torch.stack([torch.stack(column) for column in columns], 2)
    assert torch.equal(compress(bank), expected)
    quick = [quick_compress(list(bank[:, :, track])) for track in range(shape[2])]
    assert torch.equal(torch.stack([torch.stack(column) for column in quick], 2), expected)


def test_compression_needs_two_entries():
    with pytest.raises(ValueError, match="no two neighbours"):
        compress(torch.zeros(1, 2, 1, 4))
