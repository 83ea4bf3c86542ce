"""The scores of a root's runs as text: a table for each direction, a row for each method."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.metrics import headlines
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.runs import (
    RunFolder,
    Stamp,
    default_run_names,
    read_stamp,
    table_order,
)
from egoexo_tools.vocab import Direction

LABEL_WIDTH = 36
MIN_WIDTH = 8

RunRow = tuple[Stamp, Mapping[str, Any]]
"""What made a run, and its summary under the official protocol."""


def score_table(root: DatasetRoot, directions: Sequence[Direction]) -> str:
    """The scores of every method's run, from their summary.json files, the bound first.

    Runs of other names than a method's own are left out: they are the user's experiments, and
    `egoexo-tools compare` and `report` take them. A number that a summary does not have is a dash.
    """
    rows, damaged = _rows(root)
    lines: list[str] = []
    for direction in directions:
        if mine := rows.get(direction):
            lines += [*_table(direction, sorted(mine, key=lambda row: table_order(row[0]))), ""]
    return "\n".join([*lines, *damaged]).rstrip()


def _rows(root: DatasetRoot) -> tuple[dict[Direction, list[RunRow]], list[str]]:
    """The rows of each direction, and a sentence for each summary that cannot be read."""
    found: dict[Direction, list[RunRow]] = {}
    damaged = []
    for path in sorted(root.runs.glob("*")):
        run = RunFolder(path)
        # A default name begins with a direction; summaries of other runs are not even read.
        if not run.name.startswith(tuple(Direction)) or not run.summary.is_file():
            continue
        try:
            summary = json.loads(run.summary.read_bytes())
            direction = Direction(summary["direction"])
            stamp = read_stamp(run)
        except (DataError, KeyError, TypeError, ValueError) as error:
            damaged.append(f"{run.name}: its files are damaged ({error}); evaluate again")
            continue
        if run.name in default_run_names(direction, stamp):
            found.setdefault(direction, []).append((stamp, summary))
    return found, damaged


def _table(direction: Direction, rows: Sequence[RunRow]) -> list[str]:
    first = rows[0][1]
    columns = {name: title.split()[0] for name, title in headlines().items()}
    widths = {name: max(len(title) + 2, MIN_WIDTH) for name, title in columns.items()}
    head = "".join(f"{title:>{widths[name]}}" for name, title in columns.items())
    lines = [
        f"{direction}: {first['split']} split, {first['protocol']} protocol, "
        f"{first['samples']} samples, {first['samples_visible']} with the object in view",
        f"  {'':{LABEL_WIDTH}}{head}",
    ]
    for stamp, summary in rows:
        values = {name: _text(summary.get(name)) for name in columns}
        shown = "".join(f"{value:>{widths[name]}}" for name, value in values.items())
        lines.append(f"  {stamp.title:{LABEL_WIDTH}}{shown}")
    return lines


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-"
