"""Pictures and masks for the network: the whole frame, squashed to a square of side S pixels.

The aspect ratio is not kept, as in the released code.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from egoexo_tools.arrays import Bool, Bytes, Float32
from egoexo_tools.errors import DataError
from egoexo_tools.masks.rle import MaskRle


def read_squashed(path: Path, size: int) -> Bytes:
    """A frame's picture, (S, S, 3) RGB, bicubic; DataError names a file that cannot be read."""
    return squash(read_rgb(path), size)


def read_rgb(path: Path) -> Image.Image:
    """A frame's picture at its own size."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"the picture {path} cannot be read ({error}); run egoexo-tools frames again"
        ) from error


def squash(image: Image.Image, size: int) -> Bytes:
    """(S, S, 3) uint8 by PIL's bicubic resampling, which antialiases when it reduces."""
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), np.uint8)


def squash_mask(rle: MaskRle, size: int) -> Bool:
    """A mask of any size → (S, S): True where `squash_to_shares` is at least 0.5."""
    return np.asarray(squash_to_shares(rle, size) >= 0.5)


def squash_to_shares(mask: MaskRle | Bytes, size: int) -> Float32:
    """A mask of any size, RLE or (H, W) of 0 and 1 → (S, S) shares, bilinear and antialiased.

    Only the rows and columns of the mask's box are read: a cup is a hundredth of a 4K frame.
    """
    if not isinstance(mask, MaskRle):
        mask = MaskRle.encode(mask)
    x, y, right, below = (int(value) for value in mask.box_xywh())
    rows, columns = np.arange(y, y + below + 1), np.arange(x, x + right + 1)
    # Rows and columns are resized one after the other: a bilinear filter is separable.
    down, first_row = _nonzero_rows(_weights(mask.height, size)[:, rows])
    across, first_column = _nonzero_rows(_weights(mask.width, size)[:, columns])
    soft = np.zeros((size, size), np.float32)
    part = down @ mask.sample(rows, columns).astype(np.float32) @ across.T
    soft[first_row : first_row + len(down), first_column : first_column + len(across)] = part
    return soft


def _nonzero_rows(weights: Float32) -> tuple[Float32, int]:
    """The rows between the first and the last that is not all 0, and the first one's index."""
    rows = np.flatnonzero(weights.any(1))
    first, last = int(rows[0]), int(rows[-1])
    return weights[first : last + 1], first


@lru_cache(maxsize=8)
def _weights(length: int, size: int) -> Float32:
    """(size, length) weights of a line's pixels in each pixel of the resized line.

    Each row is a triangle around the new pixel's centre, as wide as two of the coarser pixels.
    """
    scale = length / size
    reach = max(scale, 1.0)  # when a line grows, the triangle is as wide as two source pixels
    centres = (np.arange(size) + 0.5) * scale
    distance = np.abs(np.arange(length)[None] + 0.5 - centres[:, None]) / reach
    weights = np.maximum(0.0, 1.0 - distance)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)
