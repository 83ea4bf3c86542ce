"""The stats page's charts as inline SVG: bars, ranges and lines, with a legend below.

Colours are the page's CSS classes `s0`, `s1`, `s2` (series) and `axis`, so that a chart fits light
and dark pages.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from egoexo_tools.viewing.svg import Svg, element, join, line, path, text, tooltip

WIDTH = 560
_LABEL_WIDTH, _ROW_HEIGHT, _RIGHT = 150, 20, 56
_HEIGHT, _LEFT, _BOTTOM, _TOP, _LINE_RIGHT = 240, 52, 40, 14, 16

Format = Callable[[float], str]
Points = Sequence[tuple[float, float]]


def draw_bars(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    title: str,
    show: Format,
    most: float | None = None,
) -> Svg:
    """Horizontal bars, one per label, in which the series are stacked."""
    sums = [sum(values) for values in zip(*series.values(), strict=True)]
    # `most` fixes the scale, for example at 1 for shares.
    scale = (WIDTH - _LABEL_WIDTH - _RIGHT) / (most or max([*sums, 0]) or 1)
    parts = []
    for row, label in enumerate(labels):
        y, x = row * _ROW_HEIGHT, float(_LABEL_WIDTH)
        parts.append(_row_label(label, y))
        for number, (name, values) in enumerate(series.items()):
            width = values[row] * scale
            tip = tooltip(f"{label}: {name} {show(values[row])}")
            box = {"x": x, "y": y + 3, "width": float(width), "height": _ROW_HEIGHT - 6}
            parts.append(element("rect", tip, class_=f"s{number}", **box))
            x += width
        parts.append(text(x + 4, y + 14, show(sums[row]), "start"))
    return _chart(parts, len(labels) * _ROW_HEIGHT + 4, title, list(series))


def draw_ranges(
    labels: Sequence[str],
    series: Mapping[str, Sequence[Sequence[float]]],
    *,
    title: str,
    show: Format,
) -> Svg:
    """Five percentiles per label and series on a logarithmic axis.

    A line from p5 to p95, a bar from p25 to p75, and a mark at the median. Rows without a positive
    median stay empty.
    """
    values = [v for rows in series.values() for row in rows for v in row if v > 0]
    if not values:
        return Svg()
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    span = max(high - low, 1)

    def place(value: float) -> float:
        # 0 has no logarithm; a fifth percentile of 0 is drawn at the left end.
        share = (math.log10(max(value, 10.0**low)) - low) / span
        return _LABEL_WIDTH + share * (WIDTH - _LABEL_WIDTH - 20)

    height, parts = len(labels) * _ROW_HEIGHT, []
    for power in range(low, low + span + 1):
        x = place(10.0**power)
        parts.append(line("axis", (x, 0.0), (x, float(height))))
        parts.append(text(x, height + 14, show(10.0**power), "middle"))
    thick = (_ROW_HEIGHT - 4) / len(series)
    for row, label in enumerate(labels):
        parts.append(_row_label(label, row * _ROW_HEIGHT))
        for number, (name, rows) in enumerate(series.items()):
            if rows[row][2] <= 0:
                continue
            p5, p25, median, p75, p95 = (place(value) for value in rows[row])
            y = row * _ROW_HEIGHT + 2 + thick * number
            whisker = {"x": p5, "y": y + thick / 2 - 0.5, "width": p95 - p5, "height": 1}
            box = {"x": p25, "y": y + 1, "width": float(max(p75 - p25, 1)), "height": thick - 2}
            mark = {"x": median - 1, "y": y, "width": 2, "height": thick}
            tip = f"{label}, {name}: " + ", ".join(show(value) for value in rows[row])
            shapes = [element("rect", **whisker), element("rect", **box)]
            shapes.append(element("rect", class_="mark", **mark))
            parts.append(element("g", tooltip(tip), *shapes, class_=f"s{number}"))
    return _chart(parts, height + 20, title, list(series))


def draw_lines(
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
    transform: Callable[[float], float] = math.log10 if log_x else float
    low, high = (transform(extreme(x for x, _ in points)) for extreme in (min, max))
    # 1, if all values are 0, so that there is an axis.
    top = max(y for _, y in points) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        share = (transform(x) - low) / (high - low or 1)
        return (
            _LEFT + share * (WIDTH - _LEFT - _LINE_RIGHT),
            _HEIGHT - _BOTTOM - y / top * (_HEIGHT - _BOTTOM - _TOP),
        )

    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = place(points[0][0], share * top)[1]
        parts.append(line("axis", (float(_LEFT), y), (float(WIDTH - _LINE_RIGHT), y)))
        parts.append(text(_LEFT - 6, y + 4, show_y(share * top), "end"))
    for x in _ticks(sorted({x for x, _ in points}), log_x=log_x):
        parts.append(text(place(x, 0)[0], _HEIGHT - _BOTTOM + 16, show_x(x), "middle"))
    parts.append(text((WIDTH + _LEFT) / 2, _HEIGHT - 6, axes[0], "middle"))
    parts.append(text(_LEFT, 10, axes[1], "start"))
    for number, (name, line_points) in enumerate(series.items()):
        places = [place(*point) for point in line_points]
        parts.append(element("polyline", class_=f"s{number}", points=path(places)))
        for (x, y), (px, py) in zip(line_points, places, strict=True):
            tip = tooltip(f"{name}: {show_x(x)}, {show_y(y)}")
            parts.append(element("circle", tip, class_=f"s{number}", cx=px, cy=py, r=2.5))
    return _chart(parts, _HEIGHT, title, list(series))


def _row_label(label: str, y: float) -> Svg:
    """A row's name to the left of it; a long name is shortened, and complete in its tooltip."""
    short = label if len(label) <= 22 else label[:21] + "…"
    return text(_LABEL_WIDTH - 6, y + 14, short, "end", tip=label)


def _ticks(values: Sequence[float], *, log_x: bool) -> Sequence[float]:
    """Up to ten values themselves; of more, powers of ten or about seven of the values."""
    if len(values) <= 10:
        return values
    if log_x:
        low, high = math.log10(values[0]), math.log10(values[-1])
        return [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)]
    return values[:: len(values) // 7]


def _chart(parts: Sequence[Svg], height: int, title: str, names: Sequence[str]) -> Svg:
    view = f"0 0 {WIDTH} {height}"
    chart = element("svg", join(parts), viewBox=view, role="img", aria_label=title)
    if len(names) < 2:
        return chart
    items = (
        element("span", element("i", "", class_=f"s{number}"), name)
        for number, name in enumerate(names)
    )
    return join([chart, element("p", join(items), class_="legend")])
