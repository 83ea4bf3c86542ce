"""Splits by shares and with one scenario held out."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from take_facts import take_facts

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.release.splits import divide, group_key
from egoexo_tools.release.survey import TakeFacts
from egoexo_tools.vocab import Split


def many(count: int, seed: int = 0) -> list[TakeFacts]:
    """Takes of uneven scenarios, in captures of up to four takes."""
    rng = np.random.default_rng(seed)
    names = ["Cooking"] * 6 + ["Health"] * 3 + ["Music"]
    return [
        take_facts(
            number,
            scenario=names[int(rng.integers(10))],
            university=["cmu", "sfu", "upenn"][int(rng.integers(3))],
            objects=("cup",) * int(rng.integers(1, 9)),
            capture=f"c{number // 3}",
            participant=None if number % 7 == 0 else f"p{number // 5}",
            split=list(Split)[int(rng.integers(3))],
        )
        for number in range(count)
    ]


def sizes(split_of: dict[str, Split]) -> list[int]:
    return [sum(of_take is split for of_take in split_of.values()) for split in Split]


def test_the_official_split_is_used_unchanged() -> None:
    takes = [take_facts(0), take_facts(1, split=Split.TEST)]
    assert divide(takes, "official").split_of == {"t0": Split.TRAIN, "t1": Split.TEST}


def test_shares_are_met_exactly_and_closely_by_every_scenario() -> None:
    takes = many(200)
    split_of = divide(takes, "0.8,0.1,0.1").split_of
    assert sizes(split_of) == [160, 20, 20]
    for label in ("scenario", "university"):
        totals = Counter(getattr(take, label) for take in takes)
        for split, share in zip(Split, (0.8, 0.1, 0.1), strict=True):
            part = Counter(getattr(t, label) for t in takes if split_of[t.take_uid] is split)
            for name, count in totals.items():
                assert abs(part[name] - share * count) <= 2, (name, split)
    means = [
        np.mean([len(t.objects) for t in takes if split_of[t.take_uid] is split]) for split in Split
    ]
    assert max(means) - min(means) < 0.8


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (10, "0.8,0.1,0.1", [8, 1, 1]),
        (4, "0.8,0.1,0.1", [2, 1, 1]),
        (7, "0.5,0.5,0", [4, 3, 0]),
        (5, "0,0,1", [0, 0, 5]),
    ],
)
def test_no_split_with_a_share_stays_empty(count: int, shares: str, expected: list[int]) -> None:
    assert sizes(divide(many(count), shares).split_of) == expected


def test_the_result_depends_on_the_seed_but_not_on_the_order_of_the_takes() -> None:
    takes = many(60)
    first = divide(takes, "0.6,0.2,0.2", seed=1).split_of
    assert divide(takes[::-1], "0.6,0.2,0.2", seed=1).split_of == first
    assert divide(takes, "0.6,0.2,0.2", seed=2).split_of != first


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["capture", "participant"]))
def test_groups_stay_together_and_every_take_has_a_split(seed: int, group_by: str) -> None:
    takes = many(40, seed)
    split_of = divide(takes, "0.7,0.15,0.15", group_by=group_by, seed=seed).split_of
    assert list(split_of) == [take.take_uid for take in takes]
    splits_of: dict[str, set[Split]] = {}
    for take in takes:
        splits_of.setdefault(group_key(take, group_by), set()).add(split_of[take.take_uid])
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert abs(sizes(split_of)[0] - 28) <= 5


def test_notes_say_where_groups_come_from_names() -> None:
    takes = [
        take_facts(0, capture_named=False),
        take_facts(1, participant=None),
        take_facts(2, capture="c2"),
    ]
    by_capture = divide(takes, "0.5,0.5,0", group_by="capture").notes
    assert by_capture == [
        "1 takes have no capture_uid; take_name without its number is used",
        "the capture of 2 takes is the capture_uid of takes.json",
    ]
    by_participant = divide(takes, "0.5,0.5,0", group_by="participant").notes
    assert by_participant == [
        "1 takes have no participant_uid; each stays with its capture",
        "the capture of 1 takes is the capture_uid of takes.json",
    ]


def test_a_scenario_is_held_out_as_test() -> None:
    takes = [
        take_facts(0, split=Split.TEST),
        take_facts(1, split=Split.VAL),
        take_facts(2, scenario="Health", capture="c1"),
        take_facts(3, scenario="Health", capture="c2", split=Split.VAL),
    ]
    split_of = divide(takes, "leave-out:health").split_of
    assert split_of == {"t0": Split.TRAIN, "t1": Split.VAL, "t2": Split.TEST, "t3": Split.TEST}


def test_takes_that_share_a_group_with_the_test_scenario_are_left_out() -> None:
    takes = [
        take_facts(0),
        take_facts(1, participant="p1"),
        take_facts(2, scenario="Health", participant="p1"),
    ]
    division = divide(takes, "leave-out:Health", group_by="participant")
    assert division.split_of == {"t0": Split.TRAIN, "t2": Split.TEST}
    assert division.left_out == {"t1": "shares its participant with the test scenario"}


@pytest.mark.parametrize(
    ("scheme", "group_by", "error", "message"),
    [
        ("0.8,0.1", "take", SettingsError, "three shares"),
        ("0.8,0.1,0.2", "take", SettingsError, "add up to 1"),
        ("1.1,-0.1,0", "take", SettingsError, "three shares"),
        ("nan,1,0", "take", SettingsError, "three shares"),
        ("random", "take", SettingsError, "official, leave-out"),
        ("leave-out:Helth", "take", SettingsError, "did you mean 'Health'"),
        ("leave-out:*", "take", SettingsError, "nothing is left to train"),
        ("official", "capture", SettingsError, "the official split is fixed"),
        ("0.8,0.1,0.1", "day", SettingsError, "use take, capture, participant"),
        ("0.8,0.1,0.1", "capture", DataError, "1 groups of takes cannot fill 3 splits"),
    ],
)
def test_invalid_schemes_are_rejected(
    scheme: str, group_by: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        divide([take_facts(0), take_facts(1, scenario="Health")], scheme, group_by=group_by)
