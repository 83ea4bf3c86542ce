"""Summarizes a table of scores: means, intervals, breakdowns, ceilings, tracks and visibility.

The functions use the columns of the `scores` schema and return JSON values: None if there is
nothing to measure, never NaN. Intervals are percentiles of a bootstrap over takes. The samples of a
take are not independent, so a draw (with replacement) takes all samples of a take or none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from egoexo_tools.aliases import Json
from egoexo_tools.arrays import Bool, Float64
from egoexo_tools.evaluation.metrics import (
    CONFIDENCE_THRESHOLD,
    METRICS,
    VISIBILITY_ACCURACY,
    balanced_accuracy,
    headlines,
)
from egoexo_tools.runs import TRACK_COLUMNS

DRAWS = 2_000
SEED = 0
LEVEL = 0.95
RECALL_AT = (0.5, 0.75)
# 0.1 % of an exo image at the official size (270 x 480) is 130 pixels.
SIZES: Sequence[tuple[str, float]] = (
    ("tiny (< 0.1 %)", 0.001),
    ("small (0.1-0.5 %)", 0.005),
    ("medium (0.5-2 %)", 0.02),
    ("large (> 2 %)", np.inf),
)
"""Name and upper end of each size bucket: share of the destination image that the mask covers."""
BREAKDOWNS = ("scenario", "size", "dest_camera", "take_uid", "visible")
CALIBRATION_BINS = 10
CURVE_POINTS = 101


def summarize(
    scores: pa.Table, *, labels: Json, coverage: Json, threshold: float | None = None
) -> Json:
    """The summary of `egoexo-tools evaluate`; `labels` are protocol, direction and split."""
    frame = scores.to_pandas()
    return {
        **mean_scores(frame),
        **labels,
        "existence_plain": existence_plain(frame),
        "intervals": intervals(frame),
        "takes": int(frame["take_uid"].nunique()),
        "coverage": coverage,
        "breakdowns": breakdowns(frame),
        "ceilings": ceilings(frame),
        "over_time": over_time(frame),
        "visibility": visibility(frame, threshold=threshold),
    }


def mean_scores(frame: pd.DataFrame) -> Json:
    """The headline numbers: metrics over visible samples, visibility accuracy over all."""
    # An absent object has no mask to compare with; only its confidence counts.
    visible = frame[frame["visible"]]
    return {
        **{name: _mean(visible[name]) for name in METRICS},
        VISIBILITY_ACCURACY: balanced_accuracy(
            frame["predicted_visible"].to_numpy(bool), frame["visible"].to_numpy(bool)
        ),
        "samples": len(frame),
        "samples_visible": len(visible),
    }


def existence_plain(frame: pd.DataFrame) -> float | None:
    """Share of visible samples whose prediction and truth are both empty or both not.

    CCMP's "visibility accuracy" (98.92 / 99.86) is this number, which no confidence enters.
    """
    visible = frame[frame["visible"]]
    agrees = (visible["predicted_area"] > 0) == (visible["truth_area"] > 0)
    return _mean(agrees.astype(float))


def intervals(frame: pd.DataFrame) -> Json:
    """95 % intervals [low, high] of the headline numbers; None with fewer than two takes."""
    visible = frame[frame["visible"]]
    draws = draw_visibility_accuracy(frame)
    return {
        "level": LEVEL,
        "draws": DRAWS,
        "over": "takes",
        **{name: bootstrap_mean(visible[name], visible["take_uid"]) for name in METRICS},
        VISIBILITY_ACCURACY: None if draws is None else _interval(draws),
    }


def bootstrap_mean(values: "pd.Series[float]", takes: "pd.Series[str]") -> list[float] | None:
    """Interval of the mean of `values` (n,) over draws of takes; None with fewer than two takes."""
    # A draw of takes needs only their sums and counts, not the samples.
    groups = values.groupby(takes.to_numpy())
    if len(groups) < 2:
        return None
    sums, counts = (
        _draw_sums(np.asarray(part, np.float64)) for part in (groups.sum(), groups.count())
    )
    return _interval(sums[counts > 0] / counts[counts > 0])


def bootstrap_gain(frame_a: pd.DataFrame, frame_b: pd.DataFrame) -> list[float] | None:
    """Interval of the visibility accuracy of B minus that of A, on the same samples."""
    a, b = draw_visibility_accuracy(frame_a), draw_visibility_accuracy(frame_b)
    return None if a is None or b is None else _interval(b - a)


def draw_visibility_accuracy(frame: pd.DataFrame) -> Float64 | None:
    """Balanced accuracy of each draw of takes, (DRAWS,); None with fewer than two takes.

    NaN for a draw without one of the classes of the samples, since it measures something else.
    """
    if frame["take_uid"].nunique() < 2:
        return None
    visible = frame["visible"].astype(bool)
    correct = frame["predicted_visible"].astype(bool) == visible
    recalls = []
    for in_class in (visible, ~visible):
        if in_class.any():
            counts = pd.DataFrame({"correct": correct & in_class, "all": in_class})
            sums = counts.groupby(frame["take_uid"].to_numpy()).sum()
            hits, total = (_draw_sums(sums[name].to_numpy(np.float64)) for name in counts)
            recalls.append(np.where(total > 0, hits / np.maximum(total, 1), np.nan))
    return np.asarray(np.mean(recalls, axis=0), np.float64)


def _draw_sums(per_take: Float64) -> Float64:
    """Sums of `per_take` (n takes,) over DRAWS draws of n takes, (DRAWS,)."""
    takes = len(per_take)
    # The same seed in every call, so that numerator and denominator of a ratio use equal draws.
    rng = np.random.default_rng(SEED)
    times = rng.multinomial(takes, np.full(takes, 1 / takes), size=DRAWS)
    sums: Float64 = times @ per_take
    return sums


def _interval(draws: Float64) -> list[float] | None:
    """The central LEVEL of the finite values; None if there are none."""
    finite = draws[np.isfinite(draws)]
    edge = (1 - LEVEL) / 2
    return np.quantile(finite, [edge, 1 - edge]).tolist() if finite.size else None


def breakdowns(frame: pd.DataFrame) -> dict[str, list[Json]]:
    """The headline numbers of every group of samples, for each of BREAKDOWNS with values."""
    samples = frame.assign(size=size_names(frame))
    parts: dict[str, list[Json]] = {}
    for column in BREAKDOWNS:
        for value, group in samples.groupby(column, sort=True, observed=True):
            # JSON does not accept numpy's bool.
            key = bool(value) if isinstance(value, bool | np.bool_) else str(value)
            parts.setdefault(column, []).append({"value": key, **mean_scores(group)})
    return parts


def size_names(frame: pd.DataFrame) -> "pd.Series[Any]":
    """The size bucket of each sample's true mask; missing without a mask."""
    share = frame["truth_area"] / (frame["scored_height"] * frame["scored_width"])
    share = share.where(frame["visible"].astype(bool))
    ends = [-np.inf, *(end for _, end in SIZES)]
    return pd.cut(share, ends, labels=[name for name, _ in SIZES], right=False)


def ceilings(frame: pd.DataFrame) -> Json | None:
    """Upper bounds that the proposals set, over visible samples; None without any proposals.

    The loss 1 - IoU is the sum of the proposer's, 1 - oracle, and the matcher's, oracle - IoU.
    Samples of frames without proposals count as oracle IoU 0.
    """
    visible = frame[frame["visible"]]
    if visible["oracle_iou"].notna().sum() == 0:
        return None
    # A frame without proposals is a failure of the proposer.
    oracle = visible["oracle_iou"].fillna(0.0)
    loss = float((1 - visible["iou"]).mean())
    proposer_loss = float((1 - oracle).mean())
    return {
        "oracle_iou": float(oracle.mean()),
        "oracle_interval": bootstrap_mean(oracle, visible["take_uid"]),
        **{f"recall_at_{at:g}": float((oracle >= at).mean()) for at in RECALL_AT},
        "proposer_share_of_loss": proposer_loss / loss if loss > 0 else None,
        "matcher_share_of_loss": (loss - proposer_loss) / loss if loss > 0 else None,
        "top5_iou": _mean(visible["top5_iou"]),
        "samples_without_proposals": int(visible["oracle_iou"].isna().sum()),
    }


def over_time(frame: pd.DataFrame) -> Json | None:
    """How stable predictions are between successive samples of a track; None without any.

    Consistency is the mean IoU of successive masks, for predictions and truths over the same
    samples: those in which both exist. Flicker is the share of successive samples between which the
    predicted visibility changes but the true one does not.
    """
    track = list(TRACK_COLUMNS)
    ordered = frame.sort_values([*track, "frame_idx"])
    # Whether a row and the preceding one belong to the same track.
    same = (ordered[track] == ordered[track].shift()).all(axis=1)
    if not same.any():
        return None
    predicted, visible = (ordered[name].astype(bool) for name in ("predicted_visible", "visible"))
    predicted_changes = (predicted != predicted.shift())[same]
    true_changes = (visible != visible.shift())[same]
    # Over the same samples for both: otherwise the ratio would compare different objects.
    measured = ordered[ordered["truth_consistency"].notna() & ordered["consistency"].notna()]
    consistency = _mean(measured["consistency"])
    truth_consistency = _mean(measured["truth_consistency"])
    ratio = None
    if consistency is not None and truth_consistency:
        ratio = consistency / truth_consistency
    return {
        "neighbours": int(same.sum()),
        "median_gap_frames": float(ordered["frame_idx"].diff()[same].median()),
        "consistency": consistency,
        "truth_consistency": truth_consistency,
        "consistency_ratio": ratio,
        "flicker": float((predicted_changes & ~true_changes).mean()),
        "truth_changes": float(true_changes.mean()),
    }


def visibility(frame: pd.DataFrame, *, threshold: float | None = None) -> Json:
    """Visibility accuracy, ROC curve and its area, the best threshold, and calibration.

    The best threshold of these samples is biased on the samples themselves: select it on val and
    pass it as `threshold` when test is scored.
    """
    confidence = frame["confidence"].to_numpy(float)
    visible = frame["visible"].to_numpy(bool)
    summary: Json = {
        "threshold": CONFIDENCE_THRESHOLD,
        "accuracy": balanced_accuracy(confidence > CONFIDENCE_THRESHOLD, visible),
        "calibration": calibration(confidence, visible),
    }
    if threshold is not None:
        accuracy = balanced_accuracy(confidence > threshold, visible)
        summary["given"] = {"threshold": threshold, "accuracy": accuracy}
    return summary | roc(confidence, visible)


def roc(confidence: Float64, visible: Bool) -> Json:
    """ROC curve and its area for "visible if the confidence is above t"; None without both classes.

    `best` is the threshold with the highest balanced accuracy: the midpoint between two successive
    confidences, and the middle one of several equally good thresholds.
    """
    positives, negatives = int(visible.sum()), int((~visible).sum())
    if not positives or not negatives:
        return {"auc": None, "best": None, "roc": None}
    values, inverse = np.unique(confidence, return_inverse=True)
    hits = np.bincount(inverse, visible, len(values))
    falses = np.bincount(inverse, ~visible, len(values))
    # At position k, samples with confidence values[k] or higher are predicted as visible; at
    # position n, none are.
    tpr = np.append(hits[::-1].cumsum()[::-1], 0) / positives
    fpr = np.append(falses[::-1].cumsum()[::-1], 0) / negatives
    # The first threshold is below all confidences: every sample is predicted as visible.
    cuts = np.concatenate([[values[0] - 1e-6], (values[1:] + values[:-1]) / 2, values[-1:]])
    accuracy = (tpr + 1 - fpr) / 2
    best = np.flatnonzero(accuracy == accuracy.max())
    best_idx = int(best[len(best) // 2])
    # The summary stores a part of the curve; `auc` and `best` use all of it.
    points = np.unique(np.linspace(0, len(values), CURVE_POINTS).round().astype(int))
    return {
        "auc": float(np.trapezoid(tpr[::-1], fpr[::-1])),
        "best": {"threshold": float(cuts[best_idx]), "accuracy": float(accuracy[best_idx])},
        "roc": {
            "false_positive_rate": fpr[points].tolist(),
            "true_positive_rate": tpr[points].tolist(),
            "threshold": cuts[points].tolist(),
        },
    }


def calibration(confidence: Float64, visible: Bool) -> Json:
    """Mean confidence and share of visible samples in ten equal bins, and their expected error.

    The expected calibration error of Naeini et al. (AAAI 2015): the difference between mean
    confidence and share of visible samples, weighted by the number of samples in the bin.
    Confidences outside 0..1 are clipped.
    """
    clipped = np.clip(confidence, 0.0, 1.0)
    # A confidence of 1 belongs to the last bin.
    bins = np.minimum((clipped * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    count = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = count > 0
    samples = count[filled]
    mean_confidence = np.bincount(bins, clipped, CALIBRATION_BINS)[filled] / samples
    visible_share = np.bincount(bins, visible, CALIBRATION_BINS)[filled] / samples
    error = np.sum(samples * np.abs(mean_confidence - visible_share)) / count.sum()
    return {
        "expected_error": float(error),
        "bins": [
            {"confidence": float(c), "visible": float(v), "samples": int(n)}
            for c, v, n in zip(mean_confidence, visible_share, samples, strict=True)
        ],
    }


def _mean(values: "pd.Series[float]") -> float | None:
    mean = float(values.mean()) if len(values) else np.nan
    return None if np.isnan(mean) else mean


def format_summary(summary: Mapping[str, Any]) -> str:
    """The lines that `egoexo-tools evaluate` prints: headline numbers, and their samples."""
    coverage = summary["coverage"]
    lines = [
        f"{summary['direction']}, split {summary['split']}, {summary['protocol']} protocol: "
        f"{summary['samples']:,} samples ({summary['samples_visible']:,} visible) "
        f"in {summary['takes']:,} takes"
    ]
    if not coverage["complete"]:
        lines.append(
            f"PARTIAL: {coverage['scored']:,} of {coverage['expected']:,} expected samples scored"
        )
    for name in headlines():
        value, interval = summary[name], summary["intervals"][name]
        text = "-" if value is None else f"{value:.4f}"
        if interval is not None:
            text += f"  [{interval[0]:.4f}, {interval[1]:.4f}]"
        lines.append(f"  {name.replace('_', ' '):20}{text}")
    if summary["ceilings"] is not None:
        lines.append(f"  {'oracle iou':20}{summary['ceilings']['oracle_iou']:.4f}")
    return "\n".join(lines)
