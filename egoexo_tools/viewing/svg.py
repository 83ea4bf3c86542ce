"""SVG elements, scales and ticks for the figures of all pages.

The stats page (`charts`) and the report (`report/figures`) use them. `element` and `join` escape
text, so that names from files cannot become markup. Lengths are pixels, written to one decimal.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape


class Svg(str):
    """Finished markup, which templates and other elements include without escaping."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


def element(tag: str, *content: str, **attributes: object) -> Svg:
    """`<tag attributes>content</tag>`; content that is not Svg is escaped as text.

    Attributes keep their order: `class_` is class, `stroke_width` is stroke-width.
    """
    attribute_text = ""
    for name, value in attributes.items():
        # All decimals of a float would make pages large.
        value_text = f"{value:.1f}" if isinstance(value, float) else escape(str(value))
        attribute_text += f' {name.rstrip("_").replace("_", "-")}="{value_text}"'
    if not content:
        return Svg(f"<{tag}{attribute_text}/>")
    return Svg(f"<{tag}{attribute_text}>{join(content)}</{tag}>")


def join(parts: Iterable[str]) -> Svg:
    """Elements in sequence; text that is not Svg is escaped."""
    return Svg("".join(part if isinstance(part, Svg) else escape(part) for part in parts))


def tooltip(text: str) -> Svg:
    """Content that the surrounding element shows under the mouse pointer."""
    return element("title", text)


def text(x: float, y: float, words: str, anchor: str, *, tip: str = "") -> Svg:
    """A text element; `anchor` (start, middle, end) is the part of the words at position x."""
    content = (words, tooltip(tip)) if tip and tip != words else (words,)
    return element("text", *content, x=float(x), y=float(y), text_anchor=anchor)


def line(kind: str, start: tuple[float, float], end: tuple[float, float]) -> Svg:
    """A straight line; `kind` is the CSS class that colours it."""
    (x1, y1), (x2, y2) = start, end
    return element("line", class_=kind, x1=x1, y1=y1, x2=x2, y2=y2)


def path(points: Iterable[tuple[float, float]]) -> str:
    """The attribute `points` of a polyline."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def share_between(value: float, low: float, high: float) -> float:
    """(value - low) / (high - low), clipped to 0..1; 0.5 for an empty range."""
    return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within [low, high]."""
    span = high - low
    if not span > 0:
        return [low]
    step = 10.0 ** math.floor(math.log10(span / count))
    step = min((step * k for k in (1, 2, 5, 10)), key=lambda size: abs(span / size - count))
    first = -int(-low // step)
    # The tolerance keeps a last tick that rounding moves just above the end.
    return [round(k * step, 10) for k in range(first, int(high / step + 1e-9) + 1)]


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """The label of a tick, with enough digits to distinguish it from the next one."""
    step = min((abs(b - a) for a, b in zip(ticks, ticks[1:], strict=False)), default=1.0)
    digits = 0
    while digits < 4 and round(step * 10**digits, 6) % 1:
        digits += 1
    return f"{value:,.{digits}f}"
