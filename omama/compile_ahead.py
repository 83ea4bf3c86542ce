"""Compile the demo's slowest loops while its videos are rendered.

Compiling takes half of a first `demo --tiny`, loop by loop where one is first called, on one core.
What comes late in the chain is called here, on next to nothing, by a process of its own; the
machine code lies in numba's cache by the time that the chain asks for it.
"""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def compiling_ahead() -> Iterator[None]:
    """Compile in the background; it ends with the block, done or not."""
    process = multiprocessing.get_context("spawn").Process(target=compile_late_loops, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def compile_late_loops() -> None:
    """Proposing and scoring, in the order in which the chain comes to them."""
    from egoexo_tools.evaluation.metrics import score_masks
    from egoexo_tools.masks.columns import MaskColumns
    from egoexo_tools.masks.rle import MaskRle
    from egoexo_tools.proposers.regions import regions

    picture = np.zeros((64, 64, 3), np.uint8)
    picture[16:48, 16:48] = 200
    regions(picture)
    masks = MaskColumns.of([MaskRle.encode(picture[:, :, 0] > 0)])
    visible, follows = np.array([True]), np.array([False])
    score_masks(masks, masks, size=(64, 64), diagonal=90.0, visible=visible, follows=follows)
