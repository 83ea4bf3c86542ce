"""Tables as Arrow IPC files of one record batch, written piece by piece and mapped as a whole.

Training needs a column of all masks, several gigabytes, as one contiguous array. The pieces of a
column are therefore appended to a file of their own; these files are mapped and become the buffers
of the record batch that is written. RAM never holds more than one piece.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from egoexo_tools.arrays import Bytes, Int64
from egoexo_tools.masks.columns import MaskColumns, text_buffers
from omama.dataset import MasksByFrame

_BOX = pa.list_(pa.float32(), 4)


class _ValueColumn:
    """The values of a column, appended to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self.bytes = 0

    def add(self, values: NDArray[Any]) -> None:
        if values.size:  # an empty array has no buffer to cast
            self._file.write(np.ascontiguousarray(values).data.cast("B"))
            self.bytes += values.nbytes

    def buffer(self) -> pa.Buffer:
        """All values, mapped; the file may be deleted afterwards."""
        self._file.close()
        if not self.bytes:
            return pa.py_buffer(b"")  # an empty file cannot be mapped
        return pa.memory_map(str(self._path)).read_buffer()

    def close(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class _TextColumn:
    """The texts of a column: their bytes, and the offset of each."""

    def __init__(self, path: Path) -> None:
        self._text = _ValueColumn(path.with_name(f"{path.name}.text"))
        self._offsets = _ValueColumn(path.with_name(f"{path.name}.offsets"))
        self._offsets.add(np.zeros(1, np.int64))

    def add(self, text: Bytes, offsets: Int64) -> None:
        first, last = int(offsets[0]), int(offsets[-1])
        # A slice's offsets start anywhere; here they follow the bytes that are written already.
        self._offsets.add(offsets[1:] - first + self._text.bytes)
        self._text.add(text[first:last])

    def array(self, rows: int) -> pa.LargeStringArray:
        buffers = self._offsets.buffer(), self._text.buffer()
        return pa.LargeStringArray.from_buffers(rows, *buffers)

    def close(self) -> None:
        self._text.close()
        self._offsets.close()


class MaskWriter:
    """Writes masks into one file: `add` them in order, then `write`."""

    def __init__(self, path: Path, *, named: bool) -> None:
        self._path = path
        self._rows = 0
        self._heights, self._widths, self._boxes = (
            _ValueColumn(path.with_suffix(f".{name}")) for name in ("heights", "widths", "boxes")
        )
        self._counts = _TextColumn(path.with_suffix(".counts"))
        self._names = _TextColumn(path.with_suffix(".names")) if named else None

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
            assert masks.labels is not None  # ground-truth masks have names
            self._names.add(*text_buffers(masks.labels))
        self._rows += len(columns)

    def write(self) -> None:
        """Write all rows as one record batch."""
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

    def _numbers(self, values: _ValueColumn) -> pa.Array:
        return pa.Array.from_buffers(pa.int64(), self._rows, [None, values.buffer()])


def write_batch(
    path: Path, arrays: Mapping[str, pa.Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write columns as an IPC file of one batch, without a copy of them in RAM."""
    batch = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    schema = batch.schema.with_metadata(dict(metadata or {}))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(dict(metadata or {})))


def map_batch(path: Path) -> pa.RecordBatch:
    """The batch of such a file, mapped. Raises OSError or pa.ArrowInvalid."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def map_masks(path: Path, start: Int64) -> MasksByFrame:
    """The masks of a MaskWriter's file, mapped; `start` as in MasksByFrame."""
    batch = map_batch(path)
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
