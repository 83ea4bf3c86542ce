"""Cache files: quantised tokens, and their format."""

import numpy as np
import pytest
from tiny_root import TAKES

from egoexo_tools.layout import DatasetRoot
from omama.features.cache_files import quantise

FIRST = next(iter(TAKES))


def test_a_quantised_token_is_integers_and_a_scale() -> None:
    """Against the plain way, token by token; a token of zeros stays one."""
    tokens = np.random.default_rng(0).normal(size=(7, 3, 4)).astype(np.float32)
    tokens[:, 1, 2] = 0
    numbers, scales = quantise(tokens)
    assert numbers.dtype == np.int8 and scales.dtype == np.float32
    for row in range(3):
        for column in range(4):
            token = tokens[:, row, column].tolist()
            largest = max(abs(value) for value in token)
            assert scales[row, column] == pytest.approx(largest / 127, rel=1e-6)
            for value, number in zip(token, numbers[:, row, column].tolist(), strict=True):
                assert abs(number * largest / 127 - value) <= largest / 127 / 2 * 1.0001
            assert (abs(numbers[:, row, column]).max() == 127) == (largest > 0)


def test_cached_tokens_are_float16(featured_root: DatasetRoot) -> None:
    (tokens,) = featured_root.path.glob(f"features/*/{FIRST}.cam01/tokens.npy")
    array = np.load(tokens, mmap_mode="r")
    assert (array.dtype, array.shape) == (np.float16, (4, 3, 10, 16))
