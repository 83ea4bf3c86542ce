"""Compiled loops on masks drawn as bits: each pixel column in 64-bit words.

A mask of h x w pixels is an array (w, words) of uint64 with words = ceil(h / 64): bit y % 64 of
word [x, y // 64] is pixel (y, x). Columns, because COCO's run lengths go down columns: a run
becomes a range of bits without a division per pixel, straight at the size that is wanted. Areas
are bit counts, the boundary map is a few shifts, and a dilation by a disk is an OR of shifted
columns, 64 pixels at a time.

A box here is x_min, x_max, y_min, y_max, both ends inclusive; x_max < 0 says empty. (Manifests and
`MaskRle.box_xywh` have xywh.)
The rules that these loops compute are stated, and the plain versions of them tested, in
egoexo_tools/evaluation/metrics.py and tests/reference.py.
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

    Edges as in `rasterise_runs`. `runs` is scratch, at least as long as the text. Returns a problem
    code of egoexo_tools.masks.rle_loops; OK is 0, and with any other the bitmap is empty.
    """
    problem, count, _ = parse_counts(text, height * width, runs)
    rasterise_runs(runs[: count if problem == OK else 0], height, rows, cols, bitmap, box)
    return problem


@compiled
def rasterise_runs(
    runs: Int64, height: int, rows: Int64, cols: Int64, bitmap: UInt64, box: Int64
) -> None:
    """Run lengths of a mask of some height → `bitmap` (zeroed here) and `box` at another size.

    `rows[y]` is the number of wanted rows that lie above source row y (length height + 1), `cols`
    the same for columns: see `resizing.dest_edges`.
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
    """Set the wanted pixels of the source run from (row, column) up to (end_row, end_column)."""
    height = rows.size - 1
    last = end_column if end_row > 0 else end_column - 1
    for x in range(cols[column], cols[last + 1]):
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
    """Pixels in both."""
    pixels = np.int64(0)
    if max(a_box[2], b_box[2]) > min(a_box[3], b_box[3]):
        return pixels
    first, last = max(a_box[2], b_box[2]) >> 6, min(a_box[3], b_box[3]) >> 6
    for x in range(max(a_box[0], b_box[0]), min(a_box[1], b_box[1]) + 1):
        for word in range(first, last + 1):
            both = a[x, word] & b[x, word]
            if both:
                pixels += count_bits(both)
    return pixels


@compiled
def mask_area(bitmap: UInt64, box: Int64) -> np.int64:
    """Foreground pixels."""
    return overlap_area(bitmap, bitmap, box, box)


@compiled
def iou_from_areas(both: np.int64, a_area: np.int64, b_area: np.int64) -> float:
    """|A and B| / (|A or B| + 1e-7), 1 where the union is empty (the DAVIS evaluator's rule)."""
    union = a_area + b_area - both
    return both / (union + 1e-7) if union else 1.0


@compiled
def boundary(bitmap: UInt64, box: Int64, height: int, edge: UInt64) -> np.int64:
    """Boundary map of a mask into `edge` (its columns from x_min - 1 to x_max are written).

    A pixel is on the boundary where it differs from its right, lower or lower-right neighbour;
    the last row compares along the row, the last column along the column, the last pixel never.
    Returns the number of boundary pixels.
    """
    width, words = bitmap.shape
    last_word, last_bit = (height - 1) >> 6, ONE << np.uint64((height - 1) & 63)
    pixels = np.int64(0)
    for x in range(max(box[0] - 1, 0), box[1] + 1):
        for word in range(words):
            here = bitmap[x, word]
            below = here >> ONE
            right = bitmap[x + 1, word] if x + 1 < width else np.uint64(0)
            right_below = right >> ONE
            if word + 1 < words:
                below |= bitmap[x, word + 1] << TOP_BIT
                if x + 1 < width:
                    right_below |= bitmap[x + 1, word + 1] << TOP_BIT
            if x + 1 == width:
                bits = here ^ below
                if word == last_word:
                    bits &= ~last_bit
            else:
                bits = (here ^ right) | (here ^ below) | (here ^ right_below)
                if word == last_word:
                    bits = (bits & ~last_bit) | ((here ^ right) & last_bit)
            edge[x, word] = bits
            if bits:
                pixels += count_bits(bits)
    return pixels


@compiled
def dilate(
    edge: UInt64, box: Int64, heights: Int64, first: int, stop: int, out: UInt64, scratch: UInt64
) -> None:
    """Columns first..stop - 1 of `out` = `edge` dilated by a disk.

    `heights[d]` is how far the disk reaches up and down in the column at distance d from its
    centre (radius = heights.size - 1); `edge` has bits only in columns x_min - 1 .. x_max of
    `box`; `scratch` is (3, words).
    """
    radius = heights.size - 1
    words = edge.shape[1]
    out[first:stop] = 0
    up, down, grown = scratch[0], scratch[1], scratch[2]
    for x in range(max(box[0] - 1, 0), box[1] + 1):
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
        # The disk's columns from the rim inwards, so that the reach only grows.
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
def matched(edge: UInt64, box: Int64, near: UInt64) -> np.int64:
    """Boundary pixels of `edge` that lie in `near`."""
    pixels = np.int64(0)
    for x in range(max(box[0] - 1, 0), box[1] + 1):
        for word in range(edge.shape[1]):
            both = edge[x, word] & near[x, word]
            if both:
                pixels += count_bits(both)
    return pixels


@compiled
def f_measure(hits: np.int64, predicted: np.int64, truth_hits: np.int64, truth: np.int64) -> float:
    """F of boundary precision and recall, with the DAVIS conventions for empty boundaries."""
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
    """Contour accuracy of prediction `a` and truth `b`; `edges` is (2, w, words) scratch.

    Only the columns of either mask's boundary are looked at: outside of them there is nothing
    to match.
    """
    a_count = boundary(a, a_box, height, edges[0])
    b_count = boundary(b, b_box, height, edges[1])
    if a_count == 0 or b_count == 0:
        return f_measure(np.int64(0), a_count, np.int64(0), b_count)
    dilate(edges[1], b_box, heights, max(a_box[0] - 1, 0), a_box[1] + 1, near, scratch)
    a_hits = matched(edges[0], a_box, near)
    dilate(edges[0], a_box, heights, max(b_box[0] - 1, 0), b_box[1] + 1, near, scratch)
    b_hits = matched(edges[1], b_box, near)
    return f_measure(a_hits, a_count, b_hits, b_count)


@compiled
def location_error(a_box: Int64, b_box: Int64, height: int, width: int, diagonal: float) -> float:
    """Distance of the two box centres over `diagonal`; an empty mask's centre is (h//2, w//2).

    The benchmark swaps the two sides for an empty mask, x = h // 2 and y = w // 2, and so do we.
    """
    ax, ay = (a_box[0] + a_box[1]) // 2, (a_box[2] + a_box[3]) // 2
    bx, by = (b_box[0] + b_box[1]) // 2, (b_box[2] + b_box[3]) // 2
    if a_box[1] < 0:
        ax, ay = height // 2, width // 2
    if b_box[1] < 0:
        bx, by = height // 2, width // 2
    return math.sqrt((ax - bx) ** 2 + (ay - by) ** 2) / diagonal
