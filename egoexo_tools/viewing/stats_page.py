"""The tables of `stats` as one self-contained HTML page: charts above, tables below."""

from collections.abc import Mapping
from html import escape
from itertools import product
from pathlib import Path

import pandas as pd

from egoexo_tools.layout import write_atomic
from egoexo_tools.viewing.charts import draw_bars, draw_lines, draw_ranges
from egoexo_tools.viewing.mask_stats import DRIFT_SECONDS, QUANTILES
from egoexo_tools.viewing.stats import StatsTable, format_value

_VIEWS = ("ego", "exo")
_MOST_ROWS = 200


def write_page(tables: Mapping[str, StatsTable], path: Path, *, title: str) -> None:
    """Write the page of `stats.collect`'s tables."""
    totals = tables["splits"].rows.iloc[-1].drop("split")
    numbers = "".join(
        f"<div><b>{format_value(value)}</b>{escape(str(name).replace('_', ' '))}</div>"
        for name, value in totals.items()
    )
    figures = "".join(
        f"<figure><figcaption><b>{escape(name)}</b> {escape(note)}</figcaption>{chart}</figure>"
        for name, note, chart in _draw_charts(tables)
        if chart
    )
    sections = "".join(
        _section(table) for name, table in tables.items() if name != "area_histogram"
    )
    style = Path(__file__).with_name("stats.css").read_text(encoding="utf-8")
    write_atomic(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style>{style}</style><h1>{escape(title)}</h1><div class="numbers">{numbers}</div>'
        f'<div class="charts">{figures}</div>{sections}</html>\n',
    )


def _section(table: StatsTable) -> str:
    shown_rows = table.summary.head(_MOST_ROWS)
    head = "".join(f"<th>{escape(str(name).replace('_', ' '))}</th>" for name in shown_rows.columns)
    rows = ""
    for row in shown_rows.itertuples(index=False):
        cells = (
            f"{'<td class=text>' if isinstance(value, str) else '<td>'}"
            f"{escape(format_value(value))}</td>"
            for value in row
        )
        rows += f"<tr>{''.join(cells)}</tr>"
    more = len(table.summary) - len(shown_rows)
    more_text = f"<p>{more:,} more rows are in the Parquet files.</p>" if more else ""
    body = f"<table><tr>{head}</tr>{rows}</table>{more_text}" if rows else "<p>None.</p>"
    title, note = escape(table.title), escape(table.note)
    return f'<section><h2>{title}</h2><p>{note}</p><div class="wide">{body}</div></section>'


def _draw_charts(tables: Mapping[str, StatsTable]) -> list[tuple[str, str, str]]:
    """Title, note and SVG of every chart; the SVG is empty without data."""
    rows = {name: table.rows for name, table in tables.items()}
    takes, coverage, visibility, areas = (
        rows[name] for name in ("takes", "coverage", "visibility", "areas")
    )
    by_scenario = pd.crosstab(takes["scenario"].fillna(""), takes["split"].fillna(""))
    order = by_scenario.sum(axis=1).sort_values(ascending=False, kind="stable").index
    by_scenario = by_scenario.loc[order]
    # In the order of the splits, not of the alphabet; a root may have one of them only.
    splits = [split for split in ("train", "val", "test") if split in by_scenario.columns]
    scenarios = list(dict.fromkeys(areas["scenario"]))
    area_columns = [f"area_share_{name}" for name in QUANTILES]
    area_rows: dict[str, list[list[float]]] = {view: [] for view in _VIEWS}
    for view, name in product(_VIEWS, scenarios):
        group = areas.loc[(areas["view"] == view) & (areas["scenario"] == name), area_columns]
        # A view without masks of a scenario has no row; zeros are not drawn.
        area_rows[view].append(group.iloc[0].tolist() if len(group) else [0.0] * len(QUANTILES))
    pairs_chart = ""
    if "pairs" in rows:
        pairs = rows["pairs"]
        pairs_chart = draw_bars(
            [f"{row.direction}, {row.split}" for row in pairs.itertuples()],
            {state: pairs[state].tolist() for state in ("visible", "absent", "unannotated")},
            title="pairs",
            show=_whole,
        )
    return [
        (
            "Takes by scenario",
            "",
            draw_bars(
                [str(name) for name in by_scenario.index],
                {split: by_scenario[split].tolist() for split in splits},
                title="takes",
                show=_whole,
            ),
        ),
        (
            "Objects of a take",
            "Takes by their number of objects.",
            _draw_counts(takes["objects"], "takes"),
        ),
        (
            "Cameras of an object",
            tables["coverage"].note,
            draw_bars(
                [f"{row.ego_cameras} ego, {row.exo_cameras} exo" for row in coverage.itertuples()],
                {"objects": coverage["objects"].tolist()},
                title="objects",
                show=_whole,
            ),
        ),
        (
            "Visibility",
            "Share of annotated frames in which the object is visible.",
            draw_bars(
                [f"{row.scenario}, {row.view}" for row in visibility.itertuples()],
                {"visible": visibility["share"].tolist()},
                title="visible",
                show=_share,
                most=1.0,
            ),
        ),
        ("Pairs", "State of the object in the destination frame.", pairs_chart),
        (
            "Mask area",
            "Masks by their share of the image, on a logarithmic axis.",
            _draw_areas(rows["area_histogram"]),
        ),
        (
            "Mask area by scenario",
            "Share of the image: 5th to 95th percentile, quartiles and median.",
            draw_ranges(scenarios, area_rows, title="mask area by scenario", show=_share),
        ),
        (
            "Frames of a track",
            "Tracks by their number of annotated frames.",
            _draw_counts(rows["tracks"]["frames"], "tracks"),
        ),
        (
            "Displacement over time",
            "Median since the track's first visible frame, in image diagonals.",
            _draw_drift(rows["drift"], "displacement"),
        ),
        (
            "Size change over time",
            "Median |log2| of the ratio to the first visible area; 1 is twice or half the area.",
            _draw_drift(rows["drift"], "size_change"),
        ),
    ]


def _draw_counts(values: "pd.Series[int]", title: str) -> str:
    """A bar for each number, or for each of a dozen ranges of numbers."""
    if values.empty:
        return ""
    least, most = int(values.min()), int(values.max())
    # Rounded up, so that twelve ranges cover all numbers.
    width = max(-(-(most - least + 1) // 12), 1)
    starts = range(least, most + 1, width)
    counts = [int(((values >= start) & (values < start + width)).sum()) for start in starts]
    labels = [f"{start}" if width == 1 else f"{start}–{start + width - 1}" for start in starts]
    return draw_bars(labels, {title: counts}, title=title, show=_whole)


def _draw_areas(rows: pd.DataFrame) -> str:
    filled = rows[rows["masks"] > 0]
    if filled.empty:
        return ""
    rows = rows[(rows["low"] >= filled["low"].min()) & (rows["low"] <= filled["low"].max())]
    series = {}
    for view in _VIEWS:
        view_rows = rows[rows["view"] == view]
        # The middle on a logarithmic axis.
        middle = (view_rows["low"] * view_rows["high"]) ** 0.5
        series[view] = list(zip(middle.tolist(), view_rows["masks"].tolist(), strict=True))
    return draw_lines(
        series,
        title="masks by area",
        axes=("share of the image", "masks"),
        show=(_share, _whole),
        log_x=True,
    )


def _draw_drift(rows: pd.DataFrame, measure: str) -> str:
    if rows.empty:
        return ""
    ends = rows["up_to_seconds"][rows["up_to_seconds"] < float("inf")]
    # Infinity, "later", needs a place on the axis, even if it is the only value.
    last = float(ends.max()) if len(ends) else float(DRIFT_SECONDS[-1])
    series = {}
    for view in _VIEWS:
        view_rows = rows[rows["view"] == view]
        seconds = view_rows["up_to_seconds"].clip(upper=2 * last).tolist()
        series[view] = list(zip(seconds, view_rows[f"{measure}_median"].tolist(), strict=True))
    return draw_lines(
        series,
        title=measure,
        axes=("seconds since the first visible frame, up to", ""),
        show=(lambda x: "later" if x > last else format_value(x), format_value),
        log_x=True,
    )


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"
