"""Encodes masks on a device as run lengths, so that only the run lengths are copied to the CPU.

150 masks of 540 x 960 pixels take 78 MB; the positions where their runs start take a hundredth of
that. The functions use only methods of tensors, so this module does not import torch.
"""

from typing import Any

import numpy as np

from egoexo_tools.masks.rle import MaskRle, runs_to_counts

PIXELS_AT_ONCE = 2**27
"""Compared in one step; a device needs about ten bytes for each."""


def encode_masks(masks: Any) -> list[MaskRle]:
    """The rles of a bool tensor (N, H, W) on any device, as MaskRle.encode returns them."""
    count, height, width = masks.shape
    at_once = max(1, PIXELS_AT_ONCE // max(1, height * width))
    return [
        rle for start in range(0, count, at_once) for rle in _encode(masks[start : start + at_once])
    ]


def _encode(masks: Any) -> list[MaskRle]:
    count, height, width = masks.shape
    columns = masks.transpose(1, 2).flatten(1)  # (N, W * H), column by column
    changes = (columns[:, 1:] != columns[:, :-1]).nonzero().cpu().numpy()  # (M, 2), by mask
    starts_with_foreground = columns[:, 0].cpu().numpy()
    edges = np.searchsorted(changes[:, 0], np.arange(count + 1))
    rles = []
    for n in range(count):
        first = [0, 0] if starts_with_foreground[n] else [0]  # the first run is background
        positions = changes[edges[n] : edges[n + 1], 1] + 1
        runs = np.diff(np.concatenate([first, positions, [height * width]]))
        rles.append(MaskRle(height, width, runs_to_counts(runs)))
    return rles
