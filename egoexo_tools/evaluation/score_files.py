"""scores.parquet, read and written with a column for every metric that there is.

The `scores` schema of the manifests holds the benchmark's metrics; a metric that was added to
METRICS gets a float column after them. A file written before it was added reads as null there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from egoexo_tools.evaluation.metrics import METRICS
from egoexo_tools.manifests import SCHEMAS, read_tables, write_table


def scores_schema() -> pa.Schema:
    """The `scores` schema with the columns of further metrics, as METRICS is now."""
    schema = SCHEMAS["scores"]
    further = [pa.field(name, pa.float64()) for name in METRICS if name not in schema.names]
    return pa.schema([*schema, *further])


def read_scores(path: Path, *, columns: Sequence[str] | None = None) -> pa.Table:
    """A scores file, all columns or some; DataError where it is missing or no scores file."""
    return read_tables([path], "scores", columns=columns, schema=scores_schema())


def write_scores(path: Path, scores: pa.Table, *, about: Mapping[str, str]) -> int:
    """Write scores atomically, `about` in the metadata; returns the number of rows."""
    return write_table(path, "scores", scores, metadata=about, schema=scores_schema())
