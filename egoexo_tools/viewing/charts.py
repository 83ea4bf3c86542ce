"""The stats page's charts as inline SVG: bars, ranges and lines with a legend below.

Colours are the page's CSS classes `s0`, `s1`, `s2` (series) and `axis`, so that a chart fits a
light and a dark page.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from egoexo_tools.viewing.svg import Svg, element, join, line, path, text, tooltip

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
) -> Svg:
    """Horizontal bars, the series stacked in one bar a label."""
    sums = [sum(values) for values in zip(*series.values(), strict=True)]
    scale = (WIDTH - _LABEL - _RIGHT) / (most or max([*sums, 0]) or 1)
    parts = []
    for row, label in enumerate(labels):
        y, x = row * _ROW, float(_LABEL)
        parts.append(_label(label, y))
        for number, (name, values) in enumerate(series.items()):
            width = values[row] * scale
            tip = tooltip(f"{label}: {name} {show(values[row])}")
            box = {"x": x, "y": y + 3, "width": float(width), "height": _ROW - 6}
            parts.append(element("rect", tip, class_=f"s{number}", **box))
            x += width
        parts.append(text(x + 4, y + 14, show(sums[row]), "start"))
    return _chart(parts, len(labels) * _ROW + 4, title, list(series))


def ranges(
    labels: Sequence[str],
    series: Mapping[str, Sequence[Sequence[float]]],
    *,
    title: str,
    show: Format,
) -> Svg:
    """Five percentiles a label and series on a logarithmic axis: line p5 to p95, bar p25 to p75,
    a tick at the median. Rows without a positive median are left empty."""
    values = [v for rows in series.values() for row in rows for v in row if v > 0]
    if not values:
        return Svg()
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    span = max(high - low, 1)

    def place(value: float) -> float:
        # A fifth percentile of 0 has no logarithm: it lies at the left end.
        share = (math.log10(max(value, 10.0**low)) - low) / span
        return _LABEL + share * (WIDTH - _LABEL - 20)

    height, parts = len(labels) * _ROW, []
    for power in range(low, low + span + 1):
        x = place(10.0**power)
        parts.append(line("axis", (x, 0.0), (x, float(height))))
        parts.append(text(x, height + 14, show(10.0**power), "middle"))
    thick = (_ROW - 4) / len(series)
    for row, label in enumerate(labels):
        parts.append(_label(label, row * _ROW))
        for number, (name, rows) in enumerate(series.items()):
            if rows[row][2] > 0:
                tip = f"{label}, {name}: " + ", ".join(show(value) for value in rows[row])
                y = row * _ROW + 2 + thick * number
                parts.append(_range(number, [place(v) for v in rows[row]], (y, thick), tip))
    return _chart(parts, height + 20, title, list(series))


def lines(
    series: Mapping[str, Points],
    *,
    title: str,
    axes: tuple[str, str],
    show: tuple[Format, Format],
    log_x: bool = False,
) -> Svg:
    """Lines over a linear or logarithmic x axis; y starts at 0. `axes` and `show`: x, then y."""
    points = [point for line in series.values() for point in line]
    if not points:
        return Svg()
    show_x, show_y = show
    place, top = _placing(points, math.log10 if log_x else float)
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = place(points[0][0], share * top)[1]
        parts.append(line("axis", (float(_LEFT), y), (WIDTH - 16.0, y)))
        parts.append(text(_LEFT - 6, y + 4, show_y(share * top), "end"))
    for x in _ticks(sorted({x for x, _ in points}), log_x=log_x):
        parts.append(text(place(x, 0)[0], _HEIGHT - _BOTTOM + 16, show_x(x), "middle"))
    parts.append(text((WIDTH + _LEFT) / 2, _HEIGHT - 6, axes[0], "middle"))
    parts.append(text(_LEFT, 10, axes[1], "start"))
    for number, (name, own) in enumerate(series.items()):
        tips = [f"{name}: {show_x(x)}, {show_y(y)}" for x, y in own]
        parts += _line(number, [place(*point) for point in own], tips)
    return _chart(parts, _HEIGHT, title, list(series))


def _placing(
    points: Points, along: Callable[[float], float]
) -> tuple[Callable[[float, float], tuple[float, float]], float]:
    """A function from data to pixels for these points, and their highest y."""
    xs = [along(x) for x, _ in points]
    low, high = min(xs), max(xs)
    top = max(y for _, y in points) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        share = (along(x) - low) / (high - low or 1)
        return (
            _LEFT + share * (WIDTH - _LEFT - 16),
            _HEIGHT - _BOTTOM - y / top * (_HEIGHT - _BOTTOM - _TOP),
        )

    return place, top


def _label(label: str, y: float) -> Svg:
    """A row's name, left of it; a long one is cut and whole in its tooltip."""
    short = label if len(label) <= 22 else label[:21] + "…"
    return text(_LABEL - 6, y + 14, short, "end", tip=label)


def _range(number: int, xs: Sequence[float], row: tuple[float, float], tip: str) -> Svg:
    """One series in one row, whose top and height are `row`."""
    (p5, p25, median, p75, p95), (y, thick) = xs, row
    whisker = {"x": p5, "y": y + thick / 2 - 0.5, "width": p95 - p5, "height": 1}
    box = {"x": p25, "y": y + 1, "width": float(max(p75 - p25, 1)), "height": thick - 2}
    mark = {"x": median - 1, "y": y, "width": 2, "height": thick}
    boxes = [element("rect", **whisker), element("rect", **box)]
    return element(
        "g", tooltip(tip), *boxes, element("rect", class_="mark", **mark), class_=f"s{number}"
    )


def _line(number: int, places: Points, tips: Iterable[str]) -> list[Svg]:
    dots = [
        element("circle", tooltip(tip), class_=f"s{number}", cx=x, cy=y, r=2.5)
        for (x, y), tip in zip(places, tips, strict=True)
    ]
    return [element("polyline", class_=f"s{number}", points=path(places)), *dots]


def _ticks(values: Sequence[float], *, log_x: bool) -> Sequence[float]:
    """The values themselves where there are few; else powers of ten, or every so many of them."""
    if len(values) <= 10:
        return values
    if log_x:
        low, high = math.log10(values[0]), math.log10(values[-1])
        return [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)]
    return values[:: len(values) // 7]


def _chart(parts: Sequence[Svg], height: int, title: str, names: Sequence[str]) -> Svg:
    view = f"0 0 {WIDTH} {height}"
    drawn = element("svg", join(parts), viewBox=view, role="img", aria_label=title)
    if len(names) < 2:
        return drawn
    items = (
        element("span", element("i", "", class_=f"s{number}"), name)
        for number, name in enumerate(names)
    )
    return join([drawn, element("p", join(items), class_="legend")])
