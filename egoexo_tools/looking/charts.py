"""Small charts as inline SVG: bars, ranges and lines. Text and names are escaped.

Colours are the page's CSS classes `s0`, `s1`, `s2` (series) and `axis`, so that a chart fits a
light and a dark page.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

WIDTH = 560
_LABEL, _ROW, _RIGHT = 150, 20, 56
_HEIGHT, _LEFT, _BOTTOM, _TOP = 240, 52, 40, 14

Format = Callable[[float], str]
Points = Sequence[tuple[float, float]]


def bars(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    title: str,
    show: Format,
    most: float | None = None,
) -> str:
    """Horizontal bars, the series stacked in one bar a label."""
    sums = [sum(values) for values in zip(*series.values(), strict=True)]
    scale = (WIDTH - _LABEL - _RIGHT) / (most or max([*sums, 0]) or 1)
    parts = []
    for row, label in enumerate(labels):
        y, x = row * _ROW, float(_LABEL)
        parts.append(_text(_LABEL - 6, y + 14, _short(label), "end", tip=label))
        for number, (name, values) in enumerate(series.items()):
            width = values[row] * scale
            tip = escape(f"{label}: {name} {show(values[row])}")
            parts.append(
                f'<rect class="s{number}" x="{x:.1f}" y="{y + 3}" width="{width:.1f}" '
                f'height="{_ROW - 6}"><title>{tip}</title></rect>'
            )
            x += width
        parts.append(_text(x + 4, y + 14, show(sums[row]), "start"))
    return _svg("".join(parts), len(labels) * _ROW + 4, title) + _legend(list(series))


def ranges(
    labels: Sequence[str],
    series: Mapping[str, Sequence[Sequence[float]]],
    *,
    title: str,
    show: Format,
) -> str:
    """Five percentiles a label and series on a logarithmic axis: line p5 to p95, bar p25 to p75,
    a tick at the median. Rows without a positive median are left empty."""
    values = [v for rows in series.values() for row in rows for v in row if v > 0]
    if not values:
        return ""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    span = max(high - low, 1)

    def place(value: float) -> float:
        share = (math.log10(max(value, 10.0**low)) - low) / span
        return _LABEL + share * (WIDTH - _LABEL - 20)

    height, parts = len(labels) * _ROW, []
    for power in range(low, low + span + 1):
        parts.append(_line(place(10.0**power), 0, place(10.0**power), height, "axis"))
        parts.append(_text(place(10.0**power), height + 14, show(10.0**power), "middle"))
    thick = (_ROW - 4) / len(series)
    for row, label in enumerate(labels):
        parts.append(_text(_LABEL - 6, row * _ROW + 14, _short(label), "end", tip=label))
        for number, (name, rows) in enumerate(series.items()):
            if not rows[row][2] > 0:
                continue
            p5, p25, median, p75, p95 = (place(value) for value in rows[row])
            y = row * _ROW + 2 + thick * number
            tip = escape(f"{label}, {name}: " + ", ".join(show(value) for value in rows[row]))
            parts.append(
                f'<g class="s{number}"><title>{tip}</title>'
                f'<rect x="{p5:.1f}" y="{y + thick / 2 - 0.5:.1f}" width="{p95 - p5:.1f}" '
                f'height="1"/><rect x="{p25:.1f}" y="{y + 1:.1f}" '
                f'width="{max(p75 - p25, 1):.1f}" height="{thick - 2:.1f}"/>'
                f'<rect class="mark" x="{median - 1:.1f}" y="{y:.1f}" width="2" '
                f'height="{thick:.1f}"/></g>'
            )
    return _svg("".join(parts), height + 20, title) + _legend(list(series))


def lines(
    series: Mapping[str, Points],
    *,
    title: str,
    x_label: str,
    y_label: str,
    show_x: Format,
    show_y: Format,
    log_x: bool = False,
) -> str:
    """Lines over a linear or logarithmic x axis; y starts at 0."""
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    along = math.log10 if log_x else float
    xs = [along(x) for x, _ in points]
    low, high = min(xs), max(xs)
    top = max(y for _, y in points) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        share = (along(x) - low) / (high - low or 1)
        return (
            _LEFT + share * (WIDTH - _LEFT - 16),
            _HEIGHT - _BOTTOM - y / top * (_HEIGHT - _BOTTOM - _TOP),
        )

    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = place(points[0][0], share * top)[1]
        parts.append(_line(_LEFT, y, WIDTH - 16, y, "axis"))
        parts.append(_text(_LEFT - 6, y + 4, show_y(share * top), "end"))
    for x in _ticks(sorted({x for x, _ in points}), log_x=log_x):
        parts.append(_text(place(x, 0)[0], _HEIGHT - _BOTTOM + 16, show_x(x), "middle"))
    parts.append(_text((WIDTH + _LEFT) / 2, _HEIGHT - 6, x_label, "middle"))
    parts.append(_text(_LEFT, 10, y_label, "start"))
    for number, (name, line) in enumerate(series.items()):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        parts.append(f'<polyline class="s{number}" points="{path}"/>')
        for point in line:
            x, y = place(*point)
            tip = escape(f"{name}: {show_x(point[0])}, {show_y(point[1])}")
            parts.append(
                f'<circle class="s{number}" cx="{x:.1f}" cy="{y:.1f}" r="2.5">'
                f"<title>{tip}</title></circle>"
            )
    return _svg("".join(parts), _HEIGHT, title) + _legend(list(series))


def _ticks(values: Sequence[float], *, log_x: bool) -> Sequence[float]:
    """The values themselves where there are few; else powers of ten, or every so many of them."""
    if len(values) <= 10:
        return values
    if log_x:
        low, high = math.log10(values[0]), math.log10(values[-1])
        return [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)]
    return values[:: len(values) // 7]


def _svg(content: str, height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"{content}</svg>"
    )


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    items = (f'<span><i class="s{n}"></i>{escape(name)}</span>' for n, name in enumerate(names))
    return f'<p class="legend">{"".join(items)}</p>'


def _text(x: float, y: float, text: str, anchor: str, *, tip: str = "") -> str:
    title = f"<title>{escape(tip)}</title>" if tip and tip != text else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}{title}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _short(label: str) -> str:
    return label if len(label) <= 22 else label[:21] + "…"
