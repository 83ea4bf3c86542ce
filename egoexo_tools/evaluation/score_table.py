"""The scores of a root's runs as text: a table per direction with a row per method."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.metrics import headlines
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.runs import (
    VERSIONS,
    RunFolder,
    Stamp,
    check_run,
    default_run_names,
    read_stamp,
    table_order,
)
from egoexo_tools.vocab import Direction

LABEL_WIDTH = 36
MIN_WIDTH = 8

RunRow = tuple[Stamp, Mapping[str, Any]]
"""A run's stamp and its summary under the official protocol."""


def score_table(root: DatasetRoot, directions: Sequence[Direction]) -> str:
    """The scores of every method's run from their summary.json files, the upper bound first.

    Runs of different split or ground truth have tables of their own. Runs that the user named are
    experiments and left out; `egoexo-tools compare` and `report` show them. A number that a summary
    does not have is a dash. Runs whose files are damaged or do not belong together are listed below
    the tables.
    """
    rows: dict[tuple[Direction, str, str], list[RunRow]] = {}
    damaged = []
    for path in sorted(root.runs.glob("*")):
        run = RunFolder(path)
        try:
            check_run(run)
        except DataError as error:
            damaged.append(f"{run.name}: {error}")
            continue
        # A default name begins with a direction; summaries of other runs are not shown.
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
            truth = summary.get(VERSIONS, {}).get("ground_truth", "")
            group = direction, str(summary.get("split")), truth
            rows.setdefault(group, []).append((stamp, summary))
    lines: list[str] = []
    for direction in directions:
        groups = [group for group in sorted(rows) if group[0] == direction]
        for group in groups:
            in_order = sorted(rows[group], key=lambda row: table_order(row[0]))
            same_split = sum(other[1] == group[1] for other in groups) > 1
            note = f"ground truth {group[2] or 'unstated'}" if same_split else ""
            lines += [*_table_lines(direction, in_order, note), ""]
    return "\n".join([*lines, *damaged]).rstrip()


def _table_lines(direction: Direction, rows: Sequence[RunRow], note: str) -> list[str]:
    first = rows[0][1]
    columns = {name: title.split()[0] for name, title in headlines().items()}
    widths = {name: max(len(title) + 2, MIN_WIDTH) for name, title in columns.items()}
    head = "".join(f"{title:>{widths[name]}}" for name, title in columns.items())
    lines = [
        f"{direction}: {first['split']} split, {first['protocol']} protocol, "
        f"{first['samples']} samples, {first['samples_visible']} with the object in view"
        f"{f', {note}' if note else ''}",
        f"  {'':{LABEL_WIDTH}}{head}",
    ]
    for stamp, summary in rows:
        values = {name: summary.get(name) for name in columns}
        cells = {n: f"{v:.3f}" if isinstance(v, float) else "-" for n, v in values.items()}
        row = "".join(f"{cell:>{widths[name]}}" for name, cell in cells.items())
        lines.append(f"  {stamp.title:{LABEL_WIDTH}}{row}")
    return lines
