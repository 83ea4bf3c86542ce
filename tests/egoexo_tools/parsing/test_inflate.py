"""Our inflate against zlib, and on bytes that are broken."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egoexo_tools.parsing.inflate import inflate


def deflated(data: bytes, level: int = 6, strategy: int = 0) -> np.ndarray:
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    return np.frombuffer(packer.compress(data) + packer.flush(), np.uint8)


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("strategy", [0, 2, 3, 4])  # plain, Huffman only, runs, fixed codes
def test_what_zlib_packs_comes_back(level: int, strategy: int) -> None:
    rng = np.random.default_rng(level)
    for size, highest in ((0, 1), (1, 255), (3000, 255), (90_000, 3)):
        data = rng.integers(0, highest + 1, size).astype(np.uint8)
        data[rng.random(size) < 0.5] = 0
        found = inflate(deflated(data.tobytes(), level, strategy), size)
        assert found is not None and np.array_equal(found, data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_any_bytes_end_in_an_answer(data: bytes, size: int) -> None:
    found = inflate(np.frombuffer(data, np.uint8), size)
    try:
        unpacker = zlib.decompressobj(-15)
        theirs = unpacker.decompress(data)
    except zlib.error:
        return  # what is broken for both; the archive's checksum has the last word
    if unpacker.eof and len(theirs) == size:
        assert found is not None and found.tobytes() == theirs
