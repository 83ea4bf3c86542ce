"""IoU of the masks of one frame, and of boxes of two frames.

Masks become bitmaps (egoexo_tools/masks/bitmaps.py) at the size of scoring, each once, and are
compared only where their boxes meet. Legend: n masks of a frame.
"""

import numpy as np

from egoexo_tools.arrays import Bytes, Float32, Int64
from egoexo_tools.compiled import compiled
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.metrics import official_size
from egoexo_tools.masks.bitmaps import mask_area, overlap_area, rasterise
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.resizing import dest_edges
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.masks.rle_loops import PROBLEMS


def mask_ious(masks: MaskColumns, rows: Int64) -> Float32:
    """(n, n) IoU of the masks at `rows`, all of one size; 0 where both masks are empty.

    Compared at a long side of 480, as in scoring. DataError for damaged run lengths.
    """
    ious = np.zeros((rows.size, rows.size), np.float32)
    if not rows.size:
        return ious
    height, width = int(masks.heights[rows[0]]), int(masks.widths[rows[0]])
    MaskRle(height, width, "")  # raises for impossible sides
    size = official_size((height, width))
    row_edges, column_edges = dest_edges((height, width), size)
    problems = np.zeros(rows.size, np.uint8)
    edges = (row_edges, column_edges)
    _fill_ious(masks.text, masks.offsets, rows, (height, width), edges, size[0], ious, problems)
    damaged = np.flatnonzero(problems)
    if damaged.size:
        raise DataError(f"proposal {rows[damaged[0]]} of a frame: {PROBLEMS[problems[damaged[0]]]}")
    return ious


@compiled
def _fill_ious(
    text: Bytes,
    offsets: Int64,
    rows: Int64,
    hw: tuple[int, int],
    edges: tuple[Int64, Int64],
    bitmap_height: int,
    ious: Float32,
    problems: Bytes,
) -> None:
    count = rows.size
    # A bitmap has a row of 64-bit words for each column of the mask.
    bitmaps = np.empty((count, edges[1][hw[1]], (bitmap_height + 63) // 64), np.uint64)
    boxes = np.empty((count, 4), np.int64)
    areas = np.empty(count, np.int64)
    for i in range(count):
        counts = text[offsets[rows[i]] : offsets[rows[i] + 1]]
        space = np.empty(counts.size, np.int64)
        problems[i] = rasterise(
            counts, space, hw[0], hw[1], edges[0], edges[1], bitmaps[i], boxes[i]
        )
        areas[i] = mask_area(bitmaps[i], boxes[i])
        for j in range(i + 1):
            intersection = overlap_area(bitmaps[i], bitmaps[j], boxes[i], boxes[j])
            union = areas[i] + areas[j] - intersection
            if union:
                ious[i, j] = ious[j, i] = intersection / union


def box_ious(a: Float32, b: Float32) -> Float32:
    """Boxes (..., n, 4) and (..., m, 4) as x_min, y_min, x_max, y_max → (..., n, m)."""
    low = np.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = np.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    intersection = np.prod(np.maximum(high - low, 0), axis=-1)
    a_area, b_area = (np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (a, b))
    union = a_area[..., :, None] + b_area[..., None, :] - intersection
    return np.asarray(np.where(union > 0, intersection / np.maximum(union, 1e-9), 0), np.float32)
