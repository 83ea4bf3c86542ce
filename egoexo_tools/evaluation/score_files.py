"""Reads and writes scores.parquet, which has a column for every metric.

The `scores` schema of the manifests contains the benchmark's metrics. A metric that is added to
METRICS gets a float column after them, which is null in files written before it was added.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from egoexo_tools.evaluation.metrics import METRICS
from egoexo_tools.manifests import SCHEMAS, read_tables, write_table


def scores_schema() -> pa.Schema:
    """The `scores` schema with a column for each metric that METRICS currently adds to it."""
    schema = SCHEMAS["scores"]
    added = [pa.field(name, pa.float64()) for name in METRICS if name not in schema.names]
    return pa.schema([*schema, *added])


def read_scores(path: Path, *, columns: Sequence[str] | None = None) -> pa.Table:
    """A scores file, all columns or some; DataError if it is missing or not a scores file."""
    return read_tables([path], "scores", columns=columns, schema=scores_schema())


def write_scores(path: Path, scores: pa.Table, *, metadata: Mapping[str, str]) -> int:
    """Write scores and text metadata atomically; returns the number of rows."""
    return write_table(path, "scores", scores, metadata=metadata, schema=scores_schema())
