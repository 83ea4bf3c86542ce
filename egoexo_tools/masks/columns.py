"""Many masks as columns: sizes, and all counts in one text, for the compiled loops.

The layout is that of an Arrow string column. Reading a manifest, slicing and passing masks on
therefore copy no counts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from egoexo_tools.arrays import Bytes, Float32, Int64
from egoexo_tools.errors import DataError
from egoexo_tools.masks import rle_loops
from egoexo_tools.masks.resizing import Size
from egoexo_tools.masks.rle import MaskRle, shorten
from egoexo_tools.masks.rle_loops import PROBLEMS

RLE_COLUMNS = ("rle_height", "rle_width", "rle_counts")
"""Height, width and counts of a mask in a manifest."""
_SIZE_BASE = 1 << 32
"""Larger than any width, since manifests store sizes in 32 bits."""


@dataclass(frozen=True, eq=False)
class MaskColumns:
    """n masks. A row with height 0 and without counts means that there is no mask.

    The counts are not checked here. `measure` reports damaged counts, and the loops that draw
    masks return a problem code for each.
    """

    heights: Int64
    """(n,) in pixels."""
    widths: Int64
    """(n,) in pixels."""
    text: Bytes
    """The counts of mask i are text[offsets[i] : offsets[i + 1]]."""
    offsets: Int64
    """(n + 1,); the first need not be 0."""
    boxes: Float32 | None = None
    """(n, 4) xywh in pixels of each mask's own size, if the table has them."""

    def __post_init__(self) -> None:
        # Numba compiles a loop for each combination of writable and read-only arrays. Arrow's
        # buffers are read-only, so we make every column read-only and compile once.
        for name in ("heights", "widths", "text", "offsets"):
            column = np.ascontiguousarray(getattr(self, name)).view()
            column.flags.writeable = False
            object.__setattr__(self, name, column)

    @classmethod
    def from_rles(cls, rles: Sequence[MaskRle | None]) -> "MaskColumns":
        """The masks of a list; None means no mask."""
        # surrogatepass: text that is not ASCII must reach the loops, which report it as damaged.
        texts = [
            b"" if rle is None else rle.counts.encode("utf-8", "surrogatepass") for rle in rles
        ]
        sizes = [(0, 0) if rle is None else (rle.height, rle.width) for rle in rles]
        heights, widths = np.array(sizes, np.int64).reshape(-1, 2).T
        offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        return cls(heights, widths, np.frombuffer(b"".join(texts), np.uint8), offsets)

    @classmethod
    def from_table(cls, table: pa.Table) -> "MaskColumns":
        """From the columns rle_height, rle_width, rle_counts and, if present, bbox_xywh.

        A null means no mask. The counts are copied only if the table has several chunks.
        """
        heights, widths = (
            np.asarray(pc.fill_null(table[name], 0).to_numpy(), np.int64)
            for name in RLE_COLUMNS[:2]
        )
        boxes = None
        if "bbox_xywh" in table.column_names:
            flat = table["bbox_xywh"].combine_chunks().flatten()  # (4 n,)
            boxes = flat.to_numpy(zero_copy_only=False).reshape(-1, 4).astype(np.float32)
        text, offsets = text_buffers(table["rle_counts"])
        return cls(heights, widths, text, offsets, boxes)

    def __len__(self) -> int:
        return int(self.heights.size)

    @property
    def counts(self) -> pa.LargeStringArray:
        """(n,) texts; shares memory with this object."""
        buffers = pa.py_buffer(self.offsets), pa.py_buffer(self.text)
        return pa.LargeStringArray.from_buffers(len(self), *buffers)

    def rle(self, row: int) -> MaskRle:
        """The mask of one row; DataError for a row without a mask."""
        text = self.text[self.offsets[row] : self.offsets[row + 1]].tobytes()
        counts = text.decode("utf-8", "surrogatepass")
        return MaskRle(int(self.heights[row]), int(self.widths[row]), counts)

    def rles(self) -> list[MaskRle]:
        return [self.rle(row) for row in range(len(self))]

    def slice(self, start: int, stop: int) -> "MaskColumns":
        """Rows start..stop - 1; shares memory with this object."""
        return MaskColumns(
            heights=self.heights[start:stop],
            widths=self.widths[start:stop],
            text=self.text,
            offsets=self.offsets[start : stop + 1],
            boxes=None if self.boxes is None else self.boxes[start:stop],
        )

    def take(self, rows: NDArray[Any]) -> "MaskColumns":
        """Rows by index, in any order; copies their counts."""
        text, offsets = text_buffers(self.counts.take(pa.array(rows)))
        return MaskColumns(
            heights=self.heights[rows],
            widths=self.widths[rows],
            text=text,
            offsets=offsets,
            boxes=None if self.boxes is None else self.boxes[rows],
        )

    def rows_by_size(self) -> Iterator[tuple[Size, Int64]]:
        """Each size that occurs, ascending, with the rows (k,) of that size."""
        # One number per size, because np.unique is much faster on numbers than on pairs.
        sizes = self.heights * _SIZE_BASE + self.widths
        for size in np.unique(sizes).tolist():
            yield divmod(size, _SIZE_BASE), np.flatnonzero(sizes == size)

    def common_size(self, default: Size) -> Size:
        """The size of all masks; `default` if there are no masks, DataError for different sizes."""
        sizes = [size for size, _ in self.rows_by_size() if size[0]]
        if len(sizes) > 1:
            raise DataError(
                f"masks of {' and '.join(f'{h}x{w}' for h, w in sizes)} pixels "
                "cannot be used together; resize them to one size first"
            )
        return sizes[0] if sizes else default

    def measure(self) -> tuple[Int64, Float32, Bytes]:
        """Check and measure all masks in one call.

        Returns areas (n,) in pixels, boxes (n, 4) xywh like `MaskRle.box_xywh`, and problems
        (n,), codes of egoexo_tools.masks.rle_loops. The area and box of a mask with a problem
        are 0.
        """
        areas = np.zeros(len(self), np.int64)
        boxes = np.zeros((len(self), 4), np.float32)
        problems = np.zeros(len(self), np.uint8)
        rle_loops.measure(
            self.text, self.offsets, self.heights, self.widths, areas, boxes, problems
        )
        return areas, boxes, problems

    def resize(self, rows: Int64, heights: Int64, widths: Int64) -> "MaskColumns":
        """Rows (m,) of the masks, each resized to its own size (m,) like `MaskRle.decode_at`.

        Row -1 gives an empty mask. A mask that already has the requested size keeps its counts
        unchecked; DataError for damaged counts of any other mask.
        """
        which = np.ascontiguousarray(rows, np.int64)
        dest = np.ascontiguousarray(heights, np.int64), np.ascontiguousarray(widths, np.int64)
        offsets = np.zeros(which.size + 1, np.int64)
        problems = np.zeros(which.size, np.uint8)
        source = self.heights, self.widths
        text = rle_loops.resize(self.text, self.offsets, source, which, dest, offsets, problems)
        if problems.any():
            damaged = int(np.flatnonzero(problems)[0])
            counts = self.rle(int(which[damaged])).counts
            raise DataError(f"{PROBLEMS[problems[damaged]]}: {shorten(counts)}")
        return MaskColumns(*dest, text, offsets)


def mask_to_row(rle: MaskRle) -> dict[str, Any]:
    """A mask as the fields RLE_COLUMNS of a manifest row; the inverse of `mask_from_row`."""
    return dict(zip(RLE_COLUMNS, (rle.height, rle.width, rle.counts), strict=True))


def mask_from_row(row: Mapping[str, Any]) -> MaskRle:
    """The mask of one row of a manifest, given as a dict or a pandas row."""
    height, width, counts = (row[name] for name in RLE_COLUMNS)
    # In pandas a column with nulls is float, and masks of absent objects are null.
    return MaskRle(int(height), int(width), counts)


def text_buffers(texts: pa.Array | pa.ChunkedArray) -> tuple[Bytes, Int64]:
    """All texts concatenated, and the n + 1 offsets where they start and end."""
    texts = pc.cast(texts, pa.large_string())
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if texts.null_count:
        texts = texts.fill_null("")
    _, offsets, text = texts.buffers()
    if offsets is None:
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    starts = np.frombuffer(offsets, np.int64)[texts.offset :][: len(texts) + 1]
    return np.frombuffer(text or b"", np.uint8), starts
