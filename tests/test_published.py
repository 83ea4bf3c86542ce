"""Published numbers stand only beside what they can be compared with."""

from typing import Any

import pytest

from egoexo_tools.evaluation.published import PUBLISHED, Published, comparable
from egoexo_tools.vocab import Direction, Split

OURS = {
    "protocol": "official",
    "split": "test",
    "direction": "exo2ego",
    "samples": 1000,
    "takes": 290,
    "coverage": {"complete": True},
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"protocol": "omama"}, "official protocol, not omama"),
        ({"split": "val"}, "split test, not val"),
        ({"takes": 6}, "295 takes, not 6: a subset, or other data"),
        ({"coverage": {"complete": False}}, "only a part of the samples was scored"),
    ],
)
def test_comparable(change: dict[str, Any], reason: str | None) -> None:
    number = Published("O-MaMa", Split.TEST, "v2", "official", 42.6, 44.1)
    assert comparable(number, OURS | change) == reason


def test_a_number_on_selected_samples_needs_as_many() -> None:
    number = Published("x", Split.TEST, "v2", "official", None, 52.6, samples=1950)
    assert comparable(number, OURS) == "1,950 selected samples, not 1,000"
    assert comparable(number, OURS | {"samples": 1950}) is None
    assert comparable(number, OURS | {"samples": 1950, "direction": "ego2exo"}) == (
        "no number for ego2exo"
    )


def test_the_table() -> None:
    omama = [one for one in PUBLISHED if one.method == "O-MaMa" and one.split == "test"]
    assert [one.iou(direction) for one in omama for direction in Direction] == [42.6, 44.1]
    assert all(0 < (one.exo2ego or 0) < 100 for one in PUBLISHED)
    assert {one.protocol for one in PUBLISHED} <= {"official", "omama", "lm-eec"}
