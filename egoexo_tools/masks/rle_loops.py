"""Compiled loops over COCO run lengths: parse, write, measure, sample, resize.

A loop gets a mask's counts as bytes, or its run lengths in pixels (background first, column by
column), and never creates an image. Only `parse_counts` validates the text of counts.
"""

import numpy as np

from egoexo_tools.arrays import Bytes, Float32, Int64
from egoexo_tools.compiled import compiled
from egoexo_tools.masks.resizing import nearest_idxs

MAX_SIDE = 32_767
"""Larger images are rejected: OpenCV cannot resize them, and no camera records them."""
MAX_RUN_CHARACTERS = 7
"""Of counts: a run has at most 30 bits (MAX_SIDE squared), its difference also has a sign, and a
character has five bits."""

OK, BAD_TEXT, NEGATIVE_RUN, WRONG_TOTAL = range(4)
"""Problem codes of a mask; indices into PROBLEMS."""
PROBLEMS = (
    "",
    "the counts are not COCO compressed run lengths",
    "the counts hold a negative run",
    "the runs do not add up to height x width",
)


@compiled
def _parse_run(text: Bytes, position: int, previous_but_one: int) -> tuple[int, int, bool]:
    """Parse one run at `position`: its length, the next position, and whether it is well formed.

    As pycocotools writes counts: five bits per character, a sixth bit if more characters follow,
    and the highest of the last five bits is the sign.
    """
    value = 0
    shift = 0
    while True:
        # More than 45 bits cannot be a run, and would overflow the value.
        if position >= text.size or shift > 40:
            return 0, position, False
        digit = int(text[position]) - 48
        if digit < 0 or digit > 63:
            return 0, position, False
        value |= (digit & 31) << shift
        shift += 5
        position += 1
        if not digit & 32:
            break
    if digit & 16:
        value -= 1 << shift
    return value + previous_but_one, position, True


@compiled
def parse_counts(text: Bytes, size: int, runs: Int64) -> tuple[int, int, int]:
    """Fill `runs` from counts; returns the problem code, the number of runs and their sum."""
    position = count = total = 0
    while position < text.size:
        # COCO stores the first three runs unchanged.
        previous_but_one = runs[count - 2] if count > 2 else 0
        run, position, well_formed = _parse_run(text, position, previous_but_one)
        if not well_formed:
            return BAD_TEXT, count, total
        if run < 0:
            return NEGATIVE_RUN, count, total
        runs[count] = run
        count += 1
        total += run
        if total > size:
            return WRONG_TOTAL, count, total
    return (OK if total == size else WRONG_TOTAL), count, total


@compiled
def format_counts(runs: Int64, buffer: Bytes) -> int:
    """Write counts into `buffer`; returns their length."""
    position = 0
    for i in range(runs.size):
        value = runs[i] - (runs[i - 2] if i > 2 else 0)
        more = True
        while more:
            digit = value & 31
            value >>= 5
            more = value != -1 if digit & 16 else value != 0
            buffer[position] = digit + (80 if more else 48)
            position += 1
    return position


@compiled
def _grow(box: Int64, start: int, stop: int, height: int) -> None:
    """Extend `box` (x_min, y_min, x_max, y_max) by the foreground pixels start..stop - 1."""
    first, last = start // height, (stop - 1) // height
    # A run over several columns reaches the top and the bottom of the image.
    top, bottom = (start % height, (stop - 1) % height) if first == last else (0, height - 1)
    box[0], box[1] = min(box[0], first), min(box[1], top)
    box[2], box[3] = max(box[2], last), max(box[3], bottom)


@compiled
def runs_box(runs: Int64, height: int) -> tuple[int, int, int, int]:
    """The box (xywh) of the foreground; zeros for an empty mask."""
    box = np.array([MAX_SIDE, MAX_SIDE, -1, -1], np.int64)  # x_min, y_min, x_max, y_max
    position = 0
    for i in range(runs.size):
        if i % 2 and runs[i]:
            _grow(box, position, position + runs[i], height)
        position += runs[i]
    if box[2] < 0:
        return 0, 0, 0, 0
    return box[0], box[1], box[2] - box[0], box[3] - box[1]


@compiled
def runs_overlap(a: Int64, b: Int64) -> tuple[int, int]:
    """Number of pixels in both and in either of two masks of the same size."""
    i = j = position = common = either = 0
    a_end = a[0] if a.size else 0
    b_end = b[0] if b.size else 0
    while i < a.size and j < b.size:
        end = min(a_end, b_end)
        length = end - position
        # Runs with odd indices are foreground.
        common += length * (i & j & 1)
        either += length * ((i | j) & 1)
        position = end
        if a_end == end:
            i += 1
            a_end += a[i] if i < a.size else 0
        if b_end == end:
            j += 1
            b_end += b[j] if j < b.size else 0
    return common, either


@compiled
def sample_runs(ends: Int64, height: int, rows: Int64, cols: Int64) -> Bytes:
    """Value of each (row, col): the parity of the run that contains its column-major position."""
    out = np.zeros((rows.size, cols.size), np.uint8)
    for c in range(cols.size):
        base = cols[c] * height
        first = np.searchsorted(ends, base, side="right")
        if ends[first] >= base + height:  # one run covers the whole column
            if first & 1:
                out[:, c] = 1
            continue
        run, last = first, -1
        for r in range(rows.size):
            position = base + rows[r]
            if position < last:  # rows need not be sorted
                run = first
            while ends[run] <= position:
                run += 1
            out[r, c] = run & 1
            last = position
    return out


@compiled
def _resize_runs(ends: Int64, height: int, rows: Int64, cols: Int64, runs: Int64) -> int:
    """Write the run lengths of `sample_runs`' result into `runs`; rows must be ascending.

    Returns the number of runs. `runs` must have room for two more than there are pixels.
    """
    count = value = length = 0
    for c in range(cols.size):
        base = cols[c] * height
        run = np.searchsorted(ends, base, side="right")
        is_whole = ends[run] >= base + height  # one run covers the whole column
        for r in range(1 if is_whole else rows.size):
            while ends[run] <= base + rows[r]:
                run += 1
            if run & 1 != value:
                runs[count], length = length, 0
                count, value = count + 1, 1 - value
            length += rows.size if is_whole else 1
    runs[count] = length
    return count + 1


@compiled
def _append(out: Bytes, end: int, piece: Bytes) -> Bytes:
    """`out` with `piece` written at `end`; a longer copy of `out` if there is no room."""
    if end + piece.size > out.size:
        longer = np.empty(2 * (end + piece.size), np.uint8)
        longer[:end] = out[:end]
        out = longer
    out[end : end + piece.size] = piece
    return out


@compiled
def resize(
    text: Bytes,
    offsets: Int64,
    source: tuple[Int64, Int64],
    which: Int64,
    dest: tuple[Int64, Int64],
    ends: Int64,
    problems: Bytes,
) -> Bytes:
    """The loop of `MaskColumns.resize`: returns the new counts, fills `ends` and `problems`.

    `source` has the heights and widths of all masks, `dest` (n,) the sizes to which the masks
    `which` (n,) are resized. Stops at the first damaged mask.
    """
    # A guess from the mean length of the counts; `_append` enlarges it if necessary.
    out = np.empty(
        (offsets[-1] - offsets[0]) // max(offsets.size - 1, 1) * which.size + 64, np.uint8
    )
    buffer, runs = np.empty(64, np.uint8), np.empty(1, np.int64)
    rows, cols = np.empty(0, np.int64), np.empty(0, np.int64)
    cached_sizes = (0, 0, 0, 0)  # the sizes for which `rows` and `cols` were computed
    for i in range(which.size):
        mask, height, width = which[i], dest[0][i], dest[1][i]
        if mask < 0:  # an empty mask is a single run of background
            runs[0] = height * width
            size = format_counts(runs[:1], buffer)
            out = _append(out, ends[i], buffer[:size])
            ends[i + 1] = ends[i] + size
            continue
        counts = text[offsets[mask] : offsets[mask + 1]]
        sizes = (source[0][mask], source[1][mask], height, width)
        if sizes[0] == height and sizes[1] == width:
            out = _append(out, ends[i], counts)
            ends[i + 1] = ends[i] + counts.size
            continue
        parsed = np.empty(counts.size, np.int64)
        problems[i], count, _ = parse_counts(counts, sizes[0] * sizes[1], parsed)
        if problems[i] != OK:
            return out[:0]
        if sizes != cached_sizes:  # neighbours usually have the same sizes
            rows, cols = nearest_idxs(sizes[0], height), nearest_idxs(sizes[1], width)
            cached_sizes = sizes
        if runs.size < height * width + 2:
            runs = np.empty(height * width + 2, np.int64)
        count = _resize_runs(np.cumsum(parsed[:count]), sizes[0], rows, cols, runs)
        if buffer.size < count * MAX_RUN_CHARACTERS:
            buffer = np.empty(2 * count * MAX_RUN_CHARACTERS, np.uint8)
        size = format_counts(runs[:count], buffer)
        out = _append(out, ends[i], buffer[:size])
        ends[i + 1] = ends[i] + size
    return out[: ends[-1]]


@compiled
def measure(
    text: Bytes,
    offsets: Int64,
    heights: Int64,
    widths: Int64,
    areas: Int64,
    boxes: Float32,
    problems: Bytes,
) -> None:
    """The loop of `MaskColumns.measure`; fills the last three arrays, which must be zeros."""
    for i in range(heights.size):
        counts = text[offsets[i] : offsets[i + 1]]
        runs = np.empty(counts.size, np.int64)
        problem, count, _ = parse_counts(counts, heights[i] * widths[i], runs)
        problems[i] = problem
        if problem == OK:
            areas[i] = runs[1:count:2].sum()
            box = runs_box(runs[:count], heights[i])
            for k in range(4):
                boxes[i, k] = box[k]
