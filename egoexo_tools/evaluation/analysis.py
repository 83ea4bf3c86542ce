"""From a table of scores to a summary: means, intervals, breakdowns, ceilings, time, visibility.

Everything here works on the `scores` schema alone and returns JSON values: None where there is
nothing to measure, never NaN. Intervals are percentiles of a bootstrap over takes: the samples of
a take are not independent, so takes are drawn, with replacement, and all their samples with them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

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
SIZES: Sequence[tuple[str, float]] = (
    ("tiny (< 0.1 %)", 0.001),
    ("small (0.1-0.5 %)", 0.005),
    ("medium (0.5-2 %)", 0.02),
    ("large (> 2 %)", np.inf),
)
"""Share of the destination image that the true mask covers: name, upper end."""
BREAKDOWNS = ("scenario", "size", "dest_camera", "take_uid", "visible")
CALIBRATION_BINS = 10
CURVE_POINTS = 101


def summarize(
    scores: pa.Table, *, about: Json, coverage: Json, threshold: float | None = None
) -> Json:
    """The summary of `egoexo-tools evaluate`; `about` names protocol, direction and split."""
    frame = scores.to_pandas()
    return {
        **mean_scores(frame),
        **about,
        "intervals": intervals(frame),
        "takes": int(frame["take_uid"].nunique()),
        "coverage": coverage,
        "breakdowns": breakdowns(frame),
        "ceilings": ceilings(frame),
        "over_time": over_time(frame),
        "visibility": visibility(frame, threshold=threshold),
    }


def mean_scores(frame: pd.DataFrame) -> Json:
    """The headline numbers: means over samples whose truth exists; accuracy over all."""
    visible = frame[frame["visible"]]
    return {
        **{name: _mean(visible[name]) for name in METRICS},
        VISIBILITY_ACCURACY: balanced_accuracy(
            frame["predicted_visible"].to_numpy(bool), frame["visible"].to_numpy(bool)
        ),
        "samples": len(frame),
        "samples_visible": len(visible),
    }


def intervals(frame: pd.DataFrame) -> Json:
    """95 % intervals [low, high] of the headline numbers; None with fewer than two takes."""
    visible = frame[frame["visible"]]
    found: Json = {name: bootstrap_mean(visible[name], visible["take_uid"]) for name in METRICS}
    found[VISIBILITY_ACCURACY] = _bootstrap_visibility(frame)
    return {"level": LEVEL, "draws": DRAWS, "over": "takes", **found}


def bootstrap_mean(values: "pd.Series[float]", takes: "pd.Series[str]") -> list[float] | None:
    """Interval of the mean of `values` (n,) over draws of takes; None with fewer than two."""
    groups = values.groupby(takes.to_numpy())
    sums, counts = (part.to_numpy(np.float64) for part in (groups.sum(), groups.count()))
    return _interval(_drawn(sums), _drawn(counts))


def _bootstrap_visibility(frame: pd.DataFrame) -> list[float] | None:
    drawn = visibility_draws(frame)
    return None if drawn is None else _percentiles(drawn[np.isfinite(drawn)])


def bootstrap_gain(frame_a: pd.DataFrame, frame_b: pd.DataFrame) -> list[float] | None:
    """Interval of the visibility accuracy of B minus that of A, on the same samples."""
    a, b = visibility_draws(frame_a), visibility_draws(frame_b)
    if a is None or b is None:
        return None
    return _percentiles((b - a)[np.isfinite(b - a)])


def visibility_draws(frame: pd.DataFrame) -> Float64 | None:
    """Balanced accuracy of each draw of takes, (DRAWS,); None with fewer than two takes.

    NaN for a draw without one of the classes that the samples have: it measures something else.
    """
    visible, said = frame["visible"].astype(bool), frame["predicted_visible"].astype(bool)
    right = said == visible
    recalls = []
    for chosen in (visible, ~visible):
        counts = pd.DataFrame({"right": right & chosen, "all": chosen})
        sums = counts.groupby(frame["take_uid"].to_numpy()).sum()
        hits, total = (_drawn(sums[name].to_numpy(np.float64)) for name in ("right", "all"))
        if total is None:
            return None
        if chosen.any():
            recalls.append(np.where(total > 0, hits / np.maximum(total, 1), np.nan))
    return np.asarray(np.mean(recalls, axis=0), np.float64)


def _drawn(per_take: NDArray[Any]) -> Any:
    """Sums over DRAWS draws of takes, (DRAWS,); None with fewer than two takes.

    Seeded, so that numerator and denominator of a ratio see the same draws.
    """
    takes = len(per_take)
    if takes < 2:
        return None
    rng = np.random.default_rng(SEED)
    times = rng.multinomial(takes, np.full(takes, 1 / takes), size=DRAWS)
    return times @ per_take


def _interval(sums: Any, counts: Any) -> list[float] | None:
    if sums is None:
        return None
    drawn = counts > 0
    return _percentiles(sums[drawn] / counts[drawn])


def _percentiles(values: Float64) -> list[float] | None:
    if not values.size:
        return None
    edge = (1 - LEVEL) / 2
    return [float(value) for value in np.quantile(values, [edge, 1 - edge])]


def breakdowns(frame: pd.DataFrame) -> dict[str, list[Json]]:
    """The headline numbers of every group of samples, for each of BREAKDOWNS that is known."""
    groups = frame.assign(size=size_names(frame))
    found = {}
    for column in BREAKDOWNS:
        known = groups[groups[column].notna()]
        parts = known.groupby(column, sort=True, observed=True)
        if len(known):
            found[column] = [{"value": _json(value), **mean_scores(part)} for value, part in parts]
    return found


def size_names(frame: pd.DataFrame) -> "pd.Series[Any]":
    """The size bucket of each sample's true mask; missing where it has none."""
    share = frame["truth_area"] / (frame["scored_height"] * frame["scored_width"])
    share = share.where(frame["visible"].astype(bool))
    ends = [-np.inf, *(end for _, end in SIZES)]
    return pd.cut(share, ends, labels=[name for name, _ in SIZES], right=False)


def ceilings(frame: pd.DataFrame) -> Json | None:
    """What the proposals allow, over visible samples with proposals; None without any.

    The loss 1 - IoU splits into the proposer's, 1 - oracle, and the matcher's, oracle - IoU.
    Samples of frames without proposals count as oracle IoU 0.
    """
    visible = frame[frame["visible"]]
    if visible["oracle_iou"].notna().sum() == 0:
        return None
    oracle = visible["oracle_iou"].fillna(0.0)
    loss = float((1 - visible["iou"]).mean())
    proposers = float((1 - oracle).mean())
    return {
        "oracle_iou": float(oracle.mean()),
        "oracle_interval": bootstrap_mean(oracle, visible["take_uid"]),
        **{f"recall_at_{at:g}": float((oracle >= at).mean()) for at in RECALL_AT},
        "proposer_share_of_loss": proposers / loss if loss > 0 else None,
        "matcher_share_of_loss": (loss - proposers) / loss if loss > 0 else None,
        "top5_iou": _mean(visible["top5_iou"]),
        "samples_without_proposals": int(visible["oracle_iou"].isna().sum()),
    }


def over_time(frame: pd.DataFrame) -> Json | None:
    """How steady predictions are from one sample of a track to the next; None without tracks.

    Consistency is over neighbours in which the object is visible, prediction and truth alike.
    A flicker is a change of the predicted visibility that the truth does not make.
    """
    track = list(TRACK_COLUMNS)
    ordered = frame.sort_values([*track, "frame_idx"])
    same = (ordered[track] == ordered[track].shift()).all(axis=1)
    if not same.any():
        return None
    said, true = ordered["predicted_visible"].astype(bool), ordered["visible"].astype(bool)
    said_changed = (said != said.shift())[same]
    true_changed = (true != true.shift())[same]
    both = ordered[ordered["truth_consistency"].notna() & ordered["consistency"].notna()]
    predicted, truth = _mean(both["consistency"]), _mean(both["truth_consistency"])
    return {
        "neighbours": int(same.sum()),
        "median_gap_frames": float(ordered["frame_idx"].diff()[same].median()),
        "consistency": predicted,
        "truth_consistency": truth,
        "consistency_ratio": predicted / truth if predicted is not None and truth else None,
        "flicker": float((said_changed & ~true_changed).mean()),
        "truth_changes": float(true_changed.mean()),
    }


def visibility(frame: pd.DataFrame, *, threshold: float | None = None) -> Json:
    """ROC, area under it, the best threshold of these samples, calibration.

    A best threshold is only fair on other samples than it was chosen on: choose it on val, and
    give it as `threshold` when test is scored.
    """
    confidence = frame["confidence"].to_numpy(float)
    visible = frame["visible"].to_numpy(bool)
    curve = roc(confidence, visible)
    found: Json = {
        "threshold": CONFIDENCE_THRESHOLD,
        "accuracy": balanced_accuracy(confidence > CONFIDENCE_THRESHOLD, visible),
        "calibration": calibration(confidence, visible),
    }
    if threshold is not None:
        accuracy = balanced_accuracy(confidence > threshold, visible)
        found["given"] = {"threshold": threshold, "accuracy": accuracy}
    return found | curve


def roc(confidence: Float64, visible: Bool) -> Json:
    """Curve and area for "confidence above t says visible"; None without both classes.

    `best` is the threshold with the highest balanced accuracy (the midpoint between neighbouring
    confidences; the middle one of several equally good).
    """
    positives, negatives = int(visible.sum()), int((~visible).sum())
    if not positives or not negatives:
        return {"auc": None, "best": None, "roc": None}
    values, inverse = np.unique(confidence, return_inverse=True)
    hits = np.bincount(inverse, visible, len(values))
    falses = np.bincount(inverse, ~visible, len(values))
    # Position k: everything from values[k] up is called visible; position n: nothing is.
    tpr = np.append(hits[::-1].cumsum()[::-1], 0) / positives
    fpr = np.append(falses[::-1].cumsum()[::-1], 0) / negatives
    cuts = np.concatenate([[values[0] - 1e-6], (values[1:] + values[:-1]) / 2, values[-1:]])
    accuracy = (tpr + 1 - fpr) / 2
    best = np.flatnonzero(accuracy == accuracy.max())
    best_idx = int(best[len(best) // 2])
    shown = np.unique(np.linspace(0, len(values), CURVE_POINTS).round().astype(int))
    return {
        "auc": float(np.trapezoid(tpr[::-1], fpr[::-1])),
        "best": {"threshold": float(cuts[best_idx]), "accuracy": float(accuracy[best_idx])},
        "roc": {
            "false_positive_rate": fpr[shown].tolist(),
            "true_positive_rate": tpr[shown].tolist(),
            "threshold": cuts[shown].tolist(),
        },
    }


def calibration(confidence: Float64, visible: Bool) -> Json:
    """Does a confidence of 0.8 mean visible in 80 %? Ten equal bins, and their expected error.

    The error is that of Naeini et al. (AAAI 2015): the gap between mean confidence and share of
    visible samples, weighted by the samples of the bin. Confidences outside 0..1 are clipped.
    """
    clipped = np.clip(confidence, 0.0, 1.0)
    bins = np.minimum((clipped * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    count = np.bincount(bins, minlength=CALIBRATION_BINS)
    used = count > 0
    said = np.bincount(bins, clipped, CALIBRATION_BINS)[used] / count[used]
    true = np.bincount(bins, visible, CALIBRATION_BINS)[used] / count[used]
    return {
        "expected_error": float(np.sum(count[used] * np.abs(said - true)) / count.sum()),
        "bins": [
            {"confidence": float(c), "visible": float(v), "samples": int(n)}
            for c, v, n in zip(said, true, count[used], strict=True)
        ],
    }


def _mean(values: "pd.Series[float]") -> float | None:
    mean = float(values.mean()) if len(values) else np.nan
    return None if np.isnan(mean) else mean


def _json(value: Any) -> Any:
    return bool(value) if isinstance(value, bool | np.bool_) else str(value)


def format_summary(summary: Mapping[str, Any]) -> str:
    """The few lines that `egoexo-tools evaluate` prints: never a number without what it is of."""
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
