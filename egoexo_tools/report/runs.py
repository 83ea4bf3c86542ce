"""The files of a run, as the report needs them; missing files become sentences, not errors.

Reads `<root>/runs/<run>/`: the summaries, scores.parquet, the stamp of predictions.parquet, and
log.jsonl. The files may come from other programs: their values are checked here, and the page
escapes them.
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

from egoexo_tools.aliases import Json
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.analysis import summarize
from egoexo_tools.evaluation.metrics import VISIBILITY_ACCURACY, headlines
from egoexo_tools.evaluation.score_files import read_scores
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import SCHEMAS, read_manifest
from egoexo_tools.runs import (
    DEFAULT_METHOD,
    VERSIONS,
    RunFolder,
    Stamp,
    check_run,
    default_run_names,
    display_priority,
    find_difference,
    read_stamp,
    table_metadata,
)
from egoexo_tools.vocab import Direction


@dataclass(frozen=True)
class ScoredRun:
    """One scored run of one direction."""

    folder: Path
    name: str
    """Name of its folder, with parent folders if another run on the page has the same name."""
    stamp: Stamp
    summaries: tuple[Json, ...]
    """One per protocol, from `egoexo-tools evaluate`; the first belongs to `scores`."""
    scores: pd.DataFrame | None
    """A row per sample, of the `scores` schema."""
    log: tuple[Json, ...]
    """Lines of log.jsonl; empty if nothing was trained."""
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
        """Name for readers: the method, and the run's name if the user chose it."""
        if not self.stamp.label:
            return self.name
        has_default_name = self.name in default_run_names(self.direction, self.stamp)
        return self.stamp.title if has_default_name else f"{self.stamp.title} ({self.name})"

    @property
    def version(self) -> dict[str, str]:
        """The split and the ground truth that it was scored on."""
        truth = self.summary.get(VERSIONS, {}).get("ground_truth")
        split = {"split": self.summary["split"]}
        return {**split, "ground_truth": truth} if isinstance(truth, str) else split

    @cached_property
    def root(self) -> DatasetRoot | None:
        """The dataset root that contains the run, or None."""
        root = DatasetRoot(self.folder.parent.parent)
        return root if root.manifests.is_dir() else None

    @cached_property
    def take_names(self) -> dict[str, str]:
        """take_uid → take_name of the takes that the root has."""
        if self.root is None or not self.root.table("takes").is_dir():
            return {}
        takes = read_manifest(self.root, "takes", columns=["take_uid", "take_name"])
        return {take["take_uid"]: take["take_name"] for take in takes.to_pylist()}


def read_runs(folders: Sequence[Path]) -> list[ScoredRun]:
    """The runs in the given order, each once.

    DataError for a folder that is not a scored run, and for runs of one direction that were scored
    on different splits or ground truths: a page compares them.
    """
    unique = list(dict.fromkeys(folder.resolve() for folder in folders))
    if not unique:
        raise DataError("no run was given; name folders under ROOT/runs")
    # Figures are stored by run name, so runs of one name get as many parent folders as needed.
    names = [folder.name for folder in unique]
    parts = 1
    while repeated := {name for name, times in Counter(names).items() if times > 1}:
        parts += 1
        names = [
            "/".join(folder.parts[-parts:]) if name in repeated else name
            for name, folder in zip(names, unique, strict=True)
        ]
    runs = [
        replace(read_run(folder), name=name) for folder, name in zip(unique, names, strict=True)
    ]
    for direction in Direction:
        versions = {run.name: run.version for run in runs if run.direction == direction}
        if difference := find_difference(versions):
            raise DataError(
                f"these runs cannot be compared: {difference}; give runs that were scored on the "
                "same split and ground truth"
            )
    return runs


def read_run(folder: Path) -> ScoredRun:
    """One run; DataError if the folder has neither a summary nor scores, or if they are damaged or
    do not belong to its predictions."""
    missing: list[str] = []
    run = RunFolder(folder)
    summaries = [_read_summary(path) for path in run.summaries.values() if path.is_file()]
    table = read_scores(run.scores) if run.scores.is_file() else None
    if not summaries and table is None:
        raise DataError(
            f"{folder} is not a scored run: it has neither summary.json nor scores.parquet; give a "
            "folder under ROOT/runs that `egoexo-tools evaluate` or `egoexo-tools run` has scored"
        )
    if table is None:
        missing.append("no scores.parquet: no distributions, causes and pictures")
    elif not run.summary.is_file():
        missing.append("no summary.json: its numbers are computed from scores.parquet")
        metadata = table_metadata(run.scores)
        if metadata.get("direction") not in list(Direction):
            raise DataError(f"{run.scores} does not name its direction; evaluate again")
        labels = {key: metadata.get(key, "unstated") for key in ("protocol", "direction", "split")}
        rows = table.num_rows
        coverage = {"expected": rows, "scored": rows, "complete": False}
        # In the first place, because the first summary belongs to `scores`.
        summaries.insert(0, summarize(table, labels=labels, coverage=coverage))
    check_run(run)
    if len(summaries) == 1:
        missing.append(f"scored under the {summaries[0]['protocol']} protocol only")
    stamp = read_stamp(run)
    log = _read_log(run.log, missing)
    # Baselines are not trained, and other methods need not write a log.
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
    """The run of a direction that is shown in detail: trained methods come before baselines."""
    return min(runs, key=lambda run: (*display_priority(run.stamp), len(run.folder.name)))


def _read_summary(path: Path) -> Json:
    """A summary.json whose headline values have the right types."""

    def refuse(constant: str) -> None:
        raise ValueError(f"it contains {constant}")

    try:
        summary: Json = json.loads(path.read_bytes(), parse_constant=refuse)
    except ValueError as error:
        raise DataError(
            f"{path} is not JSON ({error}); run `egoexo-tools evaluate` again"
        ) from error
    problem = _summary_problem(summary)
    if problem:
        raise DataError(
            f"{path} is not a summary of `egoexo-tools evaluate`: {problem}; evaluate again"
        )
    return summary


def _summary_problem(summary: Any) -> str | None:
    if not isinstance(summary, dict):
        return "it is not an object"
    for name in ("protocol", "split", "direction"):
        if not isinstance(summary.get(name), str):
            return f"{name!r} is missing or not text"
    if summary["direction"] not in list(Direction):
        return f"direction {summary['direction']!r} is unknown"
    for name in ("samples", "samples_visible", "takes"):
        if not isinstance(summary.get(name), int):
            return f"{name!r} is missing or not a whole number"
    for name in headlines():
        # A metric that was added after the run was scored has no number.
        is_added = name not in (*SCHEMAS["scores"].names, VISIBILITY_ACCURACY)
        default = None if is_added else ""
        if not isinstance(summary.get(name, default), float | int | None):
            return f"{name!r} is missing or not a number"
    if not isinstance(summary.get("intervals"), dict) or "coverage" not in summary:
        return "intervals or coverage are missing"
    return None


def _read_log(path: Path, missing: list[str]) -> tuple[Json, ...]:
    if not path.is_file():
        return ()
    # A killed training leaves half a line at the end.
    lines, broken = [], 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            numbers = {key: value for key, value in line.items() if _is_drawable(value)}
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


def _is_drawable(value: Any) -> bool:
    """Whether a value is a number with a place on an axis: not NaN, infinity or 400 digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
