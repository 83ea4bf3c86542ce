"""What a method yields, made into a run: predictions.parquet, stamped, and predictions.json."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.predictions import write_predictions
from egoexo_tools.layout import DatasetRoot, atomic_path
from egoexo_tools.manifests import SCHEMAS, to_table, write_table
from egoexo_tools.runs import RunFolder, Stamp
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
    """Predict a split by a method's name and write the run; returns its predictions.json."""
    options = methods.resolve_options(method, root, direction, checkpoint, options)
    tables = methods.predict(method, root, direction, split, checkpoint, options=options)
    stamp = methods.stamp_of(method, options)
    about = {"checkpoint": str(checkpoint or ""), "split": str(split)}
    return write_run(run, tables, stamp, direction=direction, about=about)


def predict_runs(
    method: str,
    root: DatasetRoot,
    split: Split,
    runs: Mapping[Direction, RunFolder],
    *,
    checkpoint: Path | None = None,
    options: Any = None,
) -> list[Path]:
    """The same of several directions by one checkpoint, which some methods do in one go."""
    if methods.method(method).predict_together is None:
        return [
            predict_run(method, root, direction, split, run, checkpoint=checkpoint, options=options)
            for direction, run in runs.items()
        ]
    tables: dict[Direction, list[pa.Table]] = {direction: [] for direction in runs}
    for direction, table in methods.predict_together(
        method, root, tuple(runs), split, checkpoint, options=options
    ):
        tables[direction].append(table)
    stamp = methods.stamp_of(method, options)
    about = {"checkpoint": str(checkpoint or ""), "split": str(split)}
    return [
        write_run(run, tables[direction], stamp, direction=direction, about=about)
        for direction, run in runs.items()
    ]


def write_run(
    run: RunFolder,
    tables: Iterable[pa.Table],
    stamp: Stamp,
    *,
    direction: Direction,
    about: Mapping[str, str] | None = None,
) -> Path:
    """Collect a method's tables (of the `predictions` schema) and write them; returns the JSON.

    Rows are written in the order of pair_id. `about` and the tables' own metadata (what the method
    says of itself, such as the size of its masks) go beside the stamp. Both files take their
    places only when both are whole. Raises DataError for a pair that comes twice or has no mask
    and confidence, and writes nothing then.
    """
    parts, said = [SCHEMAS["predictions"].empty_table()], dict(about or {})
    for table in tables:
        said |= {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        parts.append(to_table("predictions", table.replace_schema_metadata(None)))
    whole = pa.concat_tables(parts).combine_chunks().sort_by("pair_id")
    _check(whole, stamp)
    if stamp.chooses_proposals:
        said["pairs_without_proposals"] = str(whole.column("proposal_idx").null_count)
    with ExitStack() as files:
        table_path, json_path = (
            files.enter_context(atomic_path(path))
            for path in (run.predictions, run.predictions_json)
        )
        metadata = {"run": run.name, "direction": str(direction), **said, **stamp.to_metadata()}
        write_table(table_path, "predictions", whole, metadata=metadata)
        write_predictions(json_path, whole, direction=direction)
    return run.predictions_json


def _check(table: pa.Table, stamp: Stamp) -> None:
    """A method of someone's own is told at once what its tables lack."""
    for name in ("pair_id", "confidence", "rle_height", "rle_width", "rle_counts"):
        if missing := table.column(name).null_count:
            raise DataError(
                f"{stamp.method} left {name} empty in {missing:,} of {table.num_rows:,} "
                "predictions; a pair without an answer has an empty mask and confidence 0"
            )
    counts = pc.value_counts(table.column("pair_id").combine_chunks())
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(twice):
        raise DataError(
            f"{stamp.method} predicted {len(twice):,} pairs twice, such as {twice[0].as_py()!r}"
        )
