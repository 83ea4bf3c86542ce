"""Many bitmaps of one size → run lengths, in one compiled call.

Only the box of a mask is scanned column by column, which is COCO's order. The rest is recognised
as empty row by row, which is as fast as memory allows.
"""

import numpy as np

from egoexo_tools.arrays import Bytes, Int64
from egoexo_tools.compiled import compiled
from egoexo_tools.errors import DataError
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle_loops import MAX_RUN_CHARACTERS, format_counts


def encode_stack(masks: Bytes) -> MaskColumns:
    """(N, H, W) uint8, nonzero is foreground → N masks, each as `MaskRle.encode` returns it."""
    if masks.ndim != 3 or masks.dtype != np.uint8:
        raise DataError(f"a stack of masks is (N, H, W) uint8, not {masks.shape} {masks.dtype}")
    count, height, width = masks.shape
    text, offsets = _encode(np.ascontiguousarray(masks))
    sizes = np.full((2, count), [[height], [width]], np.int64)
    return MaskColumns(sizes[0], sizes[1], text, offsets)


@compiled
def _encode(masks: Bytes) -> tuple[Bytes, Int64]:
    count, height, width = masks.shape
    out = np.empty(1 << 16, np.uint8)
    offsets = np.zeros(count + 1, np.int64)
    runs = np.empty(height * width + 2, np.int64)
    columns = np.empty(width, np.uint8)
    end = 0
    for n in range(count):
        run_count = _runs(masks[n], columns, runs)
        while out.size < end + run_count * MAX_RUN_CHARACTERS:
            larger = np.empty(2 * out.size, np.uint8)
            larger[:end] = out[:end]
            out = larger
        end += format_counts(runs[:run_count], out[end:])
        offsets[n + 1] = end
    return out[:end].copy(), offsets


@compiled
def _runs(mask: Bytes, columns: Bytes, runs: Int64) -> int:
    """Fill `runs`, background first; returns their number. `columns` is scratch for one row."""
    height, width = mask.shape
    columns[:] = 0
    top, bottom = height, -1
    for y in range(height):
        row = mask[y]
        row_bits = np.uint8(0)
        for x in range(width):
            columns[x] |= row[x]
            row_bits |= row[x]
        if row_bits:
            top, bottom = min(top, y), y
    n = start = value = 0
    for x in range(width):
        if bottom < 0 or not columns[x]:
            if value and bottom >= 0:
                runs[n], start, value, n = x * height - start, x * height, 0, n + 1
            continue
        if value and top > 0:
            runs[n], start, value, n = x * height - start, x * height, 0, n + 1
        for y in range(top, bottom + 1):
            is_set = 1 if mask[y, x] else 0
            if is_set != value:
                position = x * height + y
                runs[n], start, value, n = position - start, position, is_set, n + 1
        if value and bottom < height - 1:
            position = x * height + bottom + 1
            runs[n], start, value, n = position - start, position, 0, n + 1
    total = height * width
    if start < total:
        runs[n] = total - start
        n += 1
    return n
