"""Masks as COCO run lengths: encode, decode (also straight to another size), area, box, IoU.

An rle is `(height, width, counts)`: the mask is read column by column, `counts` is the length of
each run, background first, in COCO's compressed text (base 32 digits from "0" on, least
significant first, every run after the third as the difference to the one before the last). The
hot loops work on the runs, so that a full-size image is made only by `decode`.

Masks from files are untrusted: everything that reads `counts` checks that the text is well formed
and that the runs add up to height x width, and raises DataError.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from egoexo_tools.compiled import compiled
from egoexo_tools.errors import DataError

Bool: TypeAlias = NDArray[np.bool_]
Int: TypeAlias = NDArray[np.int64]
Bytes: TypeAlias = NDArray[np.uint8]
Idxs: TypeAlias = NDArray[Any] | Sequence[int]
Box: TypeAlias = tuple[int, int, int, int]

MAX_SIDE = 32_767
"""Larger images are refused: OpenCV cannot resize them, and no camera makes them."""

OK, BAD_TEXT, NEGATIVE_RUN, WRONG_TOTAL = range(4)
"""What `measure` says about each mask; PROBLEMS has the words."""
PROBLEMS = (
    "",
    "the counts are not COCO compressed run lengths",
    "the counts hold a negative run",
    "the runs do not add up to height x width",
)


@dataclass(frozen=True)
class MaskRle:
    """One mask of height x width pixels as COCO compressed run lengths."""

    height: int
    width: int
    counts: str

    def __post_init__(self) -> None:
        if not (0 < self.height <= MAX_SIDE and 0 < self.width <= MAX_SIDE):
            raise DataError(
                f"a mask cannot be {self.height} x {self.width} pixels; sides are 1 to {MAX_SIDE}"
            )

    @classmethod
    def encode(cls, mask: NDArray[Any]) -> "MaskRle":
        """The rle of a (H, W) array; nonzero is foreground."""
        if mask.ndim != 2 or not mask.size:
            raise DataError(f"a mask has a height and a width, this array has shape {mask.shape}")
        height, width = mask.shape
        foreground = mask if mask.dtype == np.bool_ else mask != 0
        columns = _transposed(foreground.view(np.uint8)).reshape(-1)
        changes = np.flatnonzero(columns[1:] != columns[:-1]) + 1
        start = [0, 0] if columns[0] else [0]  # the first run is background, if need be of length 0
        runs = np.diff(np.concatenate([np.array(start), changes, np.array([columns.size])]))
        return cls(height, width, runs_to_counts(runs))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "MaskRle":
        """From `{"size": [height, width], "counts": ...}`; counts as text, bytes or plain runs."""
        try:
            height, width = (int(side) for side in value["size"])
            counts = value["counts"]
            if isinstance(counts, list):
                counts = runs_to_counts(np.asarray(counts, np.int64))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError("a mask in JSON must hold size [height, width] and counts") from error
        if isinstance(counts, bytes):
            counts = counts.decode("latin-1")
        if not isinstance(counts, str):
            raise DataError(f"mask counts must be text, not {type(counts).__name__}")
        return cls(height, width, counts)

    def to_json(self) -> dict[str, Any]:
        return {"size": [self.height, self.width], "counts": self.counts}

    def runs(self) -> Int:
        """Run lengths in pixels, background first; DataError for counts that are not valid."""
        return counts_to_runs(self.counts, self.height, self.width)

    def validate(self) -> "MaskRle":
        """self if the counts are well formed and fill the size; else DataError."""
        self.runs()
        return self

    def area(self) -> int:
        """Foreground pixels."""
        return int(self.runs()[1::2].sum())

    def box_xywh(self) -> Box:
        """x_min, y_min, x_max - x_min, y_max - y_min (no +1); zeros for an empty mask."""
        x, y, w, h = _box(self.runs(), self.height)
        return int(x), int(y), int(w), int(h)

    def iou(self, other: "MaskRle") -> float:
        """|A and B| / |A or B|, 1.0 where both are empty; DataError for different sizes."""
        if (self.height, self.width) != (other.height, other.width):
            raise DataError(
                f"masks of {self.height}x{self.width} and {other.height}x{other.width} pixels "
                "have no IoU; bring them to one size with decode_at"
            )
        intersection, union = _overlap(self.runs(), other.runs())
        return float(intersection / union) if union else 1.0

    def decode(self) -> Bool:
        """The mask, (height, width) bool."""
        runs = self.runs()
        values = (np.arange(runs.size) & 1).astype(np.uint8)
        columns = np.repeat(values, runs).reshape(self.width, self.height)
        return _transposed(columns).view(np.bool_)

    def decode_at(self, height: int, width: int) -> Bool:
        """The mask resized as `cv2.resize(..., INTER_NEAREST)` does, (height, width) bool."""
        if (height, width) == (self.height, self.width):
            return self.decode()
        return self.sample(nearest_idxs(self.height, height), nearest_idxs(self.width, width))

    def sample(
        self, rows: NDArray[Any] | Sequence[int], cols: NDArray[Any] | Sequence[int]
    ) -> Bool:
        """mask[rows][:, cols] without making the mask; indices in any order, repeats allowed."""
        row_idxs = _checked_idxs(rows, self.height)
        col_idxs = _checked_idxs(cols, self.width)
        return _sample(np.cumsum(self.runs()), self.height, row_idxs, col_idxs).view(np.bool_)


def counts_to_runs(counts: str, height: int, width: int) -> Int:
    """COCO counts → run lengths in pixels; DataError unless they fill height x width exactly."""
    try:
        text = np.frombuffer(counts.encode("ascii"), np.uint8)
    except UnicodeEncodeError:
        raise DataError(f"{PROBLEMS[BAD_TEXT]}: {_shortened(counts)}") from None
    runs = np.empty(text.size, np.int64)
    problem, count, total = parse_counts(text, height * width, runs)
    if problem != OK:
        detail = f" ({total} for {height}x{width})" if problem == WRONG_TOTAL else ""
        raise DataError(f"{PROBLEMS[problem]}{detail}: {_shortened(counts)}")
    return runs[:count]


def runs_to_counts(runs: NDArray[Any]) -> str:
    """Run lengths in pixels (background first, none negative) → COCO counts."""
    lengths = np.ascontiguousarray(runs, np.int64)
    if lengths.size and not (lengths.min() >= 0 and lengths.max() <= MAX_SIDE**2):
        raise DataError(f"run lengths {lengths.min()} to {lengths.max()} are not those of a mask")
    # A run has 30 bits at most (MAX_SIDE squared), its difference a sign: seven digits of five.
    buffer = np.empty(lengths.size * 7, np.uint8)
    return buffer[: _format(lengths, buffer)].tobytes().decode("ascii")


def nearest_idxs(source: int, dest: int) -> Int:
    """The source index that `cv2.resize(..., INTER_NEAREST)` reads for each of `dest` pixels.

    OpenCV's arithmetic to the bit: floor(i * (1 / (dest / source))), in double precision.
    """
    step = 1.0 / (dest / source)
    idxs: Int = np.floor(np.arange(dest) * step).astype(np.int64)
    return np.minimum(idxs, source - 1, out=idxs)


def measure(
    text: Bytes, offsets: Int, heights: Int, widths: Int
) -> tuple[Int, NDArray[np.float32], Bytes]:
    """Check and measure many masks in one call.

    `text` holds the counts of n masks one after the other, mask i at offsets[i]:offsets[i + 1]
    (the two buffers of an Arrow string column). Returns areas (n,) in pixels, boxes (n, 4) xywh
    and problems (n,): OK, or why the mask cannot be used (its area and box are 0 then).
    """
    areas = np.zeros(heights.size, np.int64)
    boxes = np.zeros((heights.size, 4), np.float32)
    problems = np.zeros(heights.size, np.uint8)
    _measure(text, offsets, heights, widths, areas, boxes, problems)
    return areas, boxes, problems


def resize(
    text: Bytes, offsets: Int, which: Int, *, source_hw: tuple[int, int], dest_hw: tuple[int, int]
) -> tuple[Bytes, Int]:
    """Masks of one size brought to another, each as `MaskRle.decode_at` does, in one call.

    `text` and `offsets` as of `measure`, `which` (n,) the masks to take of them. Returns the new
    counts one after the other, and their offsets (n + 1,). DataError for damaged counts.
    """
    rows, cols = (
        nearest_idxs(source, dest) for source, dest in zip(source_hw, dest_hw, strict=True)
    )
    ends = np.zeros(which.size + 1, np.int64)
    problems = np.zeros(which.size, np.uint8)
    resized = _resize(text, offsets, which, *source_hw, rows, cols, ends, problems)
    if problems.any():
        bad = int(np.flatnonzero(problems)[0])
        counts = text[offsets[which[bad]] : offsets[which[bad] + 1]].tobytes().decode("latin-1")
        raise DataError(f"{PROBLEMS[problems[bad]]}: {_shortened(counts)}")
    return resized, ends


def _transposed(array: Bytes) -> Bytes:
    """A contiguous transpose; OpenCV's is several times faster than numpy's on 4K images."""
    import cv2

    transposed = cv2.transpose(np.ascontiguousarray(array))
    return np.asarray(transposed, np.uint8).reshape(array.shape[::-1])


def _checked_idxs(idxs: Idxs, size: int) -> Int:
    checked: Int = np.ascontiguousarray(idxs, np.int64)
    if checked.size and (checked.min() < 0 or checked.max() >= size):
        raise DataError(f"sample indices must lie in 0..{size - 1}")
    return checked


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")


@compiled
def _next(text: Bytes, position: int, before_last: int) -> tuple[int, int, bool]:
    """One run from `position`: its length, the position after it, and whether it was well formed.

    The counts of pycocotools: five bits a character, a sixth says that more follow, and the top
    bit of the last five is the sign.
    """
    value = 0
    shift = 0
    while True:
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
    return value + before_last, position, True


@compiled
def parse_counts(text: Bytes, size: int, runs: Int) -> tuple[int, int, int]:
    """Fill `runs` from counts; returns the problem, the number of runs and their sum."""
    position = count = total = 0
    while position < text.size:
        before_last = runs[count - 2] if count > 2 else 0
        run, position, well_formed = _next(text, position, before_last)
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
def _format(runs: Int, buffer: Bytes) -> int:
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
def _grow(box: Int, start: int, stop: int, height: int) -> None:
    """Extend `box` (x_min, y_min, x_max, y_max) by the foreground pixels start..stop - 1."""
    first, last = start // height, (stop - 1) // height
    top, bottom = (start % height, (stop - 1) % height) if first == last else (0, height - 1)
    box[0], box[1] = min(box[0], first), min(box[1], top)
    box[2], box[3] = max(box[2], last), max(box[3], bottom)


@compiled
def _box(runs: Int, height: int) -> tuple[int, int, int, int]:
    box = np.array([MAX_SIDE, MAX_SIDE, -1, -1], np.int64)
    position = 0
    for i in range(runs.size):
        if i % 2 and runs[i]:
            _grow(box, position, position + runs[i], height)
        position += runs[i]
    if box[2] < 0:
        return 0, 0, 0, 0
    return box[0], box[1], box[2] - box[0], box[3] - box[1]


@compiled
def _overlap(a: Int, b: Int) -> tuple[int, int]:
    """Pixels in both and pixels in either of two masks of one size, walking both run lists."""
    i = j = position = both = either = 0
    a_end = a[0] if a.size else 0
    b_end = b[0] if b.size else 0
    while i < a.size and j < b.size:
        end = min(a_end, b_end)
        length = end - position
        both += length * (i & j & 1)
        either += length * ((i | j) & 1)
        position = end
        if a_end == end:
            i += 1
            a_end += a[i] if i < a.size else 0
        if b_end == end:
            j += 1
            b_end += b[j] if j < b.size else 0
    return both, either


@compiled
def _sample(ends: Int, height: int, rows: Int, cols: Int) -> Bytes:
    """Value of each (row, col): the parity of the run that its column-major position lies in."""
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
            if position < last:  # rows need not ascend
                run = first
            while ends[run] <= position:
                run += 1
            out[r, c] = run & 1
            last = position
    return out


@compiled
def _resize_runs(ends: Int, height: int, rows: Int, cols: Int, runs: Int) -> int:
    """Run lengths at another size into `runs`, as of `_sample` with ascending rows; their number.

    `runs` has room for two more than there are pixels.
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
def _resize(
    text: Bytes,
    offsets: Int,
    which: Int,
    height: int,
    width: int,
    rows: Int,
    cols: Int,
    ends: Int,
    problems: Bytes,
) -> Bytes:
    resized = np.empty(offsets[-1] // max(offsets.size - 1, 1) * which.size + 64, np.uint8)
    runs = np.empty(rows.size * cols.size + 2, np.int64)
    buffer = np.empty(64, np.uint8)
    for i in range(which.size):
        counts = text[offsets[which[i]] : offsets[which[i] + 1]]
        parsed = np.empty(counts.size, np.int64)
        problems[i], count, _ = parse_counts(counts, height * width, parsed)
        if problems[i] != OK:
            return resized[:0]
        count = _resize_runs(np.cumsum(parsed[:count]), height, rows, cols, runs)
        if buffer.size < count * 7:  # characters of a run at most, as in `runs_to_counts`
            buffer = np.empty(count * 14, np.uint8)
        size = _format(runs[:count], buffer)
        ends[i + 1] = ends[i] + size
        if ends[i + 1] > resized.size:
            longer = np.empty(2 * ends[i + 1], np.uint8)
            longer[: ends[i]] = resized[: ends[i]]
            resized = longer
        resized[ends[i] : ends[i + 1]] = buffer[:size]
    return resized[: ends[-1]]


@compiled
def _measure(
    text: Bytes,
    offsets: Int,
    heights: Int,
    widths: Int,
    areas: Int,
    boxes: NDArray[np.float32],
    problems: Bytes,
) -> None:
    for i in range(heights.size):
        counts = text[offsets[i] : offsets[i + 1]]
        runs = np.empty(counts.size, np.int64)
        problem, count, _ = parse_counts(counts, heights[i] * widths[i], runs)
        problems[i] = problem
        if problem == OK:
            areas[i] = runs[1:count:2].sum()
            box = _box(runs[:count], heights[i])
            for k in range(4):
                boxes[i, k] = box[k]
