"""Compares two runs sample by sample: paired differences with intervals, wins and losses, pictures.

Differences are B - A on the samples that were scored in both runs. A difference between runs of
different protocol, direction, split or ground truth has no meaning, so such runs are rejected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from egoexo_tools.aliases import Json
from egoexo_tools.arrays import Rgb
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.analysis import bootstrap_gain, bootstrap_mean, mean_scores, size_names
from egoexo_tools.evaluation.metrics import METRICS, VISIBILITY_ACCURACY
from egoexo_tools.evaluation.score_files import read_scores
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.runs import TRACK_COLUMNS, RunFolder, check_run, run_of, table_metadata
from egoexo_tools.viewing import painting

TIE = 1e-6
"""Smaller differences are ties."""
LABELS = ("protocol", "direction", "split")
PAIR_COLUMNS = (*TRACK_COLUMNS, "scenario", "frame_idx")
"""Columns that are determined by the pair_id."""
GROUPS = ("scenario", "size")
MOST_SAMPLES = 10


@dataclass(frozen=True)
class Comparison:
    """The differences between two runs."""

    summary: Json
    """JSON values: runs, labels, samples, metrics, groups."""
    pairs: pd.DataFrame
    """One row per sample scored in both runs: the columns of scores with _a and _b, and the
    `difference` of IoU (B - A; missing if the object is absent)."""


def compare(run_a: Path, run_b: Path) -> Comparison:
    """Compare two runs' folders or scores.parquet files.

    Raises DataError if protocol, direction, split or ground truth differ, if the files of a run do
    not belong together, or if the runs have no sample in common.
    """
    for run in filter(None, map(run_of, (run_a, run_b))):
        check_run(run)
    paths = [RunFolder(run).scores if run.is_dir() else run for run in (run_a, run_b)]
    a, b = (read_scores(path).to_pandas() for path in paths)
    metadata_a, metadata_b = map(table_metadata, paths)
    labels, labels_b = (
        {key: metadata.get(key, "unknown") for key in LABELS}
        for metadata in (metadata_a, metadata_b)
    )
    for key in LABELS:
        if labels[key] != labels_b[key]:
            raise DataError(
                f"{run_a} and {run_b} cannot be compared: {key} {labels[key]} and "
                f"{labels_b[key]}; score both with the same"
            )
    truths = [metadata.get("ground_truth") for metadata in (metadata_a, metadata_b)]
    if None not in truths and truths[0] != truths[1]:
        raise DataError(
            f"{run_a} and {run_b} were scored against different ground truths ({truths[0]} and "
            f"{truths[1]}); score both with the same"
        )
    # The columns of a pair are the same in both runs and would become duplicates.
    pairs = a.merge(b.drop(columns=list(PAIR_COLUMNS)), on="pair_id", suffixes=("_a", "_b"))
    if pairs.empty:
        raise DataError(f"{run_a} and {run_b} have no sample in common")
    if not (pairs["visible_a"] == pairs["visible_b"]).all():
        raise DataError(f"{run_a} and {run_b} were scored against different ground truths")
    pairs["difference"] = pairs["iou_b"] - pairs["iou_a"]
    summary = {
        "runs": {"a": str(run_a), "b": str(run_b)},
        **labels,
        "samples": len(pairs),
        "samples_visible": int(pairs["visible_a"].sum()),
        "only_in_a": len(a) - len(pairs),
        "only_in_b": len(b) - len(pairs),
        "metrics": {name: _difference(pairs, name) for name in METRICS},
        VISIBILITY_ACCURACY: _visibility_difference(pairs),
        "groups": {group: _group_differences(pairs, group) for group in GROUPS},
    }
    return Comparison(summary, pairs)


def wins_and_losses(
    comparison: Comparison, count: int = MOST_SAMPLES
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of `pairs` with the largest gains in IoU from A to B, and with the largest losses."""
    # By pair_id too, so that equal differences have a fixed order.
    ordered = comparison.pairs.dropna(subset="difference").sort_values(
        ["difference", "pair_id"], ascending=[False, True]
    )
    wins = ordered[ordered["difference"] > TIE].head(count)
    losses = ordered[ordered["difference"] < -TIE].iloc[::-1].head(count)
    return wins, losses


def write_pictures(
    comparison: Comparison, folder: Path, *, root: DatasetRoot, count: int = MOST_SAMPLES
) -> list[Path]:
    """Write a PNG of each of the largest wins and losses: source, A, B and truth side by side.

    Needs the runs' predictions.parquet and the root's frames.
    """
    runs = [Path(path) for path in comparison.summary["runs"].values()]
    paths = []
    for kind, samples in zip(("win", "loss"), wins_and_losses(comparison, count), strict=True):
        pair_ids = samples["pair_id"].tolist()
        # A run may be given as its scores.parquet; the predictions are in the same folder.
        masks_a, masks_b = (
            painting.predicted_masks(run if run.is_dir() else run.parent, pair_ids) for run in runs
        )
        for number, row in enumerate(samples.to_dict("records")):
            paths.append(folder / f"{kind}_{number:02}.png")
            predicted = masks_a.get(row["pair_id"]), masks_b.get(row["pair_id"])
            painting.write_picture(paths[-1], _picture(root, row, predicted))
    return paths


def format_comparison(comparison: Comparison) -> str:
    """The text that `egoexo-tools compare` prints."""
    summary = comparison.summary
    lines = [
        f"A {summary['runs']['a']}",
        f"B {summary['runs']['b']}",
        f"{summary['direction']}, split {summary['split']}, {summary['protocol']} protocol: "
        f"{summary['samples']:,} samples in both ({summary['samples_visible']:,} visible)",
    ]
    for key in ("a", "b"):
        if only_here := summary[f"only_in_{key}"]:
            lines.append(f"left out: {only_here:,} samples that only {key.upper()} scored")
    visibility = summary[VISIBILITY_ACCURACY]
    for name, numbers in {**summary["metrics"], VISIBILITY_ACCURACY: visibility}.items():
        text = f"  {name.replace('_', ' '):20}"
        if numbers["difference"] is None:
            lines.append(f"{text}-")
            continue
        text += f"A {numbers['a']:.4f}  B {numbers['b']:.4f}  B - A {numbers['difference']:+.4f}"
        if numbers["interval"] is not None:
            text += " [{:+.4f}, {:+.4f}]".format(*numbers["interval"])
        if "wins" in numbers:
            text += "  won {wins:,}, tied {ties:,}, lost {losses:,}".format(**numbers)
        lines.append(text)
    for title, samples in zip(
        ("largest wins of B", "largest losses of B"), wins_and_losses(comparison, 3), strict=True
    ):
        lines.extend([f"{title}:"] if len(samples) else [])
        lines.extend(
            f"  {row.difference:+.3f}  {row.iou_a:.3f} -> {row.iou_b:.3f}  {row.pair_id}"
            for row in samples.itertuples()
        )
    return "\n".join(lines)


def _difference(pairs: pd.DataFrame, name: str) -> Json:
    """Means, paired difference B - A with its interval, and numbers of wins, ties and losses."""
    valid = pairs.dropna(subset=[f"{name}_a", f"{name}_b"])
    if valid.empty:
        return {"a": None, "b": None, "difference": None, "interval": None}
    difference = valid[f"{name}_b"] - valid[f"{name}_a"]
    gain = -difference if METRICS[name].better == "lower" else difference
    return {
        "a": float(valid[f"{name}_a"].mean()),
        "b": float(valid[f"{name}_b"].mean()),
        "difference": float(difference.mean()),
        "interval": bootstrap_mean(difference, valid["take_uid"]),
        "wins": int((gain > TIE).sum()),
        "ties": int((gain.abs() <= TIE).sum()),
        "losses": int((gain < -TIE).sum()),
    }


def _visibility_difference(pairs: pd.DataFrame) -> Json:
    """Balanced accuracy of each run, and the difference with its interval."""
    # mean_scores expects the names of one run. `visible` is the same in both.
    frames = []
    for key in ("a", "b"):
        columns = {f"{name}_{key}": name for name in (*METRICS, "predicted_visible")}
        frames.append(pairs.rename(columns={**columns, "visible_a": "visible"}))
    a, b = (mean_scores(frame)[VISIBILITY_ACCURACY] for frame in frames)
    return {"a": a, "b": b, "difference": b - a, "interval": bootstrap_gain(*frames)}


def _group_differences(pairs: pd.DataFrame, group: str) -> list[Json]:
    names = ["truth_area", "scored_height", "scored_width", "visible"]
    is_size = group == "size"
    column = size_names(pairs.rename(columns={f"{n}_a": n for n in names})) if is_size else group
    return [
        {"value": str(value), "samples": len(part), "iou": _difference(part, "iou")}
        for value, part in pairs.groupby(column, observed=True)
    ]


def _picture(root: DatasetRoot, row: Mapping[Any, Any], predicted: Sequence[MaskRle | None]) -> Rgb:
    take_uid, name, frame_idx = row["take_uid"], row["object_name"], int(row["frame_idx"])
    cameras = (row["source_camera"], row["dest_camera"])
    source, dest = (painting.read_frame(root, take_uid, camera, frame_idx) for camera in cameras)
    source_mask, truth = (
        painting.true_mask(root, take_uid, name, camera, frame_idx) for camera in cameras
    )
    return painting.join_panels(
        [
            (f"{name}, frame {frame_idx}", painting.overlay(source, source_mask, painting.SOURCE)),
            (f"A {row['iou_a']:.3f}", painting.overlay(dest, predicted[0], painting.PREDICTION)),
            (f"B {row['iou_b']:.3f}", painting.overlay(dest, predicted[1], painting.PREDICTION)),
            ("truth", painting.overlay(dest, truth, painting.TRUTH)),
        ]
    )
