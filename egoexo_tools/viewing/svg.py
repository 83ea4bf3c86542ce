"""What all figures of our pages are drawn with: SVG elements, scales, round ticks.

The stats page (`charts`) and the report (`report/figures`) build on it. Text is escaped where it
is put in, so that names out of files cannot become markup; lengths are pixels, written to a tenth.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape


class Svg(str):
    """Finished markup. A template, or another element, puts it in as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


def element(tag: str, *content: str, **attributes: object) -> Svg:
    """`<tag attributes>content</tag>`; content that is no Svg is text.

    Attributes stand in the order in which they are given: `class_` is class, `stroke_width` is
    stroke-width.
    """
    names = (name.rstrip("_").replace("_", "-") for name in attributes)
    written = "".join(
        f' {name}="{_number(value)}"'
        for name, value in zip(names, attributes.values(), strict=True)
    )
    return Svg(f"<{tag}{written}>{join(content)}</{tag}>" if content else f"<{tag}{written}/>")


def join(parts: Iterable[str]) -> Svg:
    """Elements one behind the other; what is no Svg is escaped."""
    return Svg("".join(part if isinstance(part, Svg) else escape(part) for part in parts))


def tooltip(text: str) -> Svg:
    """What the element that holds it shows under the mouse."""
    return element("title", text)


def text(x: float, y: float, words: str, anchor: str, *, tip: str = "") -> Svg:
    """`anchor` (start, middle, end) is the part of the words that lies at x."""
    content = (words, tooltip(tip)) if tip and tip != words else (words,)
    return element("text", *content, x=float(x), y=float(y), text_anchor=anchor)


def line(kind: str, start: tuple[float, float], end: tuple[float, float]) -> Svg:
    """A straight line; `kind` is the CSS class that colours it."""
    (x1, y1), (x2, y2) = start, end
    return element("line", class_=kind, x1=x1, y1=y1, x2=x2, y2=y2)


def path(points: Iterable[tuple[float, float]]) -> str:
    """The `points` of a polyline."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def share_between(value: float, low: float, high: float) -> float:
    """Where `value` lies between low and high, cut to 0..1; the middle of an empty range."""
    return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within [low, high]."""
    span = high - low
    if not span > 0:
        return [low]
    step = 10.0 ** math.floor(math.log10(span / count))
    step = min((step * k for k in (1, 2, 5, 10)), key=lambda one: abs(span / one - count))
    first = -int(-low // step)
    # A last tick that rounding has put just above the end belongs to it.
    return [round(k * step, 10) for k in range(first, int(high / step + 1e-9) + 1)]


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """A tick's label, with as many digits as tell it from its neighbours."""
    step = min((abs(b - a) for a, b in zip(ticks, ticks[1:], strict=False)), default=1.0)
    digits = 0
    while digits < 4 and round(step * 10**digits, 6) % 1:
        digits += 1
    return f"{value:,.{digits}f}"


def _number(value: object) -> str:
    # A float's own spelling has sixteen digits after a sum, which makes pages large.
    return f"{value:.1f}" if isinstance(value, float) else escape(str(value))
