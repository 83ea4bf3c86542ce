"""The report's small SVG figures: axes with lines, bars and points in data coordinates, and strips.

Text and lines use the page's colours, so that a figure fits light, dark and printed pages.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from egoexo_tools.viewing import svg
from egoexo_tools.viewing.svg import Svg

Points = Iterable[tuple[float, float]]

LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 36
"""Margins around the plotted area, in pixels."""


@dataclass
class Figure:
    """A plot of `width` x `height` pixels with axes over `x` and `y` (low, high)."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str
    y_label: str
    title: str
    """Text for screen readers."""
    width: int = 460
    height: int = 260
    _parts: list[Svg] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Data coordinates → pixels; points outside the axes move to their edge."""
        across = svg.share_between(x, *self.x) * (self.width - LEFT - RIGHT)
        up = svg.share_between(y, *self.y) * (self.height - TOP - BOTTOM)
        # A tenth of a pixel is enough, and more digits make the page larger.
        return round(LEFT + across, 1), round(self.height - BOTTOM - up, 1)

    def line(self, points: Points, *, colour: str, dash: str = "", width: float = 2) -> None:
        self._parts.append(
            svg.element(
                "polyline",
                points=svg.path(self.at(*point) for point in points),
                fill="none",
                stroke=colour,
                stroke_width=width,
                stroke_dasharray=dash,
                stroke_linejoin="round",
            )
        )

    def points(self, points: Points, *, colour: str, radius: float = 3) -> None:
        for x, y in (self.at(*point) for point in points):
            self._parts.append(svg.element("circle", cx=x, cy=y, r=radius, fill=colour))

    def box(
        self, low: tuple[float, float], high: tuple[float, float], *, colour: str, tip: str
    ) -> None:
        """A filled rectangle between two corners, with a tooltip."""
        (left, bottom), (right, top) = self.at(*low), self.at(*high)
        # One pixel stays free between bars, which would otherwise merge into one shape.
        size = {"width": max(right - left - 1, 0.5), "height": max(bottom - top, 0)}
        self._parts.append(
            svg.element("rect", svg.tooltip(tip), x=left, y=top, **size, fill=colour)
        )

    def note(self, x: float, y: float, words: str, *, anchor: str = "start") -> None:
        self._parts.append(svg.text(*self.at(x, y), words, anchor))

    def markup(self, *, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> Svg:
        """The whole figure; grid and labels are behind the data."""
        parts: list[Svg] = []
        for value in y_ticks:
            x, y = self.at(self.x[0], value)
            parts.append(svg.line("grid", (x, y), (self.width - RIGHT, y)))
            parts.append(svg.text(x - 5, y + 4, svg.tick_text(value, y_ticks), "end"))
        for value in x_ticks:
            x, y = self.at(value, self.y[0])
            parts.append(svg.text(x, y + 15, svg.tick_text(value, x_ticks), "middle"))
        middle = (LEFT + self.width - RIGHT) / 2, (self.height - BOTTOM + TOP) / 2
        below = {"x": middle[0], "y": self.height - 4, "text_anchor": "middle"}
        beside = {"transform": f"translate(11 {middle[1]}) rotate(-90)", "text_anchor": "middle"}
        parts.append(svg.element("text", self.x_label, class_="axis", **below))
        parts.append(svg.element("text", self.y_label, class_="axis", **beside))
        return svg.element(
            "svg",
            svg.join([*parts, *self._parts]),
            class_="figure",
            viewBox=f"0 0 {self.width} {self.height}",
            role="img",
            aria_label=self.title,
        )


def dot_strip(marks: Sequence[tuple[float, str, str]], width: int) -> Svg:
    """A small axis from 0 to 1 with a dot for each (value, colour, tooltip); the last on top."""
    dots = [
        svg.element("circle", svg.tooltip(tip), cx=_strip_x(value, width), cy=8, r=4.5, fill=colour)
        for value, colour, tip in marks
    ]
    return _strip(dots, width)


def interval_strip(value: float, interval: Sequence[float] | None, colour: str, width: int) -> Svg:
    """A small axis from 0 to 1 with a dot for a value and a bar for its interval."""
    x, low, high = (_strip_x(v, width) for v in (value, *(interval or (value, value))))
    bar = svg.element("line", x1=low, y1=8, x2=high, y2=8, stroke=colour, stroke_width=3)
    return _strip([bar, svg.element("circle", cx=x, cy=8, r=4.5, fill=colour)], width)


def share_bar(parts: Sequence[tuple[float, str, str]]) -> Svg:
    """A bar of full width, divided into (share, colour, tooltip) from left to right."""
    # In thousandths of the width; the page stretches the figure.
    boxes, left = [], 0.0
    for share, colour, tip in parts:
        place = {"x": left * 1000, "y": 0, "width": max(share * 1000, 0), "height": 18}
        boxes.append(svg.element("rect", svg.tooltip(tip), **place, fill=colour))
        left += share
    look = {"viewBox": "0 0 1000 18", "preserveAspectRatio": "none", "aria_hidden": "true"}
    return svg.element("svg", svg.join(boxes), class_="shares", **look)


def _strip_x(value: float, width: int) -> float:
    # Room for half a dot at both ends.
    return 6 + svg.share_between(value, 0, 1) * (width - 12)


def _strip(marks: Sequence[Svg], width: int) -> Svg:
    axis = svg.line("grid", (6, 8), (width - 6, 8))
    size = {"viewBox": f"0 0 {width} 16", "width": width, "height": 16, "aria_hidden": "true"}
    return svg.element("svg", axis, *marks, class_="strip", **size)
