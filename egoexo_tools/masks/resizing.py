"""Nearest-neighbour resizing, identical to OpenCV's, in terms of row and column indices.

A mask of run lengths is resized without drawing it, either by looking up the source row (column)
of each destination row (column), or by mapping the ends of source runs to the destination.
"""

from functools import lru_cache
from typing import TypeAlias

import numpy as np

from egoexo_tools.arrays import Int64
from egoexo_tools.compiled import compiled

Size: TypeAlias = tuple[int, int]
"""(height, width) in pixels."""


@compiled
def nearest_idxs(source: int, dest: int) -> Int64:
    """The source index that `cv2.resize(..., INTER_NEAREST)` reads for each of `dest` pixels.

    The same arithmetic as OpenCV's: floor(i * (1 / (dest / source))), in double precision.
    """
    step = 1.0 / (dest / source)
    idxs = np.floor(np.arange(dest) * step).astype(np.int64)
    clipped: Int64 = np.minimum(idxs, source - 1)
    return clipped


def exact_nearest_idxs(source: int, dest: int) -> Int64:
    """The source index that `torch.nn.functional.interpolate` reads: floor(i * source / dest)."""
    return np.arange(dest, dtype=np.int64) * source // dest


def dest_edges(source: Size, dest: Size, *, exact: bool = False) -> tuple[Int64, Int64]:
    """For each border between source rows (columns), the number of destination ones before it.

    Source rows a..b - 1 fill destination rows edges[a]..edges[b] - 1, so a run of pixels maps to
    a run of destination pixels by two look-ups. `exact`: as in torch instead of OpenCV.
    """
    return _side_edges(source[0], dest[0], exact), _side_edges(source[1], dest[1], exact)


@lru_cache(maxsize=256)
def _side_edges(source: int, dest: int, exact: bool) -> Int64:
    idxs = (exact_nearest_idxs if exact else nearest_idxs)(source, dest)
    return np.searchsorted(idxs, np.arange(source + 1)).astype(np.int64)
