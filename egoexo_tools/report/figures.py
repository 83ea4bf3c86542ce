"""The report's small figures: axes with lines, bars and points in data coordinates, and strips.

Colours are CSS classes or literal values; text and lines take the page's colours, so that a
figure fits light, dark and printed pages.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from egoexo_tools.viewing.svg import (
    Svg,
    element,
    join,
    line,
    path,
    share_between,
    text,
    tick_text,
    tooltip,
)

Points = Iterable[tuple[float, float]]

LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 36
"""Margins around the plotted area, in pixels."""


@dataclass
class Figure:
    """A plot of `width` x `height` pixels whose axes run over `x` and `y` (low, high)."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str
    y_label: str
    title: str
    """What a screen reader says."""
    width: int = 460
    height: int = 260
    _parts: list[Svg] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Data → pixels; what lies outside the axes is put on their edge."""
        across = share_between(x, *self.x) * (self.width - LEFT - RIGHT)
        up = share_between(y, *self.y) * (self.height - TOP - BOTTOM)
        return round(LEFT + across, 1), round(self.height - BOTTOM - up, 1)

    def line(self, points: Points, *, colour: str, dash: str = "", width: float = 2) -> None:
        places = path(self.at(*point) for point in points)
        look = {"stroke": colour, "stroke_width": width, "stroke_dasharray": dash}
        self._parts.append(
            element("polyline", points=places, fill="none", **look, stroke_linejoin="round")
        )

    def points(self, points: Points, *, colour: str, radius: float = 3) -> None:
        for x, y in (self.at(*point) for point in points):
            self._parts.append(element("circle", cx=x, cy=y, r=radius, fill=colour))

    def box(
        self, low: tuple[float, float], high: tuple[float, float], *, colour: str, tip: str
    ) -> None:
        """A filled rectangle between two corners, with a tooltip."""
        (left, bottom), (right, top) = self.at(*low), self.at(*high)
        # Bars that touch would be one shape: a pixel is left between them.
        size = {"width": max(right - left - 1, 0.5), "height": max(bottom - top, 0)}
        self._parts.append(element("rect", tooltip(tip), x=left, y=top, **size, fill=colour))

    def note(self, x: float, y: float, words: str, *, anchor: str = "start") -> None:
        self._parts.append(text(*self.at(x, y), words, anchor))

    def markup(self, *, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> Svg:
        """The whole figure, grid and labels behind what was drawn."""
        grid = [part for value in y_ticks for part in self._y_tick(value, y_ticks)]
        grid += [self._x_tick(value, x_ticks) for value in x_ticks]
        middle = (LEFT + self.width - RIGHT) / 2, (self.height - BOTTOM + TOP) / 2
        centred = {"text_anchor": "middle"}
        below = {"x": middle[0], "y": self.height - 4, **centred}
        beside = {"transform": f"translate(11 {middle[1]}) rotate(-90)", **centred}
        labels = [
            element("text", self.x_label, class_="axis", **below),
            element("text", self.y_label, class_="axis", **beside),
        ]
        view = f"0 0 {self.width} {self.height}"
        drawn = join([*grid, *labels, *self._parts])
        return element("svg", drawn, class_="figure", viewBox=view, role="img",
                       aria_label=self.title)  # fmt: skip

    def _y_tick(self, value: float, ticks: Sequence[float]) -> tuple[Svg, Svg]:
        x, y = self.at(self.x[0], value)
        label = text(x - 5, y + 4, tick_text(value, ticks), "end")
        return line("grid", (x, y), (self.width - RIGHT, y)), label

    def _x_tick(self, value: float, ticks: Sequence[float]) -> Svg:
        x, y = self.at(value, self.y[0])
        return text(x, y + 15, tick_text(value, ticks), "middle")


def strip(marks: Sequence[tuple[float, str, str]], *, width: int = 180) -> Svg:
    """A small axis from 0 to 1 with a dot for each (value, colour, tooltip); the last on top."""
    dots = [
        element("circle", tooltip(tip), cx=_on_strip(value, width), cy=8, r=4.5, fill=colour)
        for value, colour, tip in marks
    ]
    return _strip(dots, width)


def interval(value: float, ends: Sequence[float] | None, colour: str, width: int = 180) -> Svg:
    """A value on an axis from 0 to 1, with its interval as a bar."""
    x, low, high = (_on_strip(one, width) for one in (value, *(ends or (value, value))))
    bar = element("line", x1=low, y1=8, x2=high, y2=8, stroke=colour, stroke_width=3)
    return _strip([bar, element("circle", cx=x, cy=8, r=4.5, fill=colour)], width)


def shares(parts: Sequence[tuple[float, str, str]]) -> Svg:
    """A bar of full width cut into (share, colour, tooltip), left to right."""
    cuts, left = [], 0.0
    for share, colour, tip in parts:
        place = {"x": left * 1000, "y": 0, "width": max(share * 1000, 0), "height": 18}
        cuts.append(element("rect", tooltip(tip), **place, fill=colour))
        left += share
    look = {"viewBox": "0 0 1000 18", "preserveAspectRatio": "none", "aria_hidden": "true"}
    return element("svg", join(cuts), class_="shares", **look)


def _on_strip(value: float, width: int) -> float:
    return 6 + share_between(value, 0, 1) * (width - 12)


def _strip(drawn: Sequence[Svg], width: int) -> Svg:
    axis = line("grid", (6, 8), (width - 6, 8))
    size = {"viewBox": f"0 0 {width} 16", "width": width, "height": 16, "aria_hidden": "true"}
    return element("svg", axis, *drawn, class_="strip", **size)
