"""The report: scored runs in, one HTML page out.

Text from files is escaped (`viewing.pages`); figures are finished markup (`viewing.svg`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from egoexo_tools.aliases import Json
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.metrics import CONFIDENCE_THRESHOLD, METRICS, headlines
from egoexo_tools.evaluation.published import NOT_KNOWN, PAIR_ALONE, PUBLISHED, incomparable_reason
from egoexo_tools.layout import write_atomic
from egoexo_tools.report import charts
from egoexo_tools.report.causes import CAUSES, FAILURES, count_causes, explain_causes
from egoexo_tools.report.figures import dot_strip, interval_strip
from egoexo_tools.report.gallery import make_cards
from egoexo_tools.report.runs import ScoredRun, main_run, read_runs
from egoexo_tools.report.strips import make_strips
from egoexo_tools.report.take_pages import write_take_pages
from egoexo_tools.report.tracks import before_after, count_tracks
from egoexo_tools.runs import DECISIONS
from egoexo_tools.viewing.pages import render_page, require_jinja
from egoexo_tools.vocab import Direction

TEMPLATES = Path(__file__).parent
DIRECTION_NAMES = {Direction.EGO2EXO: "Ego → Exo", Direction.EXO2EGO: "Exo → Ego"}
BREAKDOWN_TITLES: Mapping[str, str] = {
    "scenario": "scenario",
    "size": "object size (share of the destination image)",
    "dest_camera": "destination camera",
    "take_uid": "take",
}
SCORE_STRIP_WIDTH, BREAKDOWN_STRIP_WIDTH = 180, 120
"""Widths of the small axes in tables, in pixels; page.css has them too."""
MOST_ROWS = 40
"""Number of groups shown of a breakdown; those with the lowest IoU."""


def write_report(runs: Sequence[Path], page: Path) -> None:
    """Write one self-contained page about runs, which are folders `<root>/runs/<run>/`.

    Writes pages of the takes with failures beside it, which its pictures link to. The page lists
    the files that a run lacks. Raises DataError for a folder that is not a scored run, for damaged
    files, and if the optional dependencies `report` are not installed.
    """
    require_jinja("the report")
    from jinja2 import TemplateError

    scored_runs = read_runs(runs)
    try:
        html = _render(scored_runs, page)
    # The values of a summary that are not headline numbers are not checked before they are used.
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError,
            TemplateError) as error:  # fmt: skip
        names = ", ".join(run.name for run in scored_runs)
        raise DataError(
            f"a summary or scores file of {names} is damaged ({error!r}); evaluate again"
        ) from error
    write_atomic(page, html)


def _render(runs: Sequence[ScoredRun], page: Path) -> str:
    ranked = sorted(
        runs, key=lambda run: -1.0 if (iou := run.summary["iou"]) is None else iou, reverse=True
    )
    by_direction = {
        direction: [run for run in ranked if run.direction is direction] for direction in Direction
    }
    # The run that pictures and figures of a single run show.
    mains = {direction: main_run(part) for direction, part in by_direction.items() if part}
    missing = [f"{run.name}: {sentence}" for run in runs for sentence in run.missing]
    cards = [card for main in mains.values() for card in make_cards(main, missing)]
    sections = [
        _direction_content(direction, by_direction[direction], main, missing)
        for direction, main in mains.items()
    ]
    groups = {group for card in cards for group in card.groups.split()}
    group_names = {name: name for name in ("best", "median", "worst")}
    group_names |= {cause: CAUSES[cause] for cause in FAILURES}
    lower_is_better = {name for name, metric in METRICS.items() if metric.better == "lower"}
    content = {
        "directions": sections,
        "metrics": [
            {"name": name, "title": title, "arrow": "↓" if name in lower_is_better else "↑"}
            for name, title in headlines().items()
        ],
        "has_ceilings": any(run.stamp.chooses_proposals for run in runs),
        "threshold": CONFIDENCE_THRESHOLD,
        "cards": cards,
        "take_pages": write_take_pages(list(mains.values()), cards, page, missing),
        "main_names": {str(direction): main.folder.name for direction, main in mains.items()},
        "filters": {
            "groups": [(key, name) for key, name in group_names.items() if key in groups],
            "objects": sorted({card.object_name for card in cards}),
            "scenarios": sorted({card.scenario for card in cards}),
            "directions": sorted({card.direction for card in cards}),
        },
        "missing": missing,
    }
    return render_page(
        TEMPLATES,
        "page",
        content,
        filters={
            "score": lambda value: "–" if value is None else f"{value:.3f}",
            "count": lambda value: f"{value:,}",
        },
    )


def _direction_content(
    direction: Direction, runs: Sequence[ScoredRun], main: ScoredRun, missing: list[str]
) -> Json:
    """The values of the template for one direction."""
    colours = {name: colour for name, (colour, _) in charts.run_styles(runs).items()}
    change = before_after(runs, main)
    track_run = main if change is None else change.after
    earlier_run = None if change is None else change.before
    figures = {run.name: charts.training_charts(run) for run in runs}
    # An unknown decision of another program is shown by its name.
    decision = DECISIONS.get(main.stamp.decision, main.stamp.decision)
    return {
        "key": str(direction),
        "title": DIRECTION_NAMES[direction],
        "main": main,
        "runs": runs,
        "legend": charts.legend(runs),
        "tables": _score_tables(runs, colours),
        "ceilings": [
            {"run": run, "ceilings": run.summary["ceilings"], "bar": bar}
            for run in runs
            if (bar := charts.loss_bar(run)) is not None
        ],
        "unbounded": [run.label for run in runs if not run.stamp.chooses_proposals],
        "causes": _cause_table(runs),
        "breakdowns": _breakdowns(runs, main, colours),
        "histogram": charts.histogram(main),
        "success": charts.success_chart(runs),
        "roc": charts.roc_chart(runs),
        "calibration": charts.calibration_chart(runs),
        "training": [(run, figures[run.name]) for run in runs if figures[run.name]],
        "tracks": {run.name: count_tracks(run.scores) for run in runs if run.scores is not None},
        "change": change,
        "track_run": track_run,
        "strips": make_strips(track_run, earlier_run, missing),
        # In the terms of the published numbers. The stamp of a run that paints its own masks does
        # not say which frames they depend on.
        "mode": decision or (PAIR_ALONE if main.stamp.chooses_proposals else NOT_KNOWN),
        "published": _published(main),
        "loss_colours": charts.LOSS_COLOURS,
    }


def _score_tables(runs: Sequence[ScoredRun], colours: Mapping[str, str]) -> list[Json]:
    """One table per protocol and split, because numbers of different ones are not comparable."""
    tables: dict[tuple[str, str], Json] = {}
    for run in runs:
        for summary in run.summaries:
            protocol, split = summary["protocol"], summary["split"]
            table = tables.setdefault(
                (protocol, split),
                {"protocol": protocol, "split": split, "rows": [], "sizes": set()},
            )
            colour, iou = colours[run.name], summary["iou"]
            interval = summary["intervals"].get("iou")
            figure = (
                None if iou is None else interval_strip(iou, interval, colour, SCORE_STRIP_WIDTH)
            )
            table["rows"].append(
                {"run": run, "summary": summary, "colour": colour, "figure": figure}
            )
            table["sizes"].add((summary["samples"], summary["samples_visible"], summary["takes"]))
    return [{**table, "sizes": sorted(table["sizes"])} for table in tables.values()]


def _cause_table(runs: Sequence[ScoredRun]) -> Json | None:
    """Number of samples of each cause, for every run that has scores."""
    counts = {
        run.name: count_causes(run.scores, chooses_proposals=run.stamp.chooses_proposals)
        for run in runs
        if run.scores is not None
    }
    if not counts:
        return None
    # Columns only for causes that occur in one of the runs.
    causes = [cause for cause in CAUSES if any(cause in row for row in counts.values())]
    explanations = explain_causes(
        chooses_proposals=any(run.stamp.chooses_proposals for run in runs)
    )
    return {
        "columns": [
            {
                "name": CAUSES[cause],
                "colour": charts.CAUSE_COLOURS[cause],
                "explanation": explanations[cause],
            }
            for cause in causes
        ],
        "rows": [
            {
                "run": run,
                "bar": charts.cause_bar(run),
                "counts": [counts[run.name].get(cause, 0) for cause in causes],
                "total": sum(counts[run.name].values()),
            }
            for run in runs
            if run.name in counts
        ],
    }


def _breakdowns(
    runs: Sequence[ScoredRun], main: ScoredRun, colours: Mapping[str, str]
) -> list[Json]:
    """The groups of the main run, each with a dot for every run."""
    # The main run last, so that its dot is on top.
    drawing_order = [*(run for run in runs if run is not main), main]
    breakdowns = []
    for key, title in BREAKDOWN_TITLES.items():
        groups = main.summary.get("breakdowns", {}).get(key)
        if not groups:
            continue
        ious: dict[str, dict[Any, float | None]] = {}
        for run in runs:
            run_groups = run.summary.get("breakdowns", {}).get(key) or []
            ious[run.name] = {group["value"]: group["iou"] for group in run_groups}
        if len(groups) > MOST_ROWS:
            selected = sorted(groups, key=lambda g: (g["iou"] is None, g["iou"]))[:MOST_ROWS]
        else:
            selected = groups
        rows = []
        for group in selected:
            marks = [
                (iou, colours[run.name], f"{run.label}: {iou:.3f}")
                for run in drawing_order
                if (iou := ious[run.name].get(group["value"])) is not None
            ]
            name = main.take_names.get(group["value"], group["value"])
            figure = dot_strip(marks, BREAKDOWN_STRIP_WIDTH)
            rows.append({"name": name, "group": group, "figure": figure})
        breakdowns.append({"title": title, "rows": rows, "groups": len(groups)})
    return breakdowns


def _published(main: ScoredRun) -> Json:
    """Published numbers, each with the reason why the main run is not comparable, if any."""
    rows = []
    for number in PUBLISHED:
        iou = number.iou(main.direction)
        if iou is not None:
            # The summary of the number's own protocol, if the run has one.
            same_protocol = [s for s in main.summaries if s["protocol"] == number.protocol]
            reason = incomparable_reason(number, (same_protocol or main.summaries)[0])
            rows.append({"number": number, "iou": iou / 100, "reason": reason})
    return {"rows": rows, "any": any(row["reason"] is None for row in rows)}
