"""The report's figures, each from runs of one direction to inline SVG.

None where there is nothing to draw: the page then says so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from egoexo_tools.arrays import Float64
from egoexo_tools.report.causes import CAUSES, count_causes
from egoexo_tools.report.figures import Figure, shares
from egoexo_tools.report.runs import ScoredRun
from egoexo_tools.runs import DEFAULT_METHOD, table_order
from egoexo_tools.viewing.svg import Svg, nice_ticks

UNIT = (0.0, 1.0)
TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BINS = 20
CURVE_POINTS = 150
"""A figure is 460 pixels wide, and every point makes the page larger."""

STYLES: Mapping[str, tuple[str, str]] = {
    "oracle": ("#009e73", "6 3"),
    DEFAULT_METHOD: ("#2a85d0", ""),
    "knn": ("#e69f00", "2 2"),
    "random": ("#8a8a8a", "1 3"),
}
"""Method → colour and dash: close to Okabe and Ito's colours, which the colour-blind can tell
apart, with a lighter blue that also shows on dark pages."""
OTHER_STYLES = (("#cc79a7", ""), ("#d55e00", "5 2"), ("#56b4e9", ""), ("#b0a000", "4 4"))

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


def styles(runs: Sequence[ScoredRun]) -> dict[str, tuple[str, str]]:
    """Run name → colour and dash; the first run of a method has the method's own."""
    found: dict[str, tuple[str, str]] = {}
    taken: set[str] = set()
    others = 0
    for run in runs:
        method = run.stamp.method
        if method in STYLES and method not in taken:
            found[run.name] = STYLES[method]
            taken.add(method)
        else:
            found[run.name] = OTHER_STYLES[others % len(OTHER_STYLES)]
            others += 1
    return found


def success_chart(runs: Sequence[ScoredRun]) -> Svg | None:
    """Share of visible samples whose IoU is above t, for every t."""
    figure = Figure(UNIT, UNIT, "IoU above", "share of visible samples", "success curve")
    look = styles(runs)
    grid = np.linspace(0, 1, 101)
    for run in runs:
        ious = _ious(run)
        if not len(ious):
            continue
        share = 1 - np.searchsorted(np.sort(ious), grid, side="right") / len(ious)
        colour, dash = look[run.name]
        figure.line(zip(grid, share, strict=True), colour=colour, dash=dash)
    return _drawn(figure, any(len(_ious(run)) for run in runs))


def histogram(run: ScoredRun) -> Svg | None:
    """How the IoU of visible samples is distributed."""
    ious = _ious(run)
    if not len(ious):
        return None
    counts, edges = np.histogram(ious, bins=BINS, range=UNIT)
    top = float(counts.max())
    title = f"IoU distribution of {run.label}"
    figure = Figure(UNIT, (0, top * 1.05), "IoU", "visible samples", title)
    colour = styles([run])[run.name][0]
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        tip = f"IoU {low:.2f} to {high:.2f}: {count:,} of {len(ious):,} samples"
        figure.box((low, 0), (high, count), colour=colour, tip=tip)
    # Samples are whole: no ticks between.
    return figure.markup(x_ticks=TICKS, y_ticks=[t for t in nice_ticks(0, top) if not t % 1])


def roc_chart(runs: Sequence[ScoredRun]) -> Svg | None:
    """Visibility: share of visible samples kept against share of absent ones let through."""
    figure = Figure(
        UNIT, UNIT, "absent called visible", "visible called visible", "ROC", height=330
    )
    figure.line([(0, 0), (1, 1)], colour="#999999", width=1)
    look, any_curve = styles(runs), False
    for run in runs:
        curve = run.summary.get("visibility", {}).get("roc")
        if curve:
            points = zip(curve["false_positive_rate"], curve["true_positive_rate"], strict=True)
            figure.line(points, colour=look[run.name][0], dash=look[run.name][1])
            any_curve = True
    return _drawn(figure, any_curve)


def calibration_chart(runs: Sequence[ScoredRun]) -> Svg | None:
    """Mean confidence of ten bins against the share that is visible; the area is the samples."""
    figure = Figure(UNIT, UNIT, "confidence", "share visible", "calibration", height=330)
    figure.line([(0, 0), (1, 1)], colour="#999999", width=1)
    look, any_bin = styles(runs), False
    for run in runs:
        bins = run.summary.get("visibility", {}).get("calibration", {}).get("bins", [])
        total = sum(one["samples"] for one in bins)
        points = [(one["confidence"], one["visible"]) for one in bins]
        figure.line(points, colour=look[run.name][0], dash=look[run.name][1], width=1.2)
        for one, point in zip(bins, points, strict=True):
            radius = round(2.5 + 7 * (one["samples"] / total) ** 0.5, 1)
            figure.points([point], colour=look[run.name][0], radius=radius)
            any_bin = True
    return _drawn(figure, any_bin)


def training_charts(run: ScoredRun) -> list[Svg]:
    """Loss and validation IoU over steps, as far as the log has them.

    Dashed lines stand for what was there before training: nearest neighbours, a start of worth.
    """
    found = []
    for key, label in (("loss", "training loss"), ("val_iou", "IoU on val")):
        steps, values = _curve(run, key)
        # One loss is no curve, but one validation is a number worth showing.
        if len(steps) < 2 and key == "loss" or not len(steps):
            continue
        before = _before_training(run) if key == "val_iou" else {}
        high = max(float(values.max()), *before.values(), 0.0) * 1.05 or 1.0
        low = min(0.0, float(values.min()))
        last = max(float(line["step"]) for line in run.log)
        figure = Figure((0, last), (low, high), "step", label, f"{label} of {run.label}")
        points = list(zip(steps, values, strict=True))
        colour = styles([run])[run.name][0]
        figure.line(points, colour=colour)
        for name, iou in before.items():
            figure.line([(0, iou), (last, iou)], colour="#777777", dash="3 4", width=1.2)
            figure.note(last, iou, f"{name} {iou:.3f}", anchor="end")
        if key == "val_iou":
            figure.points(points, colour=colour, radius=3.5)
            step, best = points[int(values.argmax())]
            # A little below the best point, so that the words do not lie on it.
            figure.note(step, best * 0.88, f"best {best:.3f}", anchor="end" if step else "start")
        ticks = nice_ticks(0, last)
        found.append(figure.markup(x_ticks=ticks, y_ticks=nice_ticks(low, high)))
    return found


def _before_training(run: ScoredRun) -> dict[str, float]:
    """Val IoU that was measured before the first step, by what it is of."""
    names = {"knn_val_iou": "k-NN", "start_val_iou": "start"}
    found = {}
    for key, name in names.items():
        _, values = _curve(run, key)
        if len(values):
            found[name] = float(values[0])
    return found


def loss_bar(run: ScoredRun) -> Svg | None:
    """IoU reached, and the rest split into what the matcher and what the proposer lost."""
    parts = loss_parts(run)
    if parts is None:
        return None
    return shares([(parts[key], LOSS_COLOURS[key], f"{key}: {parts[key]:.3f}") for key in parts])


def loss_parts(run: ScoredRun) -> dict[str, float] | None:
    """reached + matcher + proposer = 1, or None where the ceilings are not known.

    Nor for a run that chose no proposals: they are no ceiling of masks of its own.
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
    # What went well first: from a common edge, lengths of several runs can be compared.
    order = ["found", "rightly-absent", *(c for c in CAUSES if c in counts)]
    return shares(
        [
            (counts[c] / total, CAUSE_COLOURS[c], f"{CAUSES[c]}: {counts[c]:,} of {total:,}")
            for c in dict.fromkeys(order)
            if c in counts
        ]
    )


def legend(runs: Sequence[ScoredRun]) -> list[dict[str, Any]]:
    """Label, colour and dash of each run, for the page."""
    look = styles(runs)
    return [
        {"label": run.label, "colour": look[run.name][0], "dash": look[run.name][1]}
        for run in sorted(runs, key=lambda run: table_order(run.stamp)[0])
    ]


def _ious(run: ScoredRun) -> Float64:
    if run.scores is None:
        return np.zeros(0)
    visible = run.scores[run.scores["visible"].astype(bool)]
    return visible["iou"].dropna().to_numpy(np.float64)


def _curve(run: ScoredRun, key: str) -> tuple[Float64, Float64]:
    """Steps and values of a key of the log, averaged into at most CURVE_POINTS points."""
    found = [(line["step"], line[key]) for line in run.log if key in line]
    pairs = np.array(found, np.float64).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    chunks = np.array_split(pairs, min(len(pairs), CURVE_POINTS) or 1)
    means = np.array([chunk.mean(axis=0) for chunk in chunks if len(chunk)]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def _drawn(figure: Figure, anything: bool) -> Svg | None:
    return figure.markup(x_ticks=TICKS, y_ticks=TICKS) if anything else None
