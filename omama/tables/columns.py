"""Tables as Arrow IPC files of one record batch, written piece by piece and mapped whole.

Training wants one column of all masks, in one piece, and several gigabytes of it: so the pieces of
a column are appended to a file of their own, and these files, mapped, are the buffers of the one
batch that is written. Memory never holds more than a piece.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from egoexo_tools.arrays import Bytes, Int64
from egoexo_tools.masks.columns import MaskColumns, text_buffers
from omama.tables.records import MasksByFrame

_BOX = pa.list_(pa.float32(), 4)


class _Values:
    """A column's values, or the bytes of its texts, one piece after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self.bytes = 0

    def add(self, values: NDArray[Any]) -> None:
        if values.size:
            self._file.write(np.ascontiguousarray(values).data.cast("B"))
            self.bytes += values.nbytes

    def buffer(self) -> pa.Buffer:
        """All of it, mapped; the file may be deleted then."""
        self._file.close()
        if not self.bytes:
            return pa.py_buffer(b"")
        return pa.memory_map(str(self._path)).read_buffer()

    def close(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class _Texts:
    """A column of texts: their bytes, and where each begins."""

    def __init__(self, path: Path) -> None:
        self._text = _Values(path.with_name(f"{path.name}.text"))
        self._offsets = _Values(path.with_name(f"{path.name}.offsets"))
        self._offsets.add(np.zeros(1, np.int64))

    def add(self, text: Bytes, offsets: Int64) -> None:
        first, last = int(offsets[0]), int(offsets[-1])
        self._offsets.add(offsets[1:] - first + self._text.bytes)
        self._text.add(text[first:last])

    def array(self, rows: int) -> pa.LargeStringArray:
        buffers = self._offsets.buffer(), self._text.buffer()
        return pa.LargeStringArray.from_buffers(rows, *buffers)

    def close(self) -> None:
        self._text.close()
        self._offsets.close()


class MaskFile:
    """Masks on their way into one file: `add` them in order, then `write`."""

    def __init__(self, path: Path, *, named: bool) -> None:
        self._path = path
        self._rows = 0
        self._heights, self._widths, self._boxes = (
            _Values(path.with_suffix(f".{name}")) for name in ("heights", "widths", "boxes")
        )
        self._counts = _Texts(path.with_suffix(".counts"))
        self._names = _Texts(path.with_suffix(".names")) if named else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for column in (self._heights, self._widths, self._boxes, self._counts, self._names):
            if column is not None:
                column.close()

    def add(self, masks: MasksByFrame) -> None:
        columns = masks.columns
        self._heights.add(columns.heights)
        self._widths.add(columns.widths)
        self._boxes.add(masks.boxes)
        self._counts.add(columns.text, columns.offsets)
        if self._names is not None:
            assert masks.labels is not None  # ground truth has names
            self._names.add(*text_buffers(masks.labels))
        self._rows += len(columns)

    def write(self) -> None:
        """All rows as one record batch."""
        boxes = pa.Array.from_buffers(pa.float32(), 4 * self._rows, [None, self._boxes.buffer()])
        arrays = {
            "rle_height": self._numbers(self._heights),
            "rle_width": self._numbers(self._widths),
            "bbox_xywh": pa.FixedSizeListArray.from_arrays(boxes, type=_BOX),
            "rle_counts": self._counts.array(self._rows),
        }
        if self._names is not None:
            arrays["object_name"] = self._names.array(self._rows)
        write_batch(self._path, arrays)

    def _numbers(self, values: _Values) -> pa.Array:
        return pa.Array.from_buffers(pa.int64(), self._rows, [None, values.buffer()])


def write_batch(
    path: Path, arrays: Mapping[str, pa.Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Columns as an IPC file of one batch, without a copy of them in memory."""
    batch = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    schema = batch.schema.with_metadata(dict(metadata or {}))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(dict(metadata or {})))


def map_batch(path: Path) -> pa.RecordBatch:
    """The batch of such a file; its columns are pages of the file. OSError, pa.ArrowInvalid."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def mapped_masks(batch: pa.RecordBatch, start: Int64) -> MasksByFrame:
    """The masks of a mapped file, without a copy; `start` as in MasksByFrame."""
    text, offsets = text_buffers(batch.column("rle_counts"))
    columns = MaskColumns(
        heights=batch.column("rle_height").to_numpy(),
        widths=batch.column("rle_width").to_numpy(),
        text=text,
        offsets=offsets,
        boxes=batch.column("bbox_xywh").flatten().to_numpy().reshape(-1, 4),
    )
    named = "object_name" in batch.schema.names
    return MasksByFrame(start, columns, batch.column("object_name") if named else None)
