"""SVG elements, escaping and ticks."""

from xml.etree import ElementTree

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egoexo_tools.viewing.svg import Svg, element, join, nice_ticks, path, text, tick_text, tooltip

# What XML can hold: no control characters, no halves of surrogate pairs.
WORDS = st.text(st.characters(exclude_categories=("Cc", "Cs")).filter(lambda c: c < "\ufffe"))


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        (element("rect", x=1.26, y=2, class_="s0"), '<rect x="1.3" y="2" class="s0"/>'),
        (element("i", "", class_="s1"), '<i class="s1"></i>'),
        (element("line", stroke_width=2.0), '<line stroke-width="2.0"/>'),
        (element("svg", "<b>", viewBox="0 0 1 1"), '<svg viewBox="0 0 1 1">&lt;b&gt;</svg>'),
        (element("g", element("i"), "&"), "<g><i/>&amp;</g>"),
        (text(1, 2, "a", "end"), '<text x="1.0" y="2.0" text-anchor="end">a</text>'),
    ],
)
def test_element_markup(markup: Svg, expected: str) -> None:
    assert markup == expected


def test_a_tooltip_is_added_if_it_differs_from_the_words() -> None:
    assert "title" not in text(0, 0, "bowl", "start", tip="bowl")
    assert "<title>bowl of rice</title>" in text(0, 0, "bowl…", "start", tip="bowl of rice")


@given(words=WORDS, tip=WORDS)
def test_any_name_is_kept_as_text(words: str, tip: str) -> None:
    parsed = ElementTree.fromstring(element("g", words, tooltip(tip), aria_label=words))
    assert (parsed.text or "", parsed[0].text or "", len(parsed)) == (words, tip, 1)
    assert parsed.get("aria-label") == words


def test_templates_include_figures_and_escape_text() -> None:
    template = jinja2.Environment(autoescape=True).from_string("{{ figure }}{{ name }}")
    page = template.render(figure=join([element("i"), "<u>"]), name="<b>")
    assert page == "<i/>&lt;u&gt;&lt;b&gt;"


def test_points_of_a_line() -> None:
    assert path([(0, 1.26), (10.04, 2)]) == "0.0,1.3 10.0,2.0"


def test_ticks_are_round_numbers() -> None:
    assert nice_ticks(0, 103) == [0, 20, 40, 60, 80, 100]
    assert nice_ticks(0, 0.22) == [0, 0.05, 0.1, 0.15, 0.2]
    assert nice_ticks(3, 3) == [3]
    assert [tick_text(value, [0, 0.05, 0.1]) for value in (0, 0.05)] == ["0.00", "0.05"]
    assert tick_text(20_000, [0, 20_000]) == "20,000"
