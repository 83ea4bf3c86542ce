"""The Parquet tables under `<root>/manifests/<table>/`, one part per unit of work.

A table is a directory that pandas, DuckDB or Polars can read directly. Every part stores the
schema version in its metadata. `predictions` and `scores` have schemas too, but are stored with
their run, as `<root>/runs/<run>/<table>.parquet`.

Units and orders: frame_idx is 0-based, in presentation order of the frame-aligned video. Heights
and widths are in pixels. `rle_counts` is COCO's compressed string, column-major, of a mask of
rle_height x rle_width pixels. `area` and `bbox_xywh` (x_min, y_min, x_max - x_min, y_max - y_min,
no +1) are in the same pixels.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, atomic_path

SCHEMA_VERSION = "1"
TABLE_VERSIONS: Mapping[str, str] = {"frames": "2"}
"""Table → its version, where that is not SCHEMA_VERSION. frames 2 has the column `digest`."""
_VERSION_KEY = b"egoexo_tools.schema_version"

_BOX = pa.list_(pa.float32(), 4)
_RLE = [("rle_height", pa.int32()), ("rle_width", pa.int32()), ("rle_counts", pa.string())]
_FRAME_KEY = [("take_uid", pa.string()), ("camera", pa.string()), ("frame_idx", pa.int32())]

SCHEMAS: Mapping[str, pa.Schema] = {
    "takes": pa.schema(
        [
            ("take_uid", pa.string()),
            ("take_name", pa.string()),
            ("scenario", pa.string()),
            ("university", pa.string()),
            ("split", pa.string()),
            ("ego_camera", pa.string()),
            ("exo_cameras", pa.list_(pa.string())),
            ("duration_seconds", pa.float64()),
            ("frames_annotated", pa.int32()),
        ]
    ),
    "frames": pa.schema(
        [
            *_FRAME_KEY,
            ("view", pa.string()),
            ("path", pa.string()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("source_height", pa.int32()),
            ("source_width", pa.int32()),
            ("digest", pa.string()),
        ]
    ),
    "masks": pa.schema(
        [
            ("take_uid", pa.string()),
            ("object_name", pa.string()),
            ("camera", pa.string()),
            ("frame_idx", pa.int32()),
            ("view", pa.string()),
            ("visible", pa.bool_()),
            *_RLE,
            ("area", pa.int64()),
            ("bbox_xywh", _BOX),
        ]
    ),
    "pairs": pa.schema(
        [
            ("pair_id", pa.string()),
            ("split", pa.string()),
            ("direction", pa.string()),
            ("take_uid", pa.string()),
            ("object_name", pa.string()),
            ("frame_idx", pa.int32()),
            ("source_camera", pa.string()),
            ("dest_camera", pa.string()),
            ("dest_state", pa.string()),
        ]
    ),
    "proposals": pa.schema(
        [
            *_FRAME_KEY,
            ("proposal_idx", pa.int32()),
            ("proposer", pa.string()),
            ("score", pa.float32()),
            *_RLE,
            ("area", pa.int64()),
            ("bbox_xywh", _BOX),
        ]
    ),
    "predictions": pa.schema(
        [
            ("pair_id", pa.string()),
            ("proposal_idx", pa.int32()),
            ("similarity", pa.float32()),
            ("confidence", pa.float32()),
            *_RLE,
            ("top_proposal_idxs", pa.list_(pa.int32())),
        ]
    ),
    "scores": pa.schema(
        [
            ("pair_id", pa.string()),
            ("take_uid", pa.string()),
            ("scenario", pa.string()),
            ("object_name", pa.string()),
            ("source_camera", pa.string()),
            ("dest_camera", pa.string()),
            ("frame_idx", pa.int32()),
            ("iou", pa.float64()),
            ("contour_accuracy", pa.float64()),
            ("location_error", pa.float64()),
            ("visible", pa.bool_()),
            ("predicted_visible", pa.bool_()),
            ("confidence", pa.float64()),
            ("oracle_iou", pa.float64()),
            ("oracle_proposal_idx", pa.int32()),
            ("top5_iou", pa.float64()),
            ("consistency", pa.float64()),
            ("truth_consistency", pa.float64()),
            ("truth_area", pa.int64()),
            ("predicted_area", pa.int64()),
            ("scored_height", pa.int32()),
            ("scored_width", pa.int32()),
        ]
    ),
    "exclusions": pa.schema(
        [
            ("stage", pa.string()),
            ("take_uid", pa.string()),
            ("camera", pa.string()),
            ("object_name", pa.string()),
            ("frame_idx", pa.int32()),
            ("reason", pa.string()),
        ]
    ),
}
"""Table name → its columns, in order. docs/data-layout.md is generated from this."""

KEYS: Mapping[str, tuple[str, ...]] = {
    "takes": ("take_uid",),
    "frames": ("take_uid", "camera", "frame_idx"),
    "masks": ("take_uid", "object_name", "camera", "frame_idx"),
    "pairs": ("pair_id",),
    "proposals": ("take_uid", "camera", "frame_idx", "proposal_idx"),
    "predictions": ("pair_id",),
    "scores": ("pair_id",),
    "exclusions": (),
}
"""Table name → the columns that identify a row."""

TABLE_DOCS: Mapping[str, str] = {
    "takes": "The takes of the root. One part per take, written by `ingest`.",
    "frames": "The frames extracted from the videos. One part per take and camera, written by "
    "`frames`.",
    "masks": "One row per annotated frame of an object and camera: visible with its mask, or "
    "checked and absent. A frame without a row was not annotated. One part per take, written by "
    "`ingest`.",
    "pairs": "The correspondences to predict: an object's mask in the source view, and the "
    "destination view. One part per split and direction, written by `pairs`.",
    "proposals": "Candidate masks. One part per take and camera, written by `propose`.",
    "predictions": "A run's prediction for every pair, at `runs/<run>/predictions.parquet`.",
    "scores": "A run's scores for every pair, at `runs/<run>/scores.parquet`.",
    "exclusions": "Everything that was left out, with the reason. One part per stage and unit.",
}

COLUMN_DOCS: Mapping[str, str] = {
    "area": "pixels of the mask, at its rle size",
    "bbox_xywh": "x_min, y_min, x_max - x_min, y_max - y_min in pixels of the rle size (no +1)",
    "camera": "for example `aria01_214-1` (ego) or `cam01` (exo)",
    "confidence": "that the object is visible in the destination, 0 to 1; visible if above 0.5",
    "consistency": "IoU of the predicted mask with that of the preceding sample of the track",
    "contour_accuracy": "boundary F-measure, 0 to 1",
    "dest_camera": "camera of the destination view",
    "dest_state": "`visible`, `absent` (checked and not visible) or `unannotated`",
    "digest": "16 hex digits of the image file's SHA-256; null if unknown",
    "direction": "`ego2exo` or `exo2ego`",
    "duration_seconds": "length of the take",
    "ego_camera": "the take's ego camera that the relations annotate",
    "exo_cameras": "the take's exo cameras that the relations annotate",
    "frame_idx": "0-based, in presentation order, in the frame-aligned video",
    "frames_annotated": "number of distinct annotated frame indices of the take",
    "height": "of the extracted frame, in pixels",
    "iou": "intersection over union, 0 to 1",
    "location_error": "distance of the box centres, as a share of the image diagonal",
    "object_name": "as spelled in the annotation; may contain spaces, Unicode and `/`",
    "oracle_iou": "IoU of the best proposal",
    "oracle_proposal_idx": "the best proposal's proposal_idx",
    "pair_id": "`<take_uid>/<source_camera>><dest_camera>/<frame_idx>/<object_name>`",
    "path": "of the image, relative to the root",
    "predicted_area": "pixels of the predicted mask at scoring size",
    "predicted_visible": "confidence above 0.5",
    "proposal_idx": "0-based among the frame's proposals; null if a mask is not a proposal",
    "proposer": "name of the proposer, for example `fastsam`, `regions` or `oracle`",
    "reason": "why it was left out, in words",
    "rle_counts": "COCO compressed run lengths, column-major; null without a mask",
    "rle_height": "pixels",
    "rle_width": "pixels",
    "scenario": "parent task of the take",
    "score": "given by the proposer; higher is better",
    "scored_height": "of the masks when they were compared, in pixels",
    "scored_width": "of the masks when they were compared, in pixels",
    "similarity": "cosine similarity of source and predicted candidate, -1 to 1; null without one",
    "source_camera": "camera of the source view",
    "source_height": "of the video's frame, in pixels",
    "source_width": "of the video's frame, in pixels",
    "split": "`train`, `val` or `test`",
    "stage": "the stage that left it out",
    "take_name": "folder of the take in the release",
    "take_uid": "UUID of the take",
    "top5_iou": "IoU of the best among the five candidates that the run ranks highest",
    "top_proposal_idxs": "candidates that the run ranks highest, best first; null if not stored",
    "truth_area": "pixels of the true mask at scoring size",
    "truth_consistency": "IoU of the true mask with that of the preceding sample of the track",
    "university": "that recorded the take",
    "view": "`ego` or `exo`",
    "visible": "whether the object is visible",
    "width": "of the extracted frame, in pixels",
}
"""Column name → its content; a name has the same meaning in every table."""

Rows: TypeAlias = Any
"""A pyarrow table, a DataFrame, a list of row dicts, or a dict of columns."""


def to_table(table: str, rows: Rows, *, schema: pa.Schema | None = None) -> pa.Table:
    """Rows in any form of Rows → a table with exactly the schema of `table`.

    `schema` replaces the default schema, for tables with additional columns. Columns that a row
    lacks become null; a column that the schema lacks raises DataError.
    """
    schema = schema or _schema(table)
    if isinstance(rows, pa.Table):
        columns: dict[str, Any] = {name: rows.column(name) for name in rows.column_names}
        count = rows.num_rows
    elif isinstance(rows, pd.DataFrame):
        columns = {str(name): pa.Array.from_pandas(rows[name]) for name in rows.columns}
        count = len(rows)
    elif isinstance(rows, Mapping):
        columns = dict(rows)
        count = len(next(iter(rows.values()), ()))
    else:
        names = {name: None for row in rows for name in row}
        columns = {name: [row.get(name) for row in rows] for name in names}
        count = len(rows)
    if unknown := sorted(set(columns) - set(schema.names)):
        raise DataError(f"table {table} has no column {', '.join(unknown)}; see SCHEMAS")
    arrays = []
    for field in schema:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(count, field.type))
        elif isinstance(values, pa.Array | pa.ChunkedArray):
            arrays.append(values.cast(field.type))
        else:
            arrays.append(pa.array(values, field.type, from_pandas=True))
    return pa.table(arrays, schema=schema)


def write_table(
    path: Path,
    table: str,
    rows: Rows,
    *,
    metadata: Mapping[str, str] | None = None,
    schema: pa.Schema | None = None,
) -> int:
    """Write one Parquet file with the schema of `table`; returns the number of rows."""
    data = to_table(table, rows, schema=schema)
    extra = {key.encode(): value.encode() for key, value in (metadata or {}).items()}
    version = TABLE_VERSIONS.get(table, SCHEMA_VERSION)
    data = data.replace_schema_metadata({**extra, _VERSION_KEY: version.encode()})
    with atomic_path(path) as partial:
        pq.write_table(data, partial, compression="zstd")
    return int(data.num_rows)


def write_manifest(root: DatasetRoot, table: str, unit: str, rows: Rows) -> int:
    """Write the part of one unit of work; returns the number of rows."""
    return write_table(root.part(table, unit), table, rows)


def write_exclusions(
    root: DatasetRoot, stage: str, unit: str, rows: Sequence[Mapping[str, Any]]
) -> int:
    """Write what a unit left out and why; without rows, delete the part of an earlier run."""
    part_name = f"{stage}.{unit}"
    if not rows:
        root.part("exclusions", part_name).unlink(missing_ok=True)
        return 0
    # Names from old zip files contain bytes that are not valid UTF-8, which Parquet rejects.
    encodable = [
        {
            name: value.encode(errors="backslashreplace").decode()
            if isinstance(value, str)
            else value
            for name, value in {"stage": stage, **row}.items()
        }
        for row in rows
    ]
    return write_manifest(root, "exclusions", part_name, encodable)


def read_manifest(
    root: DatasetRoot,
    table: str,
    *,
    columns: Sequence[str] | None = None,
    filters: ds.Expression | None = None,
    units: Iterable[str] | None = None,
) -> pa.Table:
    """A table, or some of its columns, rows or parts; parts in name order.

    Raises DataError if the table is missing (naming the command that writes it) or a part has
    another schema version.
    """
    names = None if units is None else sorted(units)
    paths = (
        sorted(root.table(table).glob("*.parquet"))
        if names is None
        else [root.part(table, name) for name in names]
    )
    if not paths and table == "exclusions":
        return _schema(table).empty_table()
    if not paths:
        raise DataError(f"{root.path} has no {table} manifest; {_MADE_BY[table]}")
    return read_tables(paths, table, columns=columns, filters=filters)


def read_tables(
    paths: Sequence[Path],
    table: str,
    *,
    columns: Sequence[str] | None = None,
    filters: ds.Expression | None = None,
    schema: pa.Schema | None = None,
) -> pa.Table:
    """A table from named Parquet files; otherwise as `read_manifest`."""
    for path in paths:
        _check_part(path, table)
    schema = schema or _schema(table)
    names = None if columns is None else list(columns)
    dataset = ds.dataset([str(path) for path in paths], schema=schema, format="parquet")
    try:
        return dataset.to_table(columns=names, filter=filters)
    except pa.ArrowInvalid as error:
        if "Expected all lists to be of size" not in str(error):
            raise
        return _without_arrow_types(paths, schema).to_table(columns=names, filter=filters)


def _without_arrow_types(paths: Sequence[Path], schema: pa.Schema) -> ds.Dataset:
    """The files as plain Parquet, without their embedded Arrow schema.

    pyarrow 25.0 cannot read a null box if the Arrow schema in the footer says that a list has four
    items (25.0.1: "Expected all lists to be of size=4 but index 1 had size=0"). If that footer
    entry has another name of the same length, pyarrow reads variable lists, and casting them to
    our schema gives the boxes.
    """
    file_format = ds.ParquetFileFormat()
    fragments = []
    for path in paths:
        data = path.read_bytes()
        footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        plain = data[:footer] + data[footer:].replace(b"ARROW:schema", b"ARROW_schema")
        fragments.append(file_format.make_fragment(pa.BufferReader(plain)))
    return ds.FileSystemDataset(fragments, schema, file_format)


_MADE_BY = {
    "takes": "run `egoexo-tools ingest` first",
    "masks": "run `egoexo-tools ingest` first",
    "frames": "run `egoexo-tools frames` first",
    "pairs": "run `egoexo-tools pairs` first",
    "proposals": "run `egoexo-tools propose` first",
    "predictions": "run `omama predict` first",
    "scores": "run `egoexo-tools evaluate` first",
    "exclusions": "",
}


def _schema(table: str) -> pa.Schema:
    if table not in SCHEMAS:
        raise DataError(f"{table!r} is not a table; use one of {', '.join(SCHEMAS)}")
    return SCHEMAS[table]


def _check_part(path: Path, table: str) -> None:
    try:
        metadata = pq.read_schema(path).metadata or {}
    except FileNotFoundError:
        raise DataError(f"{path} is missing; {_MADE_BY[table]}") from None
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{path} is not a readable Parquet file ({error}); delete it and run its stage again"
        ) from error
    version = metadata.get(_VERSION_KEY, b"none").decode()
    expected = TABLE_VERSIONS.get(table, SCHEMA_VERSION)
    if version != expected:
        command = _MADE_BY[table].removesuffix(" first") or "run its stage"
        raise DataError(
            f"{path} has schema version {version}, this program reads {expected}; {command} (in an "
            "imported root, `egoexo-tools import`) again with --overwrite"
        )
