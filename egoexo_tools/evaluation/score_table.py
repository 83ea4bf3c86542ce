"""The scores of a root's runs as text: a table per direction with a row per method."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.metrics import headlines
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.runs import RunFolder, Stamp, default_run_names, read_stamp, table_order
from egoexo_tools.vocab import Direction

LABEL_WIDTH = 36
MIN_WIDTH = 8

RunRow = tuple[Stamp, Mapping[str, Any]]
"""A run's stamp and its summary under the official protocol."""


def score_table(root: DatasetRoot, directions: Sequence[Direction]) -> str:
    """The scores of every method's run from their summary.json files, the upper bound first.

    Runs that the user named are experiments and left out; `egoexo-tools compare` and `report` show
    them. A number that a summary does not have is a dash. Damaged summaries are listed below the
    tables.
    """
    rows: dict[Direction, list[RunRow]] = {}
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
            # One damaged run must not hide the scores of the others.
            damaged.append(f"{run.name}: its files are damaged ({error}); evaluate it again")
            continue
        if run.name in default_run_names(direction, stamp):
            rows.setdefault(direction, []).append((stamp, summary))
    lines: list[str] = []
    for direction in directions:
        if direction in rows:
            in_order = sorted(rows[direction], key=lambda row: table_order(row[0]))
            lines += [*_table_lines(direction, in_order), ""]
    return "\n".join([*lines, *damaged]).rstrip()


def _table_lines(direction: Direction, rows: Sequence[RunRow]) -> list[str]:
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
        values = {name: summary.get(name) for name in columns}
        cells = {n: f"{v:.3f}" if isinstance(v, float) else "-" for n, v in values.items()}
        row = "".join(f"{cell:>{widths[name]}}" for name, cell in cells.items())
        lines.append(f"  {stamp.title:{LABEL_WIDTH}}{row}")
    return lines
