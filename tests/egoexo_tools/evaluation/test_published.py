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
    known = {"official", "omama", "lm-eec", "both-visible", "own"}
    assert {one.protocol for one in PUBLISHED} == known
    assert all(one.mean for one in PUBLISHED)
    modes = {one.method: one.mode for one in PUBLISHED}
    assert set(modes.values()) == {"the pair alone", "past only", "not known"}
    assert modes["O-MaMa"] == modes["DINOv2 mask k-NN"] == "the pair alone"
    assert modes["LM-EEC"] == modes["XView-XMem + XSegTx"] == "past only"


@pytest.mark.parametrize(
    ("method", "protocol", "numbers"),
    [
        ("V2-SAM", "both-visible", [46.3, 49.6]),
        ("V2-SAM, run again by others", "own", [40.2, 46.4]),
        ("VGGT-S", "both-visible", [67.7, 68.0]),
        ("DOMR", "both-visible", [49.7, 55.2]),
        ("CCMP", "official", [41.95, 47.18]),
        ("LM-EEC", "lm-eec", [54.98, 65.77]),
    ],
)
def test_each_number_has_its_evaluator(method: str, protocol: str, numbers: list[float]) -> None:
    (one,) = [one for one in PUBLISHED if one.method == method]
    assert one.protocol == protocol
    assert [one.iou(direction) for direction in Direction] == numbers
    if protocol not in {"official", "lm-eec"}:
        assert comparable(one, OURS) == f"{protocol} protocol, not official"
