"""Small figures as inline SVG: axes, lines, bars and points in data coordinates.

Colours are CSS classes or literal values; text and lines take the page's colours, so that a
figure fits light, dark and printed pages. All text is escaped.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

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
    _parts: list[Markup] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Data → pixels; what lies outside the axes is put on their edge."""
        across = _share(x, *self.x) * (self.width - LEFT - RIGHT)
        up = _share(y, *self.y) * (self.height - TOP - BOTTOM)
        return round(LEFT + across, 1), round(self.height - BOTTOM - up, 1)

    def line(self, points: Points, *, colour: str, dash: str = "", width: float = 2) -> None:
        path = " ".join(f"{x},{y}" for x, y in (self.at(*point) for point in points))
        self._add(
            '<polyline points="{}" fill="none" stroke="{}" stroke-width="{}" '
            'stroke-dasharray="{}" stroke-linejoin="round"/>',
            path,
            colour,
            width,
            dash,
        )

    def points(self, points: Points, *, colour: str, radius: float = 3) -> None:
        for x, y in (self.at(*point) for point in points):
            self._add('<circle cx="{}" cy="{}" r="{}" fill="{}"/>', x, y, radius, colour)

    def box(
        self, low: tuple[float, float], high: tuple[float, float], *, colour: str, tip: str
    ) -> None:
        """A filled rectangle between two corners, with a tooltip."""
        (left, bottom), (right, top) = self.at(*low), self.at(*high)
        self._add(
            '<rect x="{}" y="{}" width="{}" height="{}" fill="{}"><title>{}</title></rect>',
            left,
            top,
            max(right - left - 1, 0.5),
            max(bottom - top, 0),
            colour,
            tip,
        )

    def note(self, x: float, y: float, text: str, *, anchor: str = "start") -> None:
        px, py = self.at(x, y)
        self._add('<text x="{}" y="{}" text-anchor="{}">{}</text>', px, py, anchor, text)

    def markup(self, *, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> Markup:
        """The whole figure, grid and labels behind what was drawn."""
        grid = [self._y_tick(value, y_ticks) for value in y_ticks]
        grid += [self._x_tick(value, x_ticks) for value in x_ticks]
        middle = (LEFT + self.width - RIGHT) / 2
        labels = Markup(
            '<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>'
            '<text class="axis" transform="translate(11 {}) rotate(-90)" '
            'text-anchor="middle">{}</text>'
        ).format(
            middle, self.height - 4, self.x_label, (self.height - BOTTOM + TOP) / 2, self.y_label
        )
        return Markup(
            '<svg class="figure" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}{}</svg>'
        ).format(self.width, self.height, self.title, _join(grid), labels, _join(self._parts))

    def _add(self, template: str, *values: object) -> None:
        self._parts.append(Markup(template).format(*values))

    def _y_tick(self, value: float, ticks: Sequence[float]) -> Markup:
        x, y = self.at(self.x[0], value)
        return Markup(
            '<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>'
            '<text x="{}" y="{}" text-anchor="end">{}</text>'
        ).format(x, y, self.width - RIGHT, y, x - 5, y + 4, tick_text(value, ticks))

    def _x_tick(self, value: float, ticks: Sequence[float]) -> Markup:
        x, y = self.at(value, self.y[0])
        return Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
            x, y + 15, tick_text(value, ticks)
        )


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """A tick's label, with as many digits as tell it from its neighbours."""
    step = min((abs(b - a) for a, b in zip(ticks, ticks[1:], strict=False)), default=1.0)
    digits = 0
    while digits < 4 and round(step * 10**digits, 6) % 1:
        digits += 1
    return f"{value:,.{digits}f}"


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within [low, high]."""
    span = high - low
    if not span > 0:
        return [low]
    step = 10.0 ** math.floor(math.log10(span / count))
    step = min((step * k for k in (1, 2, 5, 10)), key=lambda one: abs(span / one - count))
    first = -int(-low // step)
    return [round(k * step, 10) for k in range(first, int(high / step + 1e-9) + 1)]


def strip(marks: Sequence[tuple[float, str, str]], *, width: int = 180) -> Markup:
    """A small axis from 0 to 1 with a dot for each (value, colour, tooltip); the last on top."""
    dots = Markup("").join(
        Markup('<circle cx="{}" cy="8" r="4.5" fill="{}"><title>{}</title></circle>').format(
            round(6 + _share(value, 0, 1) * (width - 12), 1), colour, tip
        )
        for value, colour, tip in marks
    )
    return Markup(
        '<svg class="strip" viewBox="0 0 {} 16" width="{}" height="16" aria-hidden="true">'
        '<line class="grid" x1="6" y1="8" x2="{}" y2="8"/>{}</svg>'
    ).format(width, width, width - 6, dots)


def interval(value: float, ends: Sequence[float] | None, colour: str, width: int = 180) -> Markup:
    """A value on an axis from 0 to 1, with its interval as a bar."""
    x, low, high = (
        round(6 + _share(one, 0, 1) * (width - 12), 1) for one in (value, *(ends or (value, value)))
    )
    return Markup(
        '<svg class="strip" viewBox="0 0 {w} 16" width="{w}" height="16" aria-hidden="true">'
        '<line class="grid" x1="6" y1="8" x2="{right}" y2="8"/>'
        '<line x1="{low}" y1="8" x2="{high}" y2="8" stroke="{c}" stroke-width="3"/>'
        '<circle cx="{x}" cy="8" r="4.5" fill="{c}"/></svg>'
    ).format(w=width, right=width - 6, low=low, high=high, x=x, c=colour)


def shares(parts: Sequence[tuple[float, str, str]]) -> Markup:
    """A bar of full width cut into (share, colour, tooltip), left to right."""
    cuts, left = [], 0.0
    for share, colour, tip in parts:
        cuts.append(
            Markup(
                '<rect x="{}" y="0" width="{}" height="18" fill="{}"><title>{}</title></rect>'
            ).format(round(left * 1000, 1), max(round(share * 1000, 1), 0), colour, tip)
        )
        left += share
    return Markup(
        '<svg class="shares" viewBox="0 0 1000 18" preserveAspectRatio="none" '
        'aria-hidden="true">{}</svg>'
    ).format(_join(cuts))


def _share(value: float, low: float, high: float) -> float:
    """Where `value` lies between low and high, cut to 0..1."""
    return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5


def _join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(escape(part) for part in parts)
