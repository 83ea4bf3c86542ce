"""Masks as COCO run lengths: encode, decode (also directly to another size), area, box, IoU.

An rle is `(height, width, counts)`. The mask is read column by column. `counts` holds the length
of each run, background first, as COCO's compressed text: base-32 digits starting at "0", least
significant first, and from the fourth run on as the difference to the run two positions before.
The hot loops (rle_loops.py) work on runs; only `decode` creates a full-size image.

Masks from files are untrusted. Every function that reads `counts` checks that the text is well
formed and that the runs add up to height x width, and raises DataError otherwise.
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
    MAX_RUN_CHARACTERS,
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
        """The rle of an (H, W) array; nonzero is foreground."""
        if mask.ndim != 2 or not mask.size:
            raise DataError(f"a mask must be (height, width), not of shape {mask.shape}")
        height, width = mask.shape
        foreground = mask if mask.dtype == np.bool_ else mask != 0
        columns = _transposed(foreground.view(np.uint8)).reshape(-1)  # (W * H,)
        changes = np.flatnonzero(columns[1:] != columns[:-1]) + 1
        start = [0, 0] if columns[0] else [0]  # the first run is background, possibly of length 0
        runs = np.diff(np.concatenate([np.array(start), changes, np.array([columns.size])]))
        return cls(height, width, runs_to_counts(runs))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "MaskRle":
        """From `{"size": [height, width], "counts": ...}`; counts may be text, bytes or runs."""
        try:
            height, width = (int(side) for side in value["size"])
            counts = value["counts"]
            if isinstance(counts, list):
                counts = runs_to_counts(np.asarray(counts, np.int64))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError("a mask in JSON must have size [height, width] and counts") from error
        if isinstance(counts, bytes):
            counts = counts.decode("latin-1")
        if not isinstance(counts, str):
            raise DataError(f"mask counts must be text, not {type(counts).__name__}")
        return cls(height, width, counts)

    def to_json(self) -> dict[str, Any]:
        return {"size": [self.height, self.width], "counts": self.counts}

    def runs(self) -> Int64:
        """Run lengths in pixels, background first; DataError for invalid counts."""
        return counts_to_runs(self.counts, self.height, self.width)

    def validate(self) -> "MaskRle":
        """Return self if the counts are well formed and fill the size; otherwise DataError."""
        self.runs()
        return self

    def area(self) -> int:
        """Number of foreground pixels."""
        return int(self.runs()[1::2].sum())

    def box_xywh(self) -> tuple[int, int, int, int]:
        """x_min, y_min, x_max - x_min, y_max - y_min (no +1); zeros for an empty mask."""
        x, y, w, h = runs_box(self.runs(), self.height)
        return int(x), int(y), int(w), int(h)

    def iou(self, other: "MaskRle") -> float:
        """|A and B| / |A or B|, or 1.0 if both are empty; DataError for different sizes."""
        if (self.height, self.width) != (other.height, other.width):
            raise DataError(
                f"masks of {self.height}x{self.width} and {other.height}x{other.width} pixels "
                "have no IoU; resize one of them with decode_at"
            )
        intersection, union = runs_overlap(self.runs(), other.runs())
        return float(intersection / union) if union else 1.0

    def decode(self) -> Bool:
        """The mask, (height, width) bool."""
        runs = self.runs()
        values = (np.arange(runs.size) & 1).astype(np.uint8)  # background, foreground, ...
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
        """mask[rows][:, cols] without decoding; indices may be in any order and repeat."""
        row_idxs = _checked_idxs(rows, self.height)
        col_idxs = _checked_idxs(cols, self.width)
        return sample_runs(np.cumsum(self.runs()), self.height, row_idxs, col_idxs).view(np.bool_)


def counts_to_runs(counts: str, height: int, width: int) -> Int64:
    """COCO counts → run lengths in pixels; DataError if they do not add up to height x width."""
    try:
        text = np.frombuffer(counts.encode("ascii"), np.uint8)
    except UnicodeEncodeError:
        raise DataError(f"{PROBLEMS[BAD_TEXT]}: {shorten(counts)}") from None
    runs = np.empty(text.size, np.int64)  # a run has at least one character
    problem, count, total = parse_counts(text, height * width, runs)
    if problem != OK:
        detail = f" ({total} for {height}x{width})" if problem == WRONG_TOTAL else ""
        raise DataError(f"{PROBLEMS[problem]}{detail}: {shorten(counts)}")
    return runs[:count]


def runs_to_counts(runs: NDArray[Any]) -> str:
    """Run lengths in pixels (background first, none negative) → COCO counts."""
    lengths = np.ascontiguousarray(runs, np.int64)
    if lengths.size and not (lengths.min() >= 0 and lengths.max() <= MAX_SIDE**2):
        raise DataError(f"run lengths {lengths.min()} to {lengths.max()} cannot be of a mask")
    buffer = np.empty(lengths.size * MAX_RUN_CHARACTERS, np.uint8)
    return buffer[: format_counts(lengths, buffer)].tobytes().decode("ascii")


def _transposed(array: Bytes) -> Bytes:
    """A contiguous transpose; OpenCV's is several times faster than numpy's on 4K images."""
    import cv2

    transposed = cv2.transpose(np.ascontiguousarray(array))
    return np.asarray(transposed, np.uint8).reshape(array.shape[::-1])


def _checked_idxs(idxs: Idxs, size: int) -> Int64:
    checked: Int64 = np.ascontiguousarray(idxs, np.int64)
    if checked.size and (checked.min() < 0 or checked.max() >= size):
        raise DataError(f"sample indices must be in 0..{size - 1}")
    return checked


def shorten(text: str) -> str:
    """Text as shown in an error message: quoted, at most its first 40 characters."""
    return repr(text if len(text) <= 40 else text[:40] + "...")
