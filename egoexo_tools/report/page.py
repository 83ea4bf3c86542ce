"""Runs in, one HTML file out: what the template is filled with.

Text out of files is escaped (`looking.pages`); figures come as finished markup (`looking.svg`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoexo_tools.aliases import Json
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.metrics import CONFIDENCE_THRESHOLD, METRICS, headlines
from egoexo_tools.evaluation.published import NOT_KNOWN, PAIR_ALONE
from egoexo_tools.layout import write_atomic
from egoexo_tools.report.runs import ScoredRun, main_run, read_runs
from egoexo_tools.report.tracks import BeforeAfter, before_after, count_tracks
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
STRIP_WIDTH = 120
"""Pixels of a breakdown's row of dots."""
MOST_ROWS = 40
"""Rows shown of a breakdown; of more, those with the lowest IoU."""


@dataclass(frozen=True)
class Side:
    """One direction of the page."""

    direction: Direction
    title: str
    runs: list[ScoredRun]
    main: ScoredRun
    """The run that figures of one run, and the gallery, are about."""
    colours: dict[str, str]
    """Run name → colour."""
    change: BeforeAfter | None
    """The main run and the same method decided over time, where both are on the page."""

    @property
    def shown(self) -> ScoredRun:
        """The run whose tracks are shown."""
        return self.main if self.change is None else self.change.after

    @property
    def before(self) -> ScoredRun | None:
        return None if self.change is None else self.change.before


def write_report(runs: Sequence[Path], page: Path) -> None:
    """Write one self-contained page about runs, folders `<root>/runs/<run>/`.

    Beside it lie pages of the takes with failures, which its pictures link to. What a run lacks
    is said on the page. Raises DataError for a folder that is no scored run, for damaged files, and
    where the optional group `report` is not installed.
    """
    require_jinja("the report")
    from jinja2 import TemplateError

    found = read_runs(runs)
    try:
        html = _render(found, page)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError,
            TemplateError) as error:  # fmt: skip
        names = ", ".join(run.name for run in found)
        raise DataError(
            f"a summary or scores file of {names} is damaged ({error!r}); evaluate again"
        ) from error
    write_atomic(page, html)


def _render(runs: Sequence[ScoredRun], page: Path) -> str:
    from egoexo_tools.report.gallery import make_cards
    from egoexo_tools.report.strips import make_strips
    from egoexo_tools.report.take_pages import write_take_pages

    sides = [_side(direction, runs) for direction in Direction]
    shown = [side for side in sides if side is not None]
    missing = [f"{run.name}: {sentence}" for run in runs for sentence in run.missing]
    cards = [card for side in shown for card in make_cards(side.main, missing)]
    strips = {side.direction: make_strips(side.shown, side.before, missing) for side in shown}
    mains = [side.main for side in shown]
    takes = write_take_pages(mains, cards, page, missing)
    content = {
        "sides": [_context(side) | {"strips": strips[side.direction]} for side in shown],
        "metrics": _columns(),
        "chosen": any(run.stamp.chooses_proposals for side in shown for run in side.runs),
        "threshold": CONFIDENCE_THRESHOLD,
        "cards": cards,
        "take_pages": takes,
        "main_names": {str(run.direction): run.folder.name for run in mains},
        "filters": _filters(cards),
        "missing": missing,
    }
    return render_page(TEMPLATES, "page", content, filters={"score": score, "count": count})


def score(value: float | None) -> str:
    """Three digits, or a dash where there is nothing."""
    return "–" if value is None else f"{value:.3f}"


def count(value: int) -> str:
    return f"{value:,}"


def _side(direction: Direction, runs: Sequence[ScoredRun]) -> Side | None:
    from egoexo_tools.report.charts import styles

    mine = [run for run in runs if run.direction is direction]
    if not mine:
        return None
    mine.sort(key=lambda run: -(run.summary["iou"] if run.summary["iou"] is not None else -1.0))
    colours = {name: look[0] for name, look in styles(mine).items()}
    main = main_run(mine)
    change = before_after(mine, main)
    return Side(direction, DIRECTION_NAMES[direction], mine, main, colours, change)


def _context(side: Side) -> Json:
    """What the template says about one direction."""
    from egoexo_tools.report import charts

    return {
        "key": str(side.direction),
        "title": side.title,
        "main": side.main,
        "runs": side.runs,
        "legend": charts.legend(side.runs),
        "tables": _score_tables(side),
        "ceilings": _ceilings(side),
        "unbounded": [run.label for run in side.runs if not run.stamp.chooses_proposals],
        "causes": _causes(side),
        "breakdowns": _breakdowns(side),
        "histogram": charts.histogram(side.main),
        "success": charts.success_chart(side.runs),
        "roc": charts.roc_chart(side.runs),
        "calibration": charts.calibration_chart(side.runs),
        "training": [
            (run, figures) for run in side.runs if (figures := charts.training_charts(run))
        ],
        "tracks": {
            run.name: count_tracks(run.scores) for run in side.runs if run.scores is not None
        },
        "change": side.change,
        "shown": side.shown,
        "looks_at": _looks_at(side.main),
        "published": _published(side),
        "loss_colours": charts.LOSS_COLOURS,
    }


def _score_tables(side: Side) -> list[Json]:
    """One table for each protocol and split: numbers of different ones never share a table."""
    from egoexo_tools.report.figures import interval

    tables: dict[tuple[str, str], list[Json]] = {}
    for run in side.runs:
        for summary in run.summaries:
            colour = side.colours[run.name]
            iou, ends = summary["iou"], summary["intervals"].get("iou")
            figure = None if iou is None else interval(iou, ends, colour)
            row = {"run": run, "summary": summary, "colour": colour, "figure": figure}
            tables.setdefault((summary["protocol"], summary["split"]), []).append(row)
    return [
        {
            "protocol": protocol,
            "split": split,
            "rows": rows,
            "sizes": sorted({_size(row["summary"]) for row in rows}),
        }
        for (protocol, split), rows in tables.items()
    ]


def _columns() -> list[Json]:
    """Name, title and arrow of every headline number: METRICS as they are now, then visibility."""
    lower = {name for name, metric in METRICS.items() if metric.better == "lower"}
    return [
        {"name": name, "title": title, "arrow": "↓" if name in lower else "↑"}
        for name, title in headlines().items()
    ]


def _size(summary: Json) -> tuple[int, int, int]:
    return summary["samples"], summary["samples_visible"], summary["takes"]


def _ceilings(side: Side) -> list[Json]:
    from egoexo_tools.report.charts import loss_bar, loss_parts

    return [
        {"run": run, "ceilings": run.summary["ceilings"], "bar": bar, "parts": loss_parts(run)}
        for run in side.runs
        if (bar := loss_bar(run)) is not None
    ]


def _causes(side: Side) -> Json | None:
    """Samples of each cause, for every run of the direction that has scores."""
    from egoexo_tools.report.causes import CAUSES, count_causes, explained
    from egoexo_tools.report.charts import CAUSE_COLOURS, cause_bar

    counts = {
        run.name: count_causes(run.scores, chooses_proposals=run.stamp.chooses_proposals)
        for run in side.runs
        if run.scores is not None
    }
    if not counts:
        return None
    used = [cause for cause in CAUSES if any(cause in found for found in counts.values())]
    words = explained(chooses_proposals=any(run.stamp.chooses_proposals for run in side.runs))
    return {
        "columns": [
            {"name": CAUSES[c], "colour": CAUSE_COLOURS[c], "explained": words[c]} for c in used
        ],
        "rows": [
            {
                "run": run,
                "bar": cause_bar(run),
                "counts": [counts[run.name].get(cause, 0) for cause in used],
                "total": sum(counts[run.name].values()),
            }
            for run in side.runs
            if run.name in counts
        ],
    }


def _breakdowns(side: Side) -> list[Json]:
    """The main run's groups, each with a dot for every run."""
    from egoexo_tools.report.figures import strip

    found = []
    for key, title in BREAKDOWN_TITLES.items():
        groups = side.main.summary.get("breakdowns", {}).get(key)
        if not groups:
            continue
        others = {run.name: _by_value(run, key) for run in side.runs}
        ordered = sorted(groups, key=_iou) if len(groups) > MOST_ROWS else groups
        rows = []
        for group in ordered[:MOST_ROWS]:
            marks = [
                (value, side.colours[run.name], f"{run.label}: {value:.3f}")
                for run in [*(r for r in side.runs if r is not side.main), side.main]
                if (value := others[run.name].get(group["value"])) is not None
            ]
            name = side.main.take_names.get(group["value"], group["value"])
            rows.append({"name": name, "group": group, "figure": strip(marks, width=STRIP_WIDTH)})
        found.append({"title": title, "rows": rows, "groups": len(groups)})
    return found


def _by_value(run: ScoredRun, key: str) -> dict[Any, float | None]:
    groups = run.summary.get("breakdowns", {}).get(key) or []
    return {group["value"]: group["iou"] for group in groups}


def _iou(group: Json) -> float:
    return 2.0 if group["iou"] is None else float(group["iou"])


def _published(side: Side) -> Json:
    """Published numbers, each with the reason why it is no comparison, if there is one."""
    from egoexo_tools.evaluation.published import PUBLISHED, comparable

    rows = []
    for number in PUBLISHED:
        iou = number.iou(side.direction)
        if iou is None:
            continue
        same = [s for s in side.main.summaries if s["protocol"] == number.protocol]
        reason = comparable(number, (same or side.main.summaries)[0])
        # Against the summary of its own protocol, where the run has one.
        rows.append({"number": number, "iou": iou / 100, "reason": reason})
    return {"rows": rows, "any": any(row["reason"] is None for row in rows)}


def _looks_at(run: ScoredRun) -> str:
    """In the words of the published numbers; of a method with memory, what its stamp says not."""
    words = DECISIONS.get(run.stamp.decision, run.stamp.decision)
    return words or (PAIR_ALONE if run.stamp.chooses_proposals else NOT_KNOWN)


def _filters(cards: Sequence[Any]) -> Json:
    """What the gallery's menus offer."""
    from egoexo_tools.report.causes import CAUSES, FAILURES

    groups = {group for card in cards for group in card.groups.split()}
    names = {"best": "best", "median": "median", "worst": "worst"}
    names |= {cause: CAUSES[cause] for cause in FAILURES}
    return {
        "groups": [(key, name) for key, name in names.items() if key in groups],
        "objects": sorted({card.object_name for card in cards}),
        "scenarios": sorted({card.scenario for card in cards}),
        "directions": sorted({card.direction for card in cards}),
    }
