"""What a run left behind, as the report needs it; whatever is missing is said, not fatal.

Reads `<root>/runs/<run>/`: the summaries, scores.parquet, the stamp of predictions.parquet, and
log.jsonl. These files may come from others: their values are checked
here and escaped by the page.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from egoexo_tools.aliases import Json
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.analysis import summarize
from egoexo_tools.evaluation.metrics import VISIBILITY_ACCURACY, headlines
from egoexo_tools.evaluation.score_files import read_scores
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import SCHEMAS, read_manifest
from egoexo_tools.runs import (
    DEFAULT_METHOD,
    RunFolder,
    Stamp,
    default_run_names,
    display_priority,
    read_stamp,
    table_metadata,
)
from egoexo_tools.vocab import Direction


@dataclass(frozen=True)
class ScoredRun:
    """One scored run of one direction."""

    folder: Path
    name: str
    """Of its folder; with folders above it where another run of the page is called the same."""
    stamp: Stamp
    """What made it; its method is "" for predictions of unknown origin."""
    summaries: tuple[Json, ...]
    """One for each protocol, from `egoexo-tools evaluate`; the first goes with `scores`."""
    scores: pd.DataFrame | None
    """One row a sample, of the `scores` schema."""
    log: tuple[Json, ...]
    """Lines of log.jsonl; empty where nothing was trained."""
    missing: tuple[str, ...]
    """Sentences about what this run lacks."""

    @property
    def summary(self) -> Json:
        return self.summaries[0]

    @property
    def direction(self) -> Direction:
        return Direction(self.summary["direction"])

    @property
    def label(self) -> str:
        """What readers call it: the method, and the run's name where that says more."""
        if not self.stamp.label:
            return self.name
        title = self.stamp.title
        return (
            title
            if self.name in default_run_names(self.direction, self.stamp)
            else f"{title} ({self.name})"
        )

    @cached_property
    def root(self) -> DatasetRoot | None:
        """The dataset root that the run lies in, if it does."""
        root = DatasetRoot(self.folder.parent.parent)
        return root if root.manifests.is_dir() else None

    @cached_property
    def take_names(self) -> dict[str, str]:
        """take_uid → take_name, as far as the root knows."""
        if self.root is None or not self.root.table("takes").is_dir():
            return {}
        takes = read_manifest(self.root, "takes", columns=["take_uid", "take_name"])
        return {take["take_uid"]: take["take_name"] for take in takes.to_pylist()}


def read_runs(folders: Sequence[Path]) -> list[ScoredRun]:
    """The runs in the order given, each once; DataError for a folder that is no scored run."""
    unique = dict.fromkeys(folder.resolve() for folder in folders)
    if not unique:
        raise DataError("no run was given; name folders under ROOT/runs")
    names = _distinct_names(list(unique))
    return [
        replace(read_run(folder), name=name) for folder, name in zip(unique, names, strict=True)
    ]


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """As many last parts of each path as tell it from the others: figures are kept by name."""
    names = [folder.name for folder in folders]
    parts = 1
    while twice := {name for name, times in Counter(names).items() if times > 1}:
        parts += 1
        names = [
            "/".join(folder.parts[-parts:]) if name in twice else name
            for name, folder in zip(names, folders, strict=True)
        ]
    return names


def read_run(folder: Path) -> ScoredRun:
    """One run; DataError where the folder holds neither a summary nor scores, or damaged ones."""
    missing: list[str] = []
    run = RunFolder(folder)
    paths = list(run.summaries.values())
    summaries = [_summary(path) for path in paths if path.is_file()]
    table = _scores(folder, missing)
    if not summaries and table is None:
        raise DataError(
            f"{folder} is no scored run: it has neither summary.json nor scores.parquet; give a "
            "folder under ROOT/runs that `egoexo-tools evaluate` or `egoexo-tools run` has scored"
        )
    if table is not None and not paths[0].is_file():
        missing.append("no summary.json: its numbers are computed from scores.parquet")
        # The first summary is the one that goes with `scores`.
        summaries.insert(0, _summary_of(folder, table))
    if len({summary["direction"] for summary in summaries}) > 1:
        raise DataError(f"{folder}: its summaries are of two directions; evaluate the run again")
    if len(summaries) == 1:
        missing.append(f"scored under the {summaries[0]['protocol']} protocol only")
    stamp = read_stamp(run)
    log = _log(run.log, missing)
    if stamp.method == DEFAULT_METHOD and not log:
        missing.append("no log.jsonl: no training curves")
    return ScoredRun(
        folder=folder,
        name=folder.name,
        stamp=stamp,
        summaries=tuple(summaries),
        scores=None if table is None else table.to_pandas(),
        log=log,
        missing=tuple(missing),
    )


def main_run(runs: Sequence[ScoredRun]) -> ScoredRun:
    """The run of a direction that figures and gallery are about: O-MaMa, then other methods, and
    the baselines only where there is nothing else."""
    return min(runs, key=lambda run: (*display_priority(run.stamp), len(run.folder.name)))


def _summary(path: Path) -> Json:
    """A summary.json whose headline values can be trusted to be what they should."""
    try:
        found = json.loads(path.read_bytes(), parse_constant=_refuse)
    except ValueError as error:
        raise DataError(
            f"{path} is no JSON ({error}); run `egoexo-tools evaluate` again"
        ) from error
    problem = _problem(found)
    if problem:
        raise DataError(
            f"{path} is no summary of `egoexo-tools evaluate`: {problem}; evaluate again"
        )
    checked: Json = found
    return checked


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}")


def _problem(summary: Any) -> str | None:
    if not isinstance(summary, dict):
        return "it is no object"
    for name in ("protocol", "split", "direction"):
        if not isinstance(summary.get(name), str):
            return f"{name!r} is missing or no text"
    if summary["direction"] not in list(Direction):
        return f"direction {summary['direction']!r} is unknown"
    for name in ("samples", "samples_visible", "takes"):
        if not isinstance(summary.get(name), int):
            return f"{name!r} is missing or no whole number"
    for name in headlines():
        # A metric may have been added after the run was scored: then it has no number there.
        without = "" if name in (*SCHEMAS["scores"].names, VISIBILITY_ACCURACY) else None
        if not isinstance(summary.get(name, without), float | int | None):
            return f"{name!r} is missing or no number"
    if not isinstance(summary.get("intervals"), dict) or "coverage" not in summary:
        return "intervals or coverage are missing"
    return None


def _scores(folder: Path, missing: list[str]) -> pa.Table | None:
    path = RunFolder(folder).scores
    if not path.is_file():
        missing.append("no scores.parquet: no distributions, causes and pictures")
        return None
    return read_scores(path)


def _summary_of(folder: Path, table: pa.Table) -> Json:
    path = RunFolder(folder).scores
    about = table_metadata(path)
    if about.get("direction") not in list(Direction):
        raise DataError(f"{path} does not say its direction; evaluate again")
    return summarize(
        table,
        labels={key: about.get(key, "unstated") for key in ("protocol", "direction", "split")},
        coverage={"expected": table.num_rows, "scored": table.num_rows, "complete": False},
    )


def _log(path: Path, missing: list[str]) -> tuple[Json, ...]:
    if not path.is_file():
        return ()
    lines, broken = [], 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            numbers = {key: value for key, value in line.items() if _is_number(value)}
        except (ValueError, AttributeError, RecursionError):
            broken += 1
            continue
        if "step" in numbers:
            lines.append(numbers)
        else:
            broken += "step" in line
    if broken:
        missing.append(f"log.jsonl has {broken:,} broken lines; they are left out of the curves")
    return tuple(lines)


def _is_number(value: Any) -> bool:
    """Whether it has a place on an axis: NaN and infinity have none, nor do 400 digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
