"""Write a method's predictions: as a run (predictions.parquet with a stamp, predictions.json), or
as one file outside the root."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.evaluation.predictions import write_predictions
from egoexo_tools.layout import DatasetRoot, atomic_path
from egoexo_tools.manifests import SCHEMAS, to_table, write_table
from egoexo_tools.runs import RunFolder, Stamp, digest_file, digest_texts, read_versions
from egoexo_tools.vocab import Direction, Split
from omama import methods


def predict_run(
    method: str,
    root: DatasetRoot,
    direction: Direction,
    split: Split,
    run: RunFolder,
    *,
    checkpoint: Path | None = None,
    options: Any = None,
) -> Path:
    """Predict a split by a method's name and write the run; returns its predictions.json.

    SettingsError if the run has predictions of another split.
    """
    _require_same_split(run, split)
    options = methods.resolve_options(method, root, direction, checkpoint, options)
    tables = methods.predict(method, root, direction, split, checkpoint, options=options)
    stamp = methods.make_stamp(method, options)
    metadata = {"checkpoint": str(checkpoint or ""), "split": str(split)}
    return write_run(run, tables, stamp, direction=direction, metadata=metadata)


def predict_runs(
    method: str,
    root: DatasetRoot,
    split: Split,
    runs: Mapping[Direction, RunFolder],
    *,
    checkpoint: Path | None = None,
    options: Any = None,
) -> list[Path]:
    """`predict_run` of several directions with one checkpoint, together if the method can."""
    if methods.get_method(method).predict_together is None:
        return [
            predict_run(method, root, direction, split, run, checkpoint=checkpoint, options=options)
            for direction, run in runs.items()
        ]
    for run in runs.values():
        _require_same_split(run, split)
    # The directions alternate from take to take, so all tables are collected first.
    tables: dict[Direction, list[pa.Table]] = {direction: [] for direction in runs}
    for direction, table in methods.predict_together(
        method, root, tuple(runs), split, checkpoint, options=options
    ):
        tables[direction].append(table)
    stamp = methods.make_stamp(method, options)
    metadata = {"checkpoint": str(checkpoint or ""), "split": str(split)}
    return [
        write_run(run, tables[direction], stamp, direction=direction, metadata=metadata)
        for direction, run in runs.items()
    ]


def write_run(
    run: RunFolder,
    tables: Iterable[pa.Table],
    stamp: Stamp,
    *,
    direction: Direction,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write tables of the `predictions` schema as a run; returns its predictions.json.

    Rows are sorted by pair_id. `metadata` and that of the tables, such as the size of the masks, is
    stored with the stamp. Both files are replaced only when both are complete. Raises DataError,
    and writes nothing, for a duplicate pair and for a pair without mask or confidence.
    """
    parts, metadata = [SCHEMAS["predictions"].empty_table()], dict(metadata or {})
    for table in tables:
        metadata |= {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        parts.append(to_table("predictions", table.replace_schema_metadata(None)))
    # Methods yield pairs in different orders; a sorted table makes equal predictions equal files.
    predictions = pa.concat_tables(parts).combine_chunks().sort_by("pair_id")
    _check(predictions, stamp)
    metadata["pairs"] = digest_texts(predictions.column("pair_id").to_pylist())
    if stamp.chooses_proposals:
        metadata["pairs_without_proposals"] = str(predictions.column("proposal_idx").null_count)
    metadata = {"run": run.name, "direction": str(direction), **metadata, **stamp.to_metadata()}
    # Evaluation reads one of the files and hashes the other: they must belong together.
    with ExitStack() as files:
        table_path, json_path = (
            files.enter_context(atomic_path(path))
            for path in (run.predictions, run.predictions_json)
        )
        write_predictions(json_path, predictions, direction=direction)
        metadata["export"] = digest_file(json_path)
        write_table(table_path, "predictions", predictions, metadata=metadata)
    return run.predictions_json


def _require_same_split(run: RunFolder, split: Split) -> None:
    split_there = read_versions(run).get(run.predictions.name, {}).get("split", str(split))
    if split_there != split:
        raise SettingsError(
            f"{run.path} has predictions of split {split_there}; predict {split} into a run of "
            f"another name, such as --run-name {run.name}-{split}"
        )


def _check(predictions: pa.Table, stamp: Stamp) -> None:
    for name in ("pair_id", "confidence", "rle_height", "rle_width", "rle_counts"):
        if missing := predictions.column(name).null_count:
            raise DataError(
                f"{stamp.method} left {name} empty in {missing:,} of {predictions.num_rows:,} "
                "predictions; give a pair without an object an empty mask and confidence 0"
            )
    counts = pc.value_counts(predictions.column("pair_id").combine_chunks())
    duplicates = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(duplicates):
        raise DataError(
            f"{stamp.method} predicted {len(duplicates):,} pairs more than once, such as "
            f"{duplicates[0].as_py()!r}; yield each pair in one table"
        )
