"""Masks that lie on a device → run lengths, of which alone something travels to the CPU.

150 masks of 540 x 960 pixels are 78 MB; where their runs begin is a hundredth of that. Tensors are
known by their methods, so that torch is not imported here.
"""

from typing import Any

import numpy as np

from egoexo_tools.arrays import Int64
from egoexo_tools.masks.rle import MaskRle, runs_to_counts

PIXELS_AT_ONCE = 2**27
"""What is compared at a time: a device holds some ten bytes for each of them."""


def encode_all(masks: Any) -> list[MaskRle]:
    """The rles of a bool tensor (N, H, W) on any device, as MaskRle.encode gives them."""
    count, height, width = masks.shape
    at_once = max(1, PIXELS_AT_ONCE // max(1, height * width))
    return [
        rle for start in range(0, count, at_once) for rle in _encode(masks[start : start + at_once])
    ]


def _encode(masks: Any) -> list[MaskRle]:
    count, height, width = masks.shape
    columns = masks.transpose(1, 2).flatten(1)  # (N, W * H), column by column
    changes = (columns[:, 1:] != columns[:, :-1]).nonzero().cpu().numpy()  # (M, 2), by mask
    begins_inside = columns[:, 0].cpu().numpy()
    edges = np.searchsorted(changes[:, 0], np.arange(count + 1))
    return [
        MaskRle(height, width, _counts(changes[a:b, 1] + 1, inside, height * width))
        for a, b, inside in zip(edges[:-1], edges[1:], begins_inside, strict=True)
    ]


def _counts(changes: Int64, begins_inside: bool, pixels: int) -> str:
    first = [0, 0] if begins_inside else [0]  # the first run is background
    return runs_to_counts(np.diff(np.concatenate([first, changes, [pixels]])))
