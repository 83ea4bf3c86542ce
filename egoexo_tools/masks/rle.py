"""Masks as COCO run lengths: encode, decode (also straight to another size), area, box, IoU.

An rle is `(height, width, counts)`: the mask is read column by column, `counts` is the length of
each run, background first, in COCO's compressed text (base 32 digits from "0" on, least
significant first, every run after the third as the difference to the one before the last). The
hot loops (rle_loops.py) work on the runs, so that a full-size image is made only by `decode`.

Masks from files are untrusted: everything that reads `counts` checks that the text is well formed
and that the runs add up to height x width, and raises DataError.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from egoexo_tools.arrays import Bool, Bytes, Int64
from egoexo_tools.errors import DataError
from egoexo_tools.masks.resizing import nearest_idxs
from egoexo_tools.masks.rle_loops import (
    BAD_TEXT,
    MAX_SIDE,
    OK,
    PROBLEMS,
    WRONG_TOTAL,
    format_counts,
    parse_counts,
    runs_box,
    runs_overlap,
    sample_runs,
)

Idxs: TypeAlias = NDArray[Any] | Sequence[int]


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

    def runs(self) -> Int64:
        """Run lengths in pixels, background first; DataError for counts that are not valid."""
        return counts_to_runs(self.counts, self.height, self.width)

    def validate(self) -> "MaskRle":
        """self if the counts are well formed and fill the size; else DataError."""
        self.runs()
        return self

    def area(self) -> int:
        """Foreground pixels."""
        return int(self.runs()[1::2].sum())

    def box_xywh(self) -> tuple[int, int, int, int]:
        """x_min, y_min, x_max - x_min, y_max - y_min (no +1); zeros for an empty mask."""
        x, y, w, h = runs_box(self.runs(), self.height)
        return int(x), int(y), int(w), int(h)

    def iou(self, other: "MaskRle") -> float:
        """|A and B| / |A or B|, 1.0 where both are empty; DataError for different sizes."""
        if (self.height, self.width) != (other.height, other.width):
            raise DataError(
                f"masks of {self.height}x{self.width} and {other.height}x{other.width} pixels "
                "have no IoU; bring them to one size with decode_at"
            )
        intersection, union = runs_overlap(self.runs(), other.runs())
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
        return sample_runs(np.cumsum(self.runs()), self.height, row_idxs, col_idxs).view(np.bool_)


def counts_to_runs(counts: str, height: int, width: int) -> Int64:
    """COCO counts → run lengths in pixels; DataError unless they fill height x width exactly."""
    try:
        text = np.frombuffer(counts.encode("ascii"), np.uint8)
    except UnicodeEncodeError:
        raise DataError(f"{PROBLEMS[BAD_TEXT]}: {shortened(counts)}") from None
    runs = np.empty(text.size, np.int64)
    problem, count, total = parse_counts(text, height * width, runs)
    if problem != OK:
        detail = f" ({total} for {height}x{width})" if problem == WRONG_TOTAL else ""
        raise DataError(f"{PROBLEMS[problem]}{detail}: {shortened(counts)}")
    return runs[:count]


def runs_to_counts(runs: NDArray[Any]) -> str:
    """Run lengths in pixels (background first, none negative) → COCO counts."""
    lengths = np.ascontiguousarray(runs, np.int64)
    if lengths.size and not (lengths.min() >= 0 and lengths.max() <= MAX_SIDE**2):
        raise DataError(f"run lengths {lengths.min()} to {lengths.max()} are not those of a mask")
    # A run has 30 bits at most (MAX_SIDE squared), its difference a sign: seven digits of five.
    buffer = np.empty(lengths.size * 7, np.uint8)
    return buffer[: format_counts(lengths, buffer)].tobytes().decode("ascii")


def _transposed(array: Bytes) -> Bytes:
    """A contiguous transpose; OpenCV's is several times faster than numpy's on 4K images."""
    import cv2

    transposed = cv2.transpose(np.ascontiguousarray(array))
    return np.asarray(transposed, np.uint8).reshape(array.shape[::-1])


def _checked_idxs(idxs: Idxs, size: int) -> Int64:
    checked: Int64 = np.ascontiguousarray(idxs, np.int64)
    if checked.size and (checked.min() < 0 or checked.max() >= size):
        raise DataError(f"sample indices must lie in 0..{size - 1}")
    return checked


def shortened(text: str) -> str:
    """As an error shows a text: quoted, its first 40 characters."""
    return repr(text if len(text) <= 40 else text[:40] + "...")
