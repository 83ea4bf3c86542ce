"""Draws a frame's index into its pixels: 24 black and white cells in the top left corner.

Three rows of eight cells contain sixteen bits of the index, most significant first, and eight bits
of a checksum. The side of a cell is 1/40 of the frame's short side. The code is readable after
H.264 encoding and after scaling to about two pixels per cell.
"""

import numpy as np

from egoexo_tools.arrays import Bool, Bytes
from egoexo_tools.errors import DataError

MAX_FRAME_IDX = 2**16 - 1
_ROWS, _COLUMNS = 3, 8
_CELLS_PER_SHORT_SIDE = 40
_BLACK, _WHITE = 16, 239


def draw_frame_index(rgb: Bytes, frame_idx: int) -> None:
    """Draw the code of `frame_idx` into the corner of rgb (H, W, 3)."""
    rows, columns = code_size(rgb.shape[0], rgb.shape[1])
    cell = min(rgb.shape[:2]) / _CELLS_PER_SHORT_SIDE
    y = np.minimum((np.arange(rows) / cell).astype(int), _ROWS - 1)
    x = np.minimum((np.arange(columns) / cell).astype(int), _COLUMNS - 1)
    grid = np.where(_bits(frame_idx), _WHITE, _BLACK).astype(np.uint8)
    rgb[:rows, :columns] = grid[y][:, x, None]


def code_size(height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of the pixels that the code covers in a frame of this size."""
    cell = min(height, width) / _CELLS_PER_SHORT_SIDE
    return int(np.ceil(_ROWS * cell)), int(np.ceil(_COLUMNS * cell))


def read_frame_index(rgb: Bytes) -> int:
    """The index in a frame (H, W, 3) at any scale; DataError if there is none."""
    cell = min(rgb.shape[:2]) / _CELLS_PER_SHORT_SIDE
    y = ((np.arange(_ROWS) + 0.5) * cell).astype(int)
    x = ((np.arange(_COLUMNS) + 0.5) * cell).astype(int)
    # Compression leaves the centre of a cell close to its value.
    bits = rgb[y][:, x].mean(axis=2) > (_BLACK + _WHITE) / 2
    high, low, check = np.packbits(bits, axis=1)[:, 0].tolist()
    if check != _checksum(high, low):
        raise DataError("the image has no frame index; it is not from a synthetic release")
    return int(high << 8 | low)


def _bits(frame_idx: int) -> Bool:
    if not 0 <= frame_idx <= MAX_FRAME_IDX:
        raise DataError(f"frame index {frame_idx} does not fit into 16 bits")
    high, low = frame_idx >> 8, frame_idx & 255
    rows = np.array([[high], [low], [_checksum(high, low)]], np.uint8)
    return np.unpackbits(rows, axis=1).astype(bool)


def _checksum(high: int, low: int) -> int:
    return (37 * low + 101 * high + 0xA5) & 255
