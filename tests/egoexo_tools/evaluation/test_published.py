"""Published numbers, and the runs that they are comparable with."""

from typing import Any

import pytest

from egoexo_tools.evaluation.published import PUBLISHED, Published, incomparable_reason
from egoexo_tools.vocab import Direction, Protocol, Split

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
        ({"takes": 6}, "295 takes, not 6: a subset or other data"),
        ({"coverage": {"complete": False}}, "only part of the samples was scored"),
    ],
)
def test_comparable(change: dict[str, Any], reason: str | None) -> None:
    number = Published("O-MaMa", Split.TEST, "v2", "official", 42.6, 44.1)
    assert incomparable_reason(number, OURS | change) == reason


def test_a_number_on_selected_samples_needs_the_same_number_of_samples() -> None:
    number = Published("x", Split.TEST, "v2", "official", None, 52.6, samples=1950)
    assert incomparable_reason(number, OURS) == "1,950 selected samples, not 1,000"
    assert incomparable_reason(number, OURS | {"samples": 1950}) is None
    assert incomparable_reason(number, OURS | {"samples": 1950, "direction": "ego2exo"}) == (
        "no number for ego2exo"
    )


def test_published_numbers_and_modes() -> None:
    omama = [entry for entry in PUBLISHED if entry.method == "O-MaMa" and entry.split == "test"]
    assert [entry.iou(direction) for entry in omama for direction in Direction] == [42.6, 44.1]
    assert all(0 < (entry.exo2ego or 0) < 100 for entry in PUBLISHED)
    assert {entry.protocol for entry in PUBLISHED} == {*Protocol, "own"}
    assert all(entry.mean and entry.source for entry in PUBLISHED)
    modes = {entry.method: entry.mode for entry in PUBLISHED}
    assert set(modes.values()) == {"the pair alone", "past only", "not known"}
    assert modes["O-MaMa"] == modes["DINOv2 mask k-NN"] == "the pair alone"
    assert modes["LM-EEC"] == modes["XView-XMem + XSegTx"] == "past only"


@pytest.mark.parametrize(
    ("method", "protocol", "numbers"),
    [
        ("V2-SAM", "own", [46.3, 49.6]),
        ("V2-SAM Fusion, released weights", "v2sam-released", [44.65, 49.04]),
        ("V2-SAM Fusion, released weights", "both-visible", [40.24, 46.38]),
        ("V2-SAM Fusion, released weights", "both-visible-frames", [44.93, 51.42]),
        ("VGGT-S", "vggt-s", [67.7, 68.0]),
        ("ObjectRelator", "objectrelator", [45.4, 50.9]),
        ("DOMR", "own", [49.7, 55.2]),
        ("CCMP", "official", [41.95, 47.18]),
        ("LM-EEC", "lm-eec", [54.98, 65.77]),
    ],
)
def test_each_number_has_its_evaluator(method: str, protocol: str, numbers: list[float]) -> None:
    (entry,) = [
        entry for entry in PUBLISHED if (entry.method, entry.protocol) == (method, protocol)
    ]
    assert [entry.iou(direction) for direction in Direction] == numbers
    if protocol not in {"official", "lm-eec"}:
        assert incomparable_reason(entry, OURS) == f"{protocol} protocol, not official"


def test_vggt_s_numbers_stand_beside_no_run() -> None:
    (entry,) = [entry for entry in PUBLISHED if entry.method == "VGGT-S"]
    ours = OURS | {"protocol": "vggt-s", "split": "val"}
    assert incomparable_reason(entry, ours) == "every 20th sample, not 1,000"
