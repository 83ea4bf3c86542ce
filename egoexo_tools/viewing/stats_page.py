"""The tables of `stats` as one self-contained HTML page: charts above, tables below."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from egoexo_tools.layout import write_atomic
from egoexo_tools.viewing.charts import bars, lines, ranges
from egoexo_tools.viewing.mask_stats import DRIFT_SECONDS, QUANTILES
from egoexo_tools.viewing.stats import StatsTable, format_value

_VIEWS = ("ego", "exo")
_MOST_ROWS = 200
_QUANTILE_NAMES = ["median" if q == 0.5 else f"p{round(q * 100)}" for q in QUANTILES]


def write_page(tables: Mapping[str, StatsTable], path: Path, *, title: str) -> None:
    """Write the page of `stats.collect`'s tables."""
    charts = [
        ("Takes by scenario", "", _takes(tables)),
        (
            "Objects of a take",
            "Takes by how many objects they have.",
            _histogram_of_objects(tables),
        ),
        ("Cameras of an object", tables["coverage"].note, _coverage(tables)),
        ("Visibility", "Share of annotated frames with the object in sight.", _visibility(tables)),
        ("Pairs", "What the destination view has at the source's frame.", _pairs(tables)),
        ("Mask area", "Masks by their share of the image, a logarithmic axis.", _area(tables)),
        (
            "Mask area by scenario",
            "Share of the image: 5th to 95th percentile, quartiles and median.",
            _area_by_scenario(tables),
        ),
        ("Frames of a track", "Tracks by their annotated frames.", _track_lengths(tables)),
        (
            "Displacement over time",
            "Median, from the track's first visible frame, in image diagonals.",
            _drift(tables, "displacement"),
        ),
        (
            "Size change over time",
            "Median |log2| of the ratio to the first visible area; 1 is twice or half.",
            _drift(tables, "size_change"),
        ),
    ]
    cards = "".join(
        f"<figure><figcaption><b>{escape(name)}</b> {escape(note)}</figcaption>{chart}</figure>"
        for name, note, chart in charts
        if chart
    )
    sections = "".join(
        _section(table) for name, table in tables.items() if name != "area_histogram"
    )
    write_atomic(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_CSS}</style><h1>{escape(title)}</h1>{_headline(tables)}"
        f'<div class="charts">{cards}</div>{sections}</html>\n',
    )


def _headline(tables: Mapping[str, StatsTable]) -> str:
    whole = tables["splits"].rows.iloc[-1].drop("split")
    items = "".join(
        f"<div><b>{format_value(value)}</b>{escape(str(name).replace('_', ' '))}</div>"
        for name, value in whole.items()
    )
    return f'<div class="numbers">{items}</div>'


def _section(table: StatsTable) -> str:
    shown = table.shown.head(_MOST_ROWS)
    head = "".join(f"<th>{escape(str(name).replace('_', ' '))}</th>" for name in shown.columns)
    rows = "".join(
        "<tr>" + "".join(_cell(value) for value in row) + "</tr>"
        for row in shown.itertuples(index=False)
    )
    more = len(table.shown) - len(shown)
    rest = f"<p>{more:,} more rows are in the Parquet files.</p>" if more else ""
    body = f"<table><tr>{head}</tr>{rows}</table>{rest}" if rows else "<p>None.</p>"
    title, note = escape(table.title), escape(table.note)
    return f'<section><h2>{title}</h2><p>{note}</p><div class="wide">{body}</div></section>'


def _cell(value: object) -> str:
    kind = ' class="text"' if isinstance(value, str) else ""
    return f"<td{kind}>{escape(format_value(value))}</td>"


def _takes(tables: Mapping[str, StatsTable]) -> str:
    takes = tables["takes"].rows
    counts = pd.crosstab(takes["scenario"].fillna(""), takes["split"].fillna(""))
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    splits = [split for split in ("train", "val", "test") if split in counts.columns]
    series = {split: counts[split].tolist() for split in splits}
    return bars([str(name) for name in counts.index], series, title="takes", show=_whole)


def _histogram_of_objects(tables: Mapping[str, StatsTable]) -> str:
    return _counts_chart(tables["takes"].rows["objects"], "takes")


def _track_lengths(tables: Mapping[str, StatsTable]) -> str:
    return _counts_chart(tables["tracks"].rows["frames"], "tracks")


def _counts_chart(values: "pd.Series[int]", title: str) -> str:
    """A bar for each number, or for each of a dozen ranges of numbers."""
    if values.empty:
        return ""
    least, most = int(values.min()), int(values.max())
    width = max(-(-(most - least + 1) // 12), 1)
    starts = range(least, most + 1, width)
    counts = [int(((values >= start) & (values < start + width)).sum()) for start in starts]
    labels = [f"{start}" if width == 1 else f"{start}–{start + width - 1}" for start in starts]
    return bars(labels, {title: counts}, title=title, show=_whole)


def _coverage(tables: Mapping[str, StatsTable]) -> str:
    rows = tables["coverage"].rows
    labels = [f"{row.ego_cameras} ego, {row.exo_cameras} exo" for row in rows.itertuples()]
    return bars(labels, {"objects": rows["objects"].tolist()}, title="objects", show=_whole)


def _visibility(tables: Mapping[str, StatsTable]) -> str:
    rows = tables["visibility"].rows
    labels = [f"{row.scenario}, {row.view}" for row in rows.itertuples()]
    return bars(labels, {"visible": rows["share"].tolist()}, title="visible", show=_share, most=1.0)


def _pairs(tables: Mapping[str, StatsTable]) -> str:
    if "pairs" not in tables:
        return ""
    rows = tables["pairs"].rows
    series = {state: rows[state].tolist() for state in ("visible", "absent", "unannotated")}
    labels = [f"{row.direction}, {row.split}" for row in rows.itertuples()]
    return bars(labels, series, title="pairs", show=_whole)


def _area(tables: Mapping[str, StatsTable]) -> str:
    rows = tables["area_histogram"].rows
    present = rows[rows["masks"] > 0]
    if present.empty:
        return ""
    rows = rows[(rows["low"] >= present["low"].min()) & (rows["low"] <= present["low"].max())]
    series = {}
    for view in _VIEWS:
        of_view = rows[rows["view"] == view]
        # The middle on a logarithmic axis.
        middle = (of_view["low"] * of_view["high"]) ** 0.5
        series[view] = list(zip(middle.tolist(), of_view["masks"].tolist(), strict=True))
    return lines(
        series,
        title="masks by area",
        axes=("share of the image", "masks"),
        show=(_share, _whole),
        log_x=True,
    )


def _area_by_scenario(tables: Mapping[str, StatsTable]) -> str:
    rows = tables["areas"].rows
    names = list(dict.fromkeys(rows["scenario"]))
    series = {view: [_five(rows, view, name, "area_share") for name in names] for view in _VIEWS}
    return ranges(names, series, title="mask area by scenario", show=_share)


def _five(rows: pd.DataFrame, view: str, scenario: str, measure: str) -> Sequence[float]:
    found = rows[(rows["view"] == view) & (rows["scenario"] == scenario)]
    columns = [f"{measure}_{name}" for name in _QUANTILE_NAMES]
    return found[columns].iloc[0].tolist() if len(found) else [0.0] * len(columns)


def _drift(tables: Mapping[str, StatsTable], measure: str) -> str:
    rows = tables["drift"].rows
    if rows.empty:
        return ""
    ends = rows["up_to_seconds"][rows["up_to_seconds"] < float("inf")]
    # Infinity, "later", needs a place on the axis, also where there is nothing before it.
    last = float(ends.max()) if len(ends) else float(DRIFT_SECONDS[-1])
    series = {}
    for view in _VIEWS:
        of_view = rows[rows["view"] == view]
        seconds = of_view["up_to_seconds"].clip(upper=2 * last).tolist()
        series[view] = list(zip(seconds, of_view[f"{measure}_median"].tolist(), strict=True))
    return lines(
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


_CSS = """
:root{--ink:#1d2330;--soft:#667085;--line:#d9dde5;--card:#fff;--page:#f5f6f8;
--c0:#2a78b8;--c1:#e0852b;--c2:#5b9b56}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaf0;--soft:#a0a8b8;--line:#3a4150;
--card:#1d222d;--page:#141820;--c0:#5aa5e0;--c1:#f0a04b;--c2:#7fc27a}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--page);
max-width:1240px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:0 0 .2rem}
p{margin:.2rem 0 .6rem;color:var(--soft)}
.numbers{display:flex;flex-wrap:wrap;gap:.8rem;margin:1rem 0}
.numbers div{background:var(--card);border:1px solid var(--line);border-radius:8px;
padding:.6rem 1rem;color:var(--soft)}
.numbers b{display:block;font-size:1.3rem;color:var(--ink)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,540px),1fr));gap:1rem}
figure,section{background:var(--card);border:1px solid var(--line);border-radius:8px;
padding:1rem;margin:0}section{margin-top:1rem}
figcaption{margin-bottom:.6rem;color:var(--soft)}figcaption b{color:var(--ink)}
svg{width:100%;height:auto;display:block}svg text{font-size:12px;fill:var(--soft)}
.s0{fill:var(--c0);background:var(--c0)}.s1{fill:var(--c1);background:var(--c1)}
.s2{fill:var(--c2);background:var(--c2)}.mark{fill:var(--ink)}.axis{stroke:var(--line)}
polyline{stroke-width:2}polyline.s0{fill:none;stroke:var(--c0)}
polyline.s1{fill:none;stroke:var(--c1)}polyline.s2{fill:none;stroke:var(--c2)}
.legend span{margin-right:1rem}.legend i{display:inline-block;width:.8em;height:.8em;
margin-right:.4em;border-radius:2px}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .7rem;border-bottom:1px solid var(--line);text-align:right;
white-space:nowrap}td.text,th:first-child{text-align:left}th{color:var(--soft);font-weight:600}
"""
