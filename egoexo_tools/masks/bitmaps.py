"""Compiled loops over masks stored as bitmaps: each pixel column in 64-bit words.

A mask of h x w pixels is an array (w, words) of uint64 with words = ceil(h / 64): bit y % 64 of
word [x, y // 64] is pixel (y, x). COCO's run lengths go down columns, so a run becomes a range of
bits without a division per pixel, directly at the requested size. Areas are bit counts, the
boundary map is a few shifts, and a dilation by a disk is an OR of shifted columns, 64 pixels at a
time.

A box here is x_min, x_max, y_min, y_max, both ends inclusive; x_max < 0 means empty. (Manifests
and `MaskRle.box_xywh` use xywh.) egoexo_tools/evaluation/metrics.py defines the metrics that these
loops compute; tests compare them with the plain versions in tests/reference.py.
"""

import math

import numpy as np

from egoexo_tools.arrays import Bool, Bytes, Int64, UInt64
from egoexo_tools.compiled import compiled
from egoexo_tools.masks.rle_loops import OK, parse_counts

ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
ONE = np.uint64(1)
TOP_BIT = np.uint64(63)
NO_BOX = 1 << 30


@compiled
def count_bits(word: np.uint64) -> np.int64:
    """Number of ones in a word."""
    # Numba has no intrinsic for this. Add up bits in pairs, in fours and in bytes; the product
    # collects the sum of all bytes in the highest byte.
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + (
        (word >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled
def set_bits(column: UInt64, start: int, stop: int) -> None:
    """Set the bits start..stop - 1 of one column; start < stop."""
    first, last = start >> 6, (stop - 1) >> 6
    # Masks of the bits from `start` on in the first word, and up to `stop` in the last word.
    head = ONES << np.uint64(start & 63)
    tail = ONES >> np.uint64(63 - ((stop - 1) & 63))
    if first == last:
        column[first] |= head & tail
        return
    column[first] |= head
    for word in range(first + 1, last):
        column[word] = ONES
    column[last] |= tail


@compiled
def rasterise(
    text: Bytes,
    runs: Int64,
    height: int,
    width: int,
    rows: Int64,
    cols: Int64,
    bitmap: UInt64,
    box: Int64,
) -> int:
    """Counts of a height x width mask → `bitmap` (zeroed here) and `box` at another size.

    rows and cols are as in `rasterise_runs`. `runs` is scratch space, at least as long as the text.
    Returns a problem code of egoexo_tools.masks.rle_loops; the bitmap is empty unless it is OK.
    """
    problem, count, _ = parse_counts(text, height * width, runs)
    rasterise_runs(runs[: count if problem == OK else 0], height, rows, cols, bitmap, box)
    return problem


@compiled
def rasterise_runs(
    runs: Int64, height: int, rows: Int64, cols: Int64, bitmap: UInt64, box: Int64
) -> None:
    """Run lengths of a mask of this height → `bitmap` (zeroed here) and `box` at another size.

    `rows` and `cols` come from `resizing.dest_edges`: `rows[y]` is the number of destination rows
    above source row y (length height + 1), and `cols` is the same for columns.
    """
    bitmap[:] = 0
    box[0], box[1], box[2], box[3] = NO_BOX, -1, NO_BOX, -1
    column, row = 0, 0  # where the next run starts in the source
    for run in range(runs.size):
        end_row = row + runs[run]
        end_column = column
        if end_row >= height:
            end_column += end_row // height
            end_row = end_row % height
        if run & 1 and runs[run] > 0:
            _set_run(column, row, end_column, end_row, rows, cols, bitmap, box)
        column, row = end_column, end_row


@compiled
def _set_run(
    column: int,
    row: int,
    end_column: int,
    end_row: int,
    rows: Int64,
    cols: Int64,
    bitmap: UInt64,
    box: Int64,
) -> None:
    """Set the destination pixels of the source run (row, column) .. (end_row, end_column)."""
    height = rows.size - 1
    # A run that ends at row 0 does not reach into its last column.
    last = end_column if end_row > 0 else end_column - 1
    for x in range(cols[column], cols[last + 1]):
        # Only the first and the last source column may be partly covered.
        start = rows[row] if x < cols[column + 1] else 0
        stop = rows[end_row] if end_row > 0 and x >= cols[last] else rows[height]
        if start < stop:
            set_bits(bitmap[x], start, stop)
            box[0], box[1] = min(box[0], x), max(box[1], x)
            box[2], box[3] = min(box[2], start), max(box[3], stop - 1)


@compiled
def pack(mask: Bool, bitmap: UInt64, box: Int64) -> None:
    """A boolean (h, w) array → `bitmap` (zeroed here) and `box`."""
    bitmap[:] = 0
    box[0], box[1], box[2], box[3] = NO_BOX, -1, NO_BOX, -1
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if mask[y, x]:
                bitmap[x, y >> 6] |= ONE << np.uint64(y & 63)
                box[0], box[1] = min(box[0], x), max(box[1], x)
                box[2], box[3] = min(box[2], y), max(box[3], y)


@compiled
def overlap_area(a: UInt64, b: UInt64, a_box: Int64, b_box: Int64) -> np.int64:
    """Number of pixels that are in both masks."""
    pixels = np.int64(0)
    # Only words in which both boxes have rows can have pixels in common.
    if max(a_box[2], b_box[2]) > min(a_box[3], b_box[3]):
        return pixels
    first, last = max(a_box[2], b_box[2]) >> 6, min(a_box[3], b_box[3]) >> 6
    for x in range(max(a_box[0], b_box[0]), min(a_box[1], b_box[1]) + 1):
        for word in range(first, last + 1):
            common = a[x, word] & b[x, word]
            if common:
                pixels += count_bits(common)
    return pixels


@compiled
def mask_area(bitmap: UInt64, box: Int64) -> np.int64:
    """Number of foreground pixels."""
    return overlap_area(bitmap, bitmap, box, box)


@compiled
def iou_from_areas(common: np.int64, a_area: np.int64, b_area: np.int64) -> float:
    """|A and B| / (|A or B| + 1e-7), 1 if the union is empty (the rule of the DAVIS evaluator)."""
    union = a_area + b_area - common
    return common / (union + 1e-7) if union else 1.0


@compiled
def boundary(bitmap: UInt64, box: Int64, height: int, edge: UInt64) -> np.int64:
    """Write the boundary map of a mask into columns x_min - 1 .. x_max of `edge`.

    A pixel is on the boundary if it differs from its right, lower or lower-right neighbour. The
    last row compares only along the row, the last column only along the column, and the last pixel
    is never on the boundary. Returns the number of boundary pixels.
    """
    width, words = bitmap.shape
    last_word, last_bit = (height - 1) >> 6, ONE << np.uint64((height - 1) & 63)
    pixels = np.int64(0)
    for x in range(max(box[0] - 1, 0), box[1] + 1):
        for word in range(words):
            current = bitmap[x, word]
            # Bit y of `below` and `right_below` is row y + 1; its last bit is in the next word.
            below = current >> ONE
            right = bitmap[x + 1, word] if x + 1 < width else np.uint64(0)
            right_below = right >> ONE
            if word + 1 < words:
                below |= bitmap[x, word + 1] << TOP_BIT
                if x + 1 < width:
                    right_below |= bitmap[x + 1, word + 1] << TOP_BIT
            if x + 1 == width:
                bits = current ^ below
                if word == last_word:
                    bits &= ~last_bit
            else:
                bits = (current ^ right) | (current ^ below) | (current ^ right_below)
                if word == last_word:
                    bits = (bits & ~last_bit) | ((current ^ right) & last_bit)
            edge[x, word] = bits
            if bits:
                pixels += count_bits(bits)
    return pixels


@compiled
def dilate(
    edge: UInt64, box: Int64, heights: Int64, first: int, stop: int, out: UInt64, scratch: UInt64
) -> None:
    """Write `edge`, dilated by a disk, into columns first..stop - 1 of `out`.

    `heights[d]` is the extent of the disk, up and down, in the column at distance d from its
    centre (radius = heights.size - 1). `edge` has bits only in columns x_min - 1 .. x_max of
    `box`. `scratch` is (3, words).
    """
    radius = heights.size - 1
    words = edge.shape[1]
    out[first:stop] = 0
    up, down, grown = scratch[0], scratch[1], scratch[2]
    for x in range(max(box[0] - 1, 0), box[1] + 1):
        # The words that contain edge pixels, and those that the disk can reach from them.
        low, high = words, -1
        for word in range(words):
            if edge[x, word]:
                low, high = min(low, word), word
        if high < 0 or x + radius < first or x - radius >= stop:
            continue
        low, high = max(low - 1 - (radius >> 6), 0), min(high + 1 + (radius >> 6), words - 1)
        for word in range(low, high + 1):
            up[word] = down[word] = grown[word] = edge[x, word]
        reach = 0
        # From the rim inwards the disk's columns become taller, so `grown` is only ever extended.
        for distance in range(radius, -1, -1):
            while reach < heights[distance]:
                _shift(up, down, low, high)
                for word in range(low, high + 1):
                    grown[word] |= up[word] | down[word]
                reach += 1
            for side in (x - distance, x + distance):
                if first <= side < stop:
                    for word in range(low, high + 1):
                        out[side, word] |= grown[word]


@compiled
def _shift(up: UInt64, down: UInt64, low: int, high: int) -> None:
    """Move `up` one row up (to smaller y) and `down` one row down, words low..high."""
    for word in range(low, high):
        up[word] = (up[word] >> ONE) | (up[word + 1] << TOP_BIT)
    up[high] >>= ONE
    for word in range(high, low, -1):
        down[word] = (down[word] << ONE) | (down[word - 1] >> TOP_BIT)
    down[low] <<= ONE


@compiled
def count_matches(edge: UInt64, box: Int64, near: UInt64) -> np.int64:
    """Number of boundary pixels of `edge` that are set in `near`."""
    pixels = np.int64(0)
    for x in range(max(box[0] - 1, 0), box[1] + 1):
        for word in range(edge.shape[1]):
            common = edge[x, word] & near[x, word]
            if common:
                pixels += count_bits(common)
    return pixels


@compiled
def f_measure(hits: np.int64, predicted: np.int64, truth_hits: np.int64, truth: np.int64) -> float:
    """F-measure of boundary precision and recall; empty boundaries as in the DAVIS evaluator."""
    if predicted == 0 and truth == 0:
        return 1.0
    if predicted == 0 or truth == 0:
        return 0.0
    precision, recall = hits / predicted, truth_hits / truth
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


@compiled
def contour_accuracy(
    a: UInt64,
    b: UInt64,
    a_box: Int64,
    b_box: Int64,
    height: int,
    heights: Int64,
    edges: UInt64,
    near: UInt64,
    scratch: UInt64,
) -> float:
    """Contour accuracy of prediction `a` and truth `b`; `edges` is (2, w, words) scratch space.

    Each dilation is limited to the columns of the other mask's boundary, since only boundary
    pixels can match.
    """
    a_count = boundary(a, a_box, height, edges[0])
    b_count = boundary(b, b_box, height, edges[1])
    if a_count == 0 or b_count == 0:
        return f_measure(np.int64(0), a_count, np.int64(0), b_count)
    dilate(edges[1], b_box, heights, max(a_box[0] - 1, 0), a_box[1] + 1, near, scratch)
    a_hits = count_matches(edges[0], a_box, near)
    dilate(edges[0], a_box, heights, max(b_box[0] - 1, 0), b_box[1] + 1, near, scratch)
    b_hits = count_matches(edges[1], b_box, near)
    return f_measure(a_hits, a_count, b_hits, b_count)


@compiled
def location_error(a_box: Int64, b_box: Int64, height: int, width: int, diagonal: float) -> float:
    """Distance between the two box centres, divided by `diagonal`.

    The centre of an empty mask is x = h // 2 and y = w // 2: the benchmark's evaluator swaps the
    two sides here, and its scores are what we reproduce.
    """
    ax, ay = (a_box[0] + a_box[1]) // 2, (a_box[2] + a_box[3]) // 2
    bx, by = (b_box[0] + b_box[1]) // 2, (b_box[2] + b_box[3]) // 2
    if a_box[1] < 0:
        ax, ay = height // 2, width // 2
    if b_box[1] < 0:
        bx, by = height // 2, width // 2
    return math.sqrt((ax - bx) ** 2 + (ay - by) ** 2) / diagonal
