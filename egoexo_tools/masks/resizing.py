"""Nearest-neighbour resizing as OpenCV does it: which source row each wanted row shows.

A mask of run lengths is resized without being drawn: either by asking for each wanted row (column)
which source row it takes, or, the other way round, by asking how far a source run reaches.
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

    OpenCV's arithmetic to the bit: floor(i * (1 / (dest / source))), in double precision.
    """
    step = 1.0 / (dest / source)
    idxs = np.floor(np.arange(dest) * step).astype(np.int64)
    taken: Int64 = np.minimum(idxs, source - 1)
    return taken


def dest_edges(source: Size, dest: Size) -> tuple[Int64, Int64]:
    """For each source row (column) border, the number of wanted rows (columns) before it.

    Source rows a..b - 1 fill the wanted rows edges[a]..edges[b] - 1, so that a run of pixels maps
    to a run of wanted pixels by two look-ups.
    """
    return _edges(source[0], dest[0]), _edges(source[1], dest[1])


@lru_cache(maxsize=256)
def _edges(source: int, dest: int) -> Int64:
    return np.searchsorted(nearest_idxs(source, dest), np.arange(source + 1)).astype(np.int64)
