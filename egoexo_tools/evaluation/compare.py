"""Two runs, sample by sample: paired differences with intervals, wins and losses, pictures.

Differences are B - A on the samples that both runs scored. Runs are compared only if protocol,
direction and split are the same: otherwise a difference means nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from egoexo_tools.aliases import Json
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.analysis import (
    bootstrap_gain,
    bootstrap_mean,
    mean_scores,
    size_names,
)
from egoexo_tools.evaluation.metrics import METRICS, VISIBILITY_ACCURACY
from egoexo_tools.evaluation.score_files import read_scores
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.runs import TRACK_COLUMNS, RunFolder
from egoexo_tools.viewing.painting import (
    PREDICTION,
    SOURCE,
    TRUTH,
    overlay,
    predicted_masks,
    read_frame,
    strip,
    true_mask,
    write_picture,
)

TIE = 1e-6
"""Differences within this are ties."""
ABOUT = ("protocol", "direction", "split")
SAME = (*TRACK_COLUMNS, "scenario", "frame_idx")
"""Columns that follow from the pair_id."""
GROUPS = ("scenario", "size")
SHOWN = 10


@dataclass(frozen=True)
class Comparison:
    """What separates two runs."""

    summary: Json
    """JSON values: about, samples, metrics, groups."""
    pairs: pd.DataFrame
    """One row for each sample that both scored: the columns of scores with _a and _b, and
    `difference` of IoU (B - A; missing where the object is absent)."""


def compare(run_a: Path, run_b: Path) -> Comparison:
    """Compare two runs' folders or scores.parquet files.

    Raises DataError where protocol, direction or split differ, or no sample is in both.
    """
    about = _same_about(run_a, run_b)
    a, b = (read_scores(_scores_path(run)).to_pandas() for run in (run_a, run_b))
    pairs = a.merge(b.drop(columns=list(SAME)), on="pair_id", suffixes=("_a", "_b"))
    if pairs.empty:
        raise DataError(f"{run_a} and {run_b} have no sample in common")
    if not (pairs["visible_a"] == pairs["visible_b"]).all():
        raise DataError(f"{run_a} and {run_b} were scored against different ground truths")
    pairs["difference"] = pairs["iou_b"] - pairs["iou_a"]
    summary = {
        "runs": {"a": str(run_a), "b": str(run_b)},
        **about,
        "samples": len(pairs),
        "samples_visible": int(pairs["visible_a"].sum()),
        "only_in_a": len(a) - len(pairs),
        "only_in_b": len(b) - len(pairs),
        "metrics": {name: _difference(pairs, name) for name in METRICS},
        VISIBILITY_ACCURACY: _visibility(pairs),
        "groups": {group: _by_group(pairs, group) for group in GROUPS},
    }
    return Comparison(summary, pairs)


def wins_and_losses(comparison: Comparison, count: int = SHOWN) -> tuple[list[Json], list[Json]]:
    """The samples on which B beats A by most, and those on which it loses most (IoU)."""
    columns = ["pair_id", "iou_a", "iou_b", "difference"]
    known = comparison.pairs.dropna(subset="difference").sort_values(
        ["difference", "pair_id"], ascending=[False, True]
    )[columns]
    wins = known[known["difference"] > TIE].head(count)
    losses = known[known["difference"] < -TIE].iloc[::-1].head(count)
    return _rows(wins), _rows(losses)


def write_pictures(
    comparison: Comparison, folder: Path, *, root: DatasetRoot, count: int = SHOWN
) -> list[Path]:
    """One PNG for each of the biggest wins and losses: source, A, B and truth side by side.

    Needs the runs' folders with their predictions.parquet, and the root's frames.
    """
    runs = {key: Path(path) for key, path in comparison.summary["runs"].items()}
    rows = comparison.pairs.set_index("pair_id")
    written = []
    for kind, samples in zip(("win", "loss"), wins_and_losses(comparison, count), strict=True):
        masks = {
            key: predicted_masks(
                run if run.is_dir() else run.parent, [sample["pair_id"] for sample in samples]
            )
            for key, run in runs.items()
        }
        for number, sample in enumerate(samples):
            path = folder / f"{kind}_{number:02}.png"
            row = rows.loc[sample["pair_id"]]
            found = {key: masks[key].get(sample["pair_id"]) for key in runs}
            write_picture(path, _picture(root, row, sample, found))
            written.append(path)
    return written


def format_comparison(comparison: Comparison) -> str:
    """What `egoexo-tools compare` prints."""
    summary = comparison.summary
    lines = [
        f"A {summary['runs']['a']}",
        f"B {summary['runs']['b']}",
        f"{summary['direction']}, split {summary['split']}, {summary['protocol']} protocol: "
        f"{summary['samples']:,} samples in both ({summary['samples_visible']:,} visible)",
    ]
    for key in ("a", "b"):
        if alone := summary[f"only_in_{key}"]:
            lines.append(f"left out: {alone:,} samples that only {key.upper()} scored")
    for name, found in {
        **summary["metrics"],
        VISIBILITY_ACCURACY: summary[VISIBILITY_ACCURACY],
    }.items():
        lines.append("  " + _metric_text(name, found))
    for title, samples in zip(
        ("biggest wins of B", "biggest losses of B"), wins_and_losses(comparison, 3), strict=True
    ):
        lines.extend([f"{title}:"] if samples else [])
        lines.extend(
            f"  {s['difference']:+.3f}  {s['iou_a']:.3f} -> {s['iou_b']:.3f}  {s['pair_id']}"
            for s in samples
        )
    return "\n".join(lines)


def _metric_text(name: str, found: Mapping[str, Any]) -> str:
    label = f"{name.replace('_', ' '):20}"
    if found["difference"] is None:
        return f"{label}-"
    text = f"{label}A {found['a']:.4f}  B {found['b']:.4f}  B - A {found['difference']:+.4f}"
    if found["interval"] is not None:
        text += f" [{found['interval'][0]:+.4f}, {found['interval'][1]:+.4f}]"
    if "wins" in found:
        text += f"  won {found['wins']:,}, tied {found['ties']:,}, lost {found['losses']:,}"
    return text


def _scores_path(run: Path) -> Path:
    return RunFolder(run).scores if run.is_dir() else run


def _same_about(run_a: Path, run_b: Path) -> dict[str, str]:
    found = []
    for run in (run_a, run_b):
        read_scores(_scores_path(run), columns=["pair_id"])  # checks the file
        metadata = pq.read_schema(_scores_path(run)).metadata
        found.append({key: metadata.get(key.encode(), b"unknown").decode() for key in ABOUT})
    for key in ABOUT:
        if found[0][key] != found[1][key]:
            raise DataError(
                f"{run_a} and {run_b} cannot be compared: {key} {found[0][key]} and "
                f"{found[1][key]}; score both with the same"
            )
    return found[0]


def _difference(pairs: pd.DataFrame, name: str) -> Json:
    """Means, paired difference B - A with its interval, and who won how often."""
    known = pairs.dropna(subset=[f"{name}_a", f"{name}_b"])
    if known.empty:
        return {"a": None, "b": None, "difference": None, "interval": None}
    difference = known[f"{name}_b"] - known[f"{name}_a"]
    better = -difference if METRICS[name].better == "lower" else difference
    return {
        "a": float(known[f"{name}_a"].mean()),
        "b": float(known[f"{name}_b"].mean()),
        "difference": float(difference.mean()),
        "interval": bootstrap_mean(difference, known["take_uid"]),
        "wins": int((better > TIE).sum()),
        "ties": int((better.abs() <= TIE).sum()),
        "losses": int((better < -TIE).sum()),
    }


def _visibility(pairs: pd.DataFrame) -> Json:
    """Balanced accuracy of each run, and the difference with its interval."""
    frames = []
    for key in ("a", "b"):
        columns = {f"{name}_{key}": name for name in (*METRICS, "predicted_visible")}
        frames.append(pairs.rename(columns={**columns, "visible_a": "visible"}))
    a, b = (mean_scores(frame)[VISIBILITY_ACCURACY] for frame in frames)
    return {"a": a, "b": b, "difference": b - a, "interval": bootstrap_gain(*frames)}


def _by_group(pairs: pd.DataFrame, group: str) -> list[Json]:
    names = {"truth_area": "truth_area_a", "scored_height": "scored_height_a"}
    if group == "size":
        names |= {"scored_width": "scored_width_a", "visible": "visible_a"}
        column = size_names(pd.DataFrame({key: pairs[name] for key, name in names.items()}))
    else:
        column = pairs[group]
    parts = pairs.groupby(column, observed=True)
    return [
        {"value": str(value), "samples": len(part), "iou": _difference(part, "iou")}
        for value, part in parts
    ]


def _rows(frame: pd.DataFrame) -> list[Json]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _picture(
    root: DatasetRoot, row: Any, sample: Json, predicted: Mapping[str, MaskRle | None]
) -> Any:
    key = (row["take_uid"], row["object_name"])
    frame_idx = int(row["frame_idx"])
    source = read_frame(root, row["take_uid"], row["source_camera"], frame_idx)
    dest = read_frame(root, row["take_uid"], row["dest_camera"], frame_idx)
    shown = true_mask(root, *key, row["source_camera"], frame_idx)
    truth = true_mask(root, *key, row["dest_camera"], frame_idx)
    return strip(
        [
            (f"{row['object_name']}, frame {frame_idx}", overlay(source, shown, SOURCE)),
            (f"A {sample['iou_a']:.3f}", overlay(dest, predicted["a"], PREDICTION)),
            (f"B {sample['iou_b']:.3f}", overlay(dest, predicted["b"], PREDICTION)),
            ("truth", overlay(dest, truth, TRUTH)),
        ]
    )
