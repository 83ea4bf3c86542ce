"""Splits by shares and with a scenario left out."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.release.splits import divide, group_key
from egoexo_tools.release.survey import TakeFacts
from egoexo_tools.vocab import Split

FIRST = TakeFacts(
    take_uid="t0",
    take_name="cmu_a_1",
    scenario="Cooking",
    university="cmu",
    task="",
    split=Split.TRAIN,
    capture="c0",
    capture_named=True,
    participant="p0",
    objects=("cup_0",),
    cameras=("aria01_214-1", "cam01"),
    frame_idxs=(0, 30),
    masks=4,
    pairs=4,
    seconds=10.0,
    video_bytes=1000,
)


def take(number: int, **changes: object) -> TakeFacts:
    values = {"take_uid": f"t{number}", "take_name": f"cmu_a_{number}", **changes}
    return replace(FIRST, **values)  # type: ignore[arg-type]


def many(count: int, seed: int = 0) -> list[TakeFacts]:
    """Takes of uneven scenarios, in captures of up to four takes."""
    rng = np.random.default_rng(seed)
    names = ["Cooking"] * 6 + ["Health"] * 3 + ["Music"]
    return [
        take(
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
    return [sum(split is other for other in split_of.values()) for split in Split]


def test_the_official_split_is_taken_as_it_is() -> None:
    takes = [take(0), take(1, split=Split.TEST)]
    assert divide(takes, "official").split_of == {"t0": Split.TRAIN, "t1": Split.TEST}


def test_shares_are_met_to_a_take_and_every_scenario_has_them() -> None:
    takes = many(200)
    split_of = divide(takes, "0.8,0.1,0.1").split_of
    assert sizes(split_of) == [160, 20, 20]
    for label in ("scenario", "university"):
        whole = Counter(getattr(take, label) for take in takes)
        for split, share in zip(Split, (0.8, 0.1, 0.1), strict=True):
            part = Counter(getattr(t, label) for t in takes if split_of[t.take_uid] is split)
            for name, count in whole.items():
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


def test_the_seed_decides_and_the_order_of_the_takes_does_not() -> None:
    takes = many(60)
    first = divide(takes, "0.6,0.2,0.2", seed=1).split_of
    assert divide(takes[::-1], "0.6,0.2,0.2", seed=1).split_of == first
    assert divide(takes, "0.6,0.2,0.2", seed=2).split_of != first


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["capture", "participant"]))
def test_groups_stay_together_and_no_take_is_lost(seed: int, group_by: str) -> None:
    takes = many(40, seed)
    split_of = divide(takes, "0.7,0.15,0.15", group_by=group_by, seed=seed).split_of
    assert list(split_of) == [take.take_uid for take in takes]
    splits_of: dict[str, set[Split]] = {}
    for one in takes:
        splits_of.setdefault(group_key(one, group_by), set()).add(split_of[one.take_uid])
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert abs(sizes(split_of)[0] - 28) <= 5


def test_guessed_groups_are_told() -> None:
    takes = [take(0, capture_named=False), take(1, participant=None), take(2, capture="c2")]
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


def test_a_scenario_is_left_out_for_the_test() -> None:
    takes = [
        take(0, split=Split.TEST),
        take(1, split=Split.VAL),
        take(2, scenario="Health", capture="c1"),
        take(3, scenario="Health", capture="c2", split=Split.VAL),
    ]
    split_of = divide(takes, "leave-out:health").split_of
    assert split_of == {"t0": Split.TRAIN, "t1": Split.VAL, "t2": Split.TEST, "t3": Split.TEST}


def test_sittings_of_the_scenario_that_is_left_out_go_with_it() -> None:
    takes = [
        take(0),
        take(1, participant="p1"),
        take(2, scenario="Health", participant="p1"),
    ]
    division = divide(takes, "leave-out:Health", group_by="participant")
    assert division.split_of == {"t0": Split.TRAIN, "t2": Split.TEST}
    assert division.left_out == {"t1": "shares its participant with the test scenario"}


@pytest.mark.parametrize(
    ("how", "group_by", "error", "message"),
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
def test_what_cannot_be_meant_is_refused(
    how: str, group_by: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        divide([take(0), take(1, scenario="Health")], how, group_by=group_by)
