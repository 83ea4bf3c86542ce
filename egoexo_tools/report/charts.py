"""The report's charts as inline SVG, each of runs of one direction; None without data.

The page shows a sentence in place of a missing chart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from egoexo_tools.arrays import Float64
from egoexo_tools.report.causes import CAUSES, count_causes
from egoexo_tools.report.figures import Figure, share_bar
from egoexo_tools.report.runs import ScoredRun
from egoexo_tools.runs import DEFAULT_METHOD, table_order
from egoexo_tools.viewing.svg import Svg, nice_ticks

UNIT = (0.0, 1.0)
TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BINS = 20
# A figure is 460 pixels wide, and every point makes the page larger.
CURVE_POINTS = 150

# Close to the colours of Okabe and Ito, which colour-blind readers can distinguish, but with a
# lighter blue that is also visible on dark pages.
STYLES: Mapping[str, tuple[str, str]] = {
    "oracle": ("#009e73", "6 3"),
    DEFAULT_METHOD: ("#2a85d0", ""),
    "knn": ("#e69f00", "2 2"),
    "random": ("#8a8a8a", "1 3"),
}
"""Method → colour and dash."""
MORE_STYLES = (("#cc79a7", ""), ("#d55e00", "5 2"), ("#56b4e9", ""), ("#b0a000", "4 4"))

CAUSE_COLOURS: Mapping[str, str] = {
    "found": "#2a85d0",
    "rightly-absent": "#8fcaf0",
    "no-proposal": "#5a5a5a",
    "wrong": "#d55e00",
    "unknown": "#d55e00",
    "falsely-absent": "#e69f00",
    "falsely-visible": "#cc79a7",
}
LOSS_COLOURS = {"reached": "#2a85d0", "matcher": "#d55e00", "proposer": "#5a5a5a"}


def run_styles(runs: Sequence[ScoredRun]) -> dict[str, tuple[str, str]]:
    """Run name → colour and dash; the first run of a method has the method's style."""
    styles: dict[str, tuple[str, str]] = {}
    free_styles = dict(STYLES)
    number = 0
    for run in runs:
        if run.stamp.method in free_styles:
            styles[run.name] = free_styles.pop(run.stamp.method)
        else:
            styles[run.name] = MORE_STYLES[number % len(MORE_STYLES)]
            number += 1
    return styles


def success_chart(runs: Sequence[ScoredRun]) -> Svg | None:
    """Share of visible samples whose IoU is above t, for every t."""
    figure = Figure(UNIT, UNIT, "IoU above", "share of visible samples", "success curve")
    styles, has_curve = run_styles(runs), False
    grid = np.linspace(0, 1, 101)
    for run in runs:
        ious = _visible_ious(run)
        if len(ious):
            share = 1 - np.searchsorted(np.sort(ious), grid, side="right") / len(ious)
            colour, dash = styles[run.name]
            figure.line(zip(grid, share, strict=True), colour=colour, dash=dash)
            has_curve = True
    return figure.markup(x_ticks=TICKS, y_ticks=TICKS) if has_curve else None


def histogram(run: ScoredRun) -> Svg | None:
    """Histogram of the IoU of visible samples."""
    ious = _visible_ious(run)
    if not len(ious):
        return None
    counts, edges = np.histogram(ious, bins=BINS, range=UNIT)
    # The axis ends 5 % above the highest bar.
    top = float(counts.max())
    title = f"IoU distribution of {run.label}"
    figure = Figure(UNIT, (0, top * 1.05), "IoU", "visible samples", title)
    colour = run_styles([run])[run.name][0]
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        tip = f"IoU {low:.2f} to {high:.2f}: {count:,} of {len(ious):,} samples"
        figure.box((low, 0), (high, count), colour=colour, tip=tip)
    # Numbers of samples are integers, so there are no ticks at fractions.
    return figure.markup(x_ticks=TICKS, y_ticks=[t for t in nice_ticks(0, top) if not t % 1])


def roc_chart(runs: Sequence[ScoredRun]) -> Svg | None:
    """ROC of visibility: true positive rate against false positive rate."""
    figure = Figure(
        UNIT, UNIT, "false positive rate", "true positive rate", "ROC curve", height=330
    )
    figure.line([(0, 0), (1, 1)], colour="#999999", width=1)
    styles, has_curve = run_styles(runs), False
    for run in runs:
        curve = run.summary.get("visibility", {}).get("roc")
        if curve:
            points = zip(curve["false_positive_rate"], curve["true_positive_rate"], strict=True)
            figure.line(points, colour=styles[run.name][0], dash=styles[run.name][1])
            has_curve = True
    return figure.markup(x_ticks=TICKS, y_ticks=TICKS) if has_curve else None


def calibration_chart(runs: Sequence[ScoredRun]) -> Svg | None:
    """Mean confidence of ten bins against their share of visible samples.

    The area of a dot is proportional to its number of samples.
    """
    figure = Figure(
        UNIT, UNIT, "mean confidence", "share of visible samples", "calibration", height=330
    )
    figure.line([(0, 0), (1, 1)], colour="#999999", width=1)
    styles, has_bins = run_styles(runs), False
    for run in runs:
        bins = run.summary.get("visibility", {}).get("calibration", {}).get("bins", [])
        total = sum(part["samples"] for part in bins)
        colour, dash = styles[run.name]
        points = [(part["confidence"], part["visible"]) for part in bins]
        figure.line(points, colour=colour, dash=dash, width=1.2)
        for part, point in zip(bins, points, strict=True):
            # The square root makes the area proportional; 2.5 keeps rare bins visible.
            radius = round(2.5 + 7 * (part["samples"] / total) ** 0.5, 1)
            figure.points([point], colour=colour, radius=radius)
            has_bins = True
    return figure.markup(x_ticks=TICKS, y_ticks=TICKS) if has_bins else None


def training_charts(run: ScoredRun) -> list[Svg]:
    """Loss and validation IoU over steps, if the log contains them.

    Dashed lines show the validation IoU before training: of nearest neighbours, and of the
    initial weights.
    """
    charts = []
    for key, label in (("loss", "training loss"), ("val_iou", "IoU on val")):
        steps, values = _log_curve(run, key)
        # One loss is not a curve, but one validation is a number worth showing.
        if len(steps) < 2 and key == "loss" or not len(steps):
            continue
        before: dict[str, float] = {}
        for before_key, name in (("knn_val_iou", "k-NN"), ("start_val_iou", "start")):
            _, ious = _log_curve(run, before_key)
            if key == "val_iou" and len(ious):
                before[name] = float(ious[0])
        high = max(float(values.max()), *before.values(), 0.0) * 1.05 or 1.0
        low = min(0.0, float(values.min()))
        last = max(float(line["step"]) for line in run.log)
        figure = Figure((0, last), (low, high), "step", label, f"{label} of {run.label}")
        points = list(zip(steps, values, strict=True))
        colour = run_styles([run])[run.name][0]
        figure.line(points, colour=colour)
        for name, iou in before.items():
            figure.line([(0, iou), (last, iou)], colour="#777777", dash="3 4", width=1.2)
            figure.note(last, iou, f"{name} {iou:.3f}", anchor="end")
        if key == "val_iou":
            figure.points(points, colour=colour, radius=3.5)
            step, best = points[int(values.argmax())]
            # Below the best point, so that the text does not cover it.
            figure.note(step, best * 0.88, f"best {best:.3f}", anchor="end" if step else "start")
        charts.append(figure.markup(x_ticks=nice_ticks(0, last), y_ticks=nice_ticks(low, high)))
    return charts


def loss_bar(run: ScoredRun) -> Svg | None:
    """The IoU reached, and the loss of the matcher and of the proposer."""
    parts = loss_parts(run)
    if parts is None:
        return None
    return share_bar([(parts[key], LOSS_COLOURS[key], f"{key}: {parts[key]:.3f}") for key in parts])


def loss_parts(run: ScoredRun) -> dict[str, float] | None:
    """reached + matcher + proposer = 1; None if the ceilings are unknown.

    Also None for a run that does not choose among the proposals, since they do not limit its masks.
    """
    ceilings, iou = run.summary.get("ceilings"), run.summary["iou"]
    if not ceilings or iou is None or not run.stamp.chooses_proposals:
        return None
    oracle = float(ceilings["oracle_iou"])
    return {"reached": iou, "matcher": max(oracle - iou, 0.0), "proposer": 1 - max(oracle, iou)}


def cause_bar(run: ScoredRun) -> Svg | None:
    """All samples by cause."""
    if run.scores is None:
        return None
    counts = count_causes(run.scores, chooses_proposals=run.stamp.chooses_proposals)
    total = sum(counts.values())
    # The correct samples first: lengths that start at the same edge can be compared between runs.
    order = dict.fromkeys(["found", "rightly-absent", *CAUSES])
    return share_bar(
        [
            (counts[c] / total, CAUSE_COLOURS[c], f"{CAUSES[c]}: {counts[c]:,} of {total:,}")
            for c in order
            if c in counts
        ]
    )


def legend(runs: Sequence[ScoredRun]) -> list[dict[str, Any]]:
    """Label, colour and dash of each run, for the page."""
    styles = run_styles(runs)
    return [
        {"label": run.label, "colour": styles[run.name][0], "dash": styles[run.name][1]}
        for run in sorted(runs, key=lambda run: table_order(run.stamp)[0])
    ]


def _visible_ious(run: ScoredRun) -> Float64:
    if run.scores is None:
        return np.zeros(0)
    visible = run.scores[run.scores["visible"].astype(bool)]
    return visible["iou"].dropna().to_numpy(np.float64)


def _log_curve(run: ScoredRun, key: str) -> tuple[Float64, Float64]:
    """Steps and values of a key of the log, averaged to at most CURVE_POINTS points."""
    points = [(line["step"], line[key]) for line in run.log if key in line]
    pairs = np.array(points, np.float64).reshape(-1, 2)
    chunks = np.array_split(pairs, min(len(pairs), CURVE_POINTS) or 1)
    means = np.array([chunk.mean(axis=0) for chunk in chunks if len(chunk)]).reshape(-1, 2)
    return means[:, 0], means[:, 1]
