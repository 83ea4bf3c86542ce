import itertools

import numpy as np
import pandas as pd
import pytest
from reference import plain_pair_sample

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.sampling import Sampling, hash_names, select_pairs, splitmix64


def make_pairs() -> pd.DataFrame:
    """3 scenarios; 6 takes; 4 objects a take; 1 to 40 frames an object: 426 pairs."""
    rows = []
    for take, obj in itertools.product(range(6), range(4)):
        scenario = ("cooking", "cooking", "cooking", "health", "health", "music")[take]
        for frame in range([1, 10, 20, 40][obj]):
            rows.append((f"take{take}", f"object {obj}", "cam01", 30 * frame, scenario))
    columns = ["take_uid", "object_name", "exo_camera", "frame_idx", "scenario"]
    return pd.DataFrame(rows, columns=columns)


PAIRS = make_pairs()
OBJECT = ["take_uid", "object_name"]


def selected(sampling: Sampling, pairs: pd.DataFrame = PAIRS) -> pd.DataFrame:
    return pairs[select_pairs(pairs, sampling)]


def names(pairs: pd.DataFrame) -> set[tuple[object, ...]]:
    return set(pairs.itertuples(index=False, name=None))


def test_hashes_do_not_change() -> None:
    # printf 7/take/cam01/cup | b2sum -l 64, the bytes read from the last to the first.
    assert hash_names(["take/cam01/cup"], 7).tolist() == [9406109074685725278]
    # The first output of the published SplitMix64 for state 0.
    assert splitmix64(np.array([0], np.uint64)).tolist() == [0xE220A8397B1DCDAF]


@pytest.mark.parametrize("by", ["frame", "track", "take"])
@pytest.mark.parametrize("count", [1, 23, 200])
def test_the_sample_equals_that_of_the_slow_twin(by: str, count: int) -> None:
    columns = ["take_uid", "exo_camera", "object_name", "frame_idx"]
    rows = list(PAIRS[columns].itertuples(index=False, name=None))
    sample = selected(Sampling(count=count, by=by, seed=11))[columns]
    assert names(sample) == plain_pair_sample(rows, count, by, seed=11)


@pytest.mark.parametrize("by", ["frame", "track", "take"])
@pytest.mark.parametrize("balance", [None, "scenario"])
@pytest.mark.parametrize("count", [1, 25, 200, 426])
def test_an_exact_count_is_exact(by: str, balance: str | None, count: int) -> None:
    assert len(selected(Sampling(count=count, by=by, balance=balance))) == count


@pytest.mark.parametrize(("fraction", "count"), [(0.2, 85), (0.001, 0), (1.0, 426)])
def test_a_fraction_is_rounded(fraction: float, count: int) -> None:
    assert len(selected(Sampling(fraction=fraction))) == count


def test_without_settings_all_pairs_are_kept_in_order() -> None:
    assert selected(Sampling()).equals(PAIRS)
    sample = selected(Sampling(count=100))
    assert list(sample.index) == sorted(sample.index)


@pytest.mark.parametrize("by", ["frame", "track", "take"])
@pytest.mark.parametrize("balance", [None, "scenario"])
def test_row_order_does_not_matter(by: str, balance: str | None) -> None:
    sampling = Sampling(count=100, by=by, balance=balance, floor=2, cap=15, seed=3)
    shuffled = PAIRS.sample(frac=1, random_state=1)
    assert names(selected(sampling)) == names(selected(sampling, shuffled))


def test_seeds_give_different_samples() -> None:
    samples = [names(selected(Sampling(count=100, seed=seed))) for seed in range(3)]
    assert all(len(a & b) < 50 for a, b in itertools.combinations(samples, 2))


@pytest.mark.parametrize("by", ["frame", "track", "take"])
def test_a_smaller_sample_is_a_subset_of_a_larger_one(by: str) -> None:
    samples = [names(selected(Sampling(count=count, by=by))) for count in (10, 60, 250)]
    assert samples[0] < samples[1] < samples[2]


@pytest.mark.slow
def test_by_frame_gives_every_pair_the_same_probability() -> None:
    counts = sum(select_pairs(PAIRS, Sampling(fraction=0.5, seed=seed)) for seed in range(200))
    # 213 of 426 pairs in each of 200 samples: 100 +- 7 (one sigma) per pair.
    assert counts.min() > 65 and counts.max() < 135
    assert abs(counts.std() - 7.07) < 1.5


def test_by_track_gives_every_track_its_share() -> None:
    sample = selected(Sampling(fraction=0.5, by="track")).groupby(OBJECT).size()
    assert len(sample) == 24
    whole = PAIRS.groupby(OBJECT).size()
    assert (abs(sample - whole / 2) <= 1.5).all()
    assert len(selected(Sampling(count=24, by="track")).groupby(OBJECT)) == 24


def test_by_take_keeps_whole_takes_but_one() -> None:
    sample = selected(Sampling(count=200, by="take")).groupby("take_uid").size()
    assert sorted(sample) == [58, 71, 71]


def test_balance_equalises_scenarios_as_far_as_possible() -> None:
    # cooking has 213 pairs, health 142, music 71.
    def sizes(sampling: Sampling) -> dict[str, int]:
        return dict(sorted(selected(sampling).groupby("scenario").size().items()))

    assert sizes(Sampling(count=90, balance="scenario")) == dict(cooking=30, health=30, music=30)
    assert sizes(Sampling(count=301, balance="scenario")) == dict(cooking=115, health=115, music=71)
    assert sizes(Sampling(balance="scenario")) == dict(cooking=71, health=71, music=71)


def test_floor_and_cap_hold_for_every_object() -> None:
    sizes = selected(Sampling(count=150, floor=5, cap=8)).groupby(OBJECT).size()
    whole = PAIRS.groupby(OBJECT).size()
    assert len(sizes) == 24 and sizes.sum() == 150
    assert (sizes >= whole.clip(upper=5)).all() and (sizes <= 8).all()
    assert len(selected(Sampling(cap=3))) == 6 * (1 + 3 + 3 + 3)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(count=427), "427 pairs are requested and 426 are available"),
        (Sampling(count=61, cap=3), "61 pairs are requested and 60 are available"),
        (Sampling(count=50, floor=3), "floor per object requires 60 pairs"),
    ],
)
def test_an_impossible_count_is_rejected(sampling: Sampling, message: str) -> None:
    with pytest.raises(DataError, match=message):
        select_pairs(PAIRS, sampling)


@pytest.mark.parametrize(
    "settings",
    [
        {"fraction": 0.0},
        {"fraction": 1.1},
        {"count": 0},
        {"count": 3, "fraction": 0.5},
        {"by": "object"},
        {"balance": "university"},
        {"floor": 3, "cap": 2},
        {"cap": 0},
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        Sampling(**settings)  # type: ignore[arg-type]


def test_no_pairs_give_an_empty_sample() -> None:
    assert (
        select_pairs(PAIRS.iloc[:0], Sampling(fraction=0.5, by="track", balance="scenario")).size
        == 0
    )
