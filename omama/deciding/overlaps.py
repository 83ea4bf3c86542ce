"""Overlaps that deciding looks at: masks of one frame, and boxes of two frames.

Masks are drawn once as bitmaps (egoexo_tools/masks/bitmaps.py) at the size of scoring, and only
where two boxes meet are they compared. Legend: n masks of a frame.
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


def mask_ious(masks: MaskColumns, chosen: Int64) -> Float32:
    """(n, n) IoU of some masks (by position) of a frame, all of one size; 0 where both are empty.

    Compared with the long side at 480, as scores are. DataError for damaged run lengths.
    """
    ious = np.zeros((chosen.size, chosen.size), np.float32)
    if not chosen.size:
        return ious
    height, width = int(masks.heights[chosen[0]]), int(masks.widths[chosen[0]])
    MaskRle(height, width, "")  # raises for sides that cannot be
    size = official_size((height, width))
    rows, cols = dest_edges((height, width), size)
    problems = np.zeros(chosen.size, np.uint8)
    _iou_loop(masks.text, masks.offsets, chosen, height, width, rows, cols, size[0], ious, problems)
    bad = np.flatnonzero(problems)
    if bad.size:
        raise DataError(f"proposal {chosen[bad[0]]} of a frame: {PROBLEMS[problems[bad[0]]]}")
    return ious


@compiled
def _iou_loop(
    text: Bytes,
    offsets: Int64,
    chosen: Int64,
    height: int,
    width: int,
    rows: Int64,
    cols: Int64,
    height_drawn: int,
    ious: Float32,
    problems: Bytes,
) -> None:
    count = chosen.size
    bitmaps = np.empty((count, cols[width], (height_drawn + 63) // 64), np.uint64)
    boxes = np.empty((count, 4), np.int64)
    areas = np.empty(count, np.int64)
    for i in range(count):
        counts = text[offsets[chosen[i]] : offsets[chosen[i] + 1]]
        space = np.empty(counts.size, np.int64)
        problems[i] = rasterise(counts, space, height, width, rows, cols, bitmaps[i], boxes[i])
        areas[i] = mask_area(bitmaps[i], boxes[i])
        for j in range(i + 1):
            both = overlap_area(bitmaps[i], bitmaps[j], boxes[i], boxes[j])
            union = areas[i] + areas[j] - both
            if union:
                ious[i, j] = ious[j, i] = both / union


def box_ious(a: Float32, b: Float32) -> Float32:
    """Boxes (..., n, 4) and (..., m, 4) as x_min, y_min, x_max, y_max → (..., n, m)."""
    low = np.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = np.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (a, b)]
    union = areas[0][..., :, None] + areas[1][..., None, :] - both
    return np.asarray(np.where(union > 0, both / np.maximum(union, 1e-9), 0), np.float32)
