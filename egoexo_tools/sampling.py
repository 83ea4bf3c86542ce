"""Samples pairs: a fraction or an exact count, reproducible on every machine.

Randomness comes from hashes of names and the seed, not from the state of a generator. So the
sample does not depend on the order of the rows, on library versions or on the other takes, and a
smaller sample is a subset of a larger one with the same seed. Both directions of a track have the
same hashes and therefore share most of their frames.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from egoexo_tools.arrays import Bool, Int64, UInt64
from egoexo_tools.errors import DataError, SettingsError

if TYPE_CHECKING:
    import pandas as pd


BY = ("frame", "track", "take")
BALANCE = ("scenario",)


@dataclass(frozen=True)
class Sampling:
    """How many pairs to keep and which; without fraction, count, balance and cap: all."""

    fraction: float | None = None
    """Share of the pairs, in (0, 1]; the number of pairs is rounded."""
    count: int | None = None
    """Exact number of pairs; DataError if there are fewer."""
    by: str = "frame"
    """`frame`: each pair has the same probability. `track`: every track (an object in an ego and
    an exo camera) contributes the same share of its frames, and at least one if the count
    allows. `take`: whole takes, of which the last is cut to reach the number."""
    balance: str | None = None
    """`scenario`: the same number of pairs from each scenario, as far as it has enough. Without
    fraction and count, every scenario is cut to the size of the smallest."""
    floor: int | None = None
    """Every object of a take keeps at least this many pairs, or all if it has fewer."""
    cap: int | None = None
    """No object of a take keeps more pairs than this."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fraction is not None and self.count is not None:
            raise SettingsError("a split takes a fraction or a count of its pairs, not both")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise SettingsError(f"fraction {self.fraction} must be above 0 and at most 1")
        if self.count is not None and self.count < 1:
            raise SettingsError(f"count {self.count} must be at least 1")
        if self.by not in BY:
            raise SettingsError(f"sampling by {self.by!r} is unknown; use {', '.join(BY)}")
        if self.balance not in {None, *BALANCE}:
            raise SettingsError(f"balance {self.balance!r} is unknown; use {', '.join(BALANCE)}")
        limits = [limit for limit in (1, self.floor, self.cap) if limit is not None]
        if limits != sorted(limits):
            raise SettingsError("floor and cap must be at least 1, and the floor not above the cap")


@dataclass(frozen=True)
class SplitSampling:
    """The number of pairs of each split, and one rule for selecting them."""

    fractions: Mapping[str, float] = field(default_factory=dict)
    """Split → share of its pairs; other splits keep all."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Split → exact number of its pairs."""
    rule: Sampling = Sampling()
    """How to select; its fraction and count are ignored."""

    def of(self, split: str) -> Sampling:
        """The sampling of one split; SettingsError for contradictory settings."""
        fraction, count = self.fractions.get(split), self.counts.get(split)
        return replace(self.rule, fraction=fraction, count=count)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings in the form in which status files store them."""
        rule = self.rule
        return {
            "fraction": dict(sorted(self.fractions.items())),
            "count": dict(sorted(self.counts.items())),
            "by": rule.by,
            "balance": rule.balance,
            "floor": rule.floor,
            "cap": rule.cap,
            "seed": rule.seed,
        }


def select_pairs(pairs: "pd.DataFrame", sampling: Sampling) -> Bool:
    """Which rows to keep, (n,) bool in the order of `pairs`.

    `pairs` has the columns take_uid, object_name, exo_camera, frame_idx and scenario, without
    duplicate rows. Raises DataError if the count exceeds the pairs or is below the floor's need.
    """
    order = _Order(pairs, sampling)
    allowed = order.first_of_object(sampling.cap)
    needed = allowed & order.first_of_object(sampling.floor or 0)
    scenarios = _codes(pairs["scenario"]) if sampling.balance else np.zeros(len(pairs), np.int64)
    quotas = _quotas(scenarios, allowed, needed, sampling)
    # Within each scenario: pairs that the floor needs, then other allowed pairs, then the rest.
    ranking = np.lexsort((*order.keys(), ~needed, ~allowed, scenarios))
    places = _places(scenarios[ranking])
    selected = np.zeros(len(pairs), bool)
    selected[ranking] = places < quotas[scenarios[ranking]]
    return selected


def hash_names(names: Sequence[str], seed: int) -> UInt64:
    """64 bits of BLAKE2b of "<seed>/<name>" for each name, (n,)."""
    digests = b"".join(
        hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest() for name in names
    )
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def splitmix64(values: UInt64) -> UInt64:
    """SplitMix64 of each value (Steele, Lea & Flood 2014): uniformly distributed bits."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


class _Order:
    """The order in which pairs are selected, as sort keys."""

    def __init__(self, pairs: "pd.DataFrame", sampling: Sampling) -> None:
        self.by = sampling.by
        self.frame_idx = pairs["frame_idx"].to_numpy(np.uint64)
        take, take_names = _named(pairs, ["take_uid"])
        track, track_names = _named(pairs, ["take_uid", "exo_camera", "object_name"])
        self.track = track
        self.object, _ = _named(pairs, ["take_uid", "object_name"])
        self.take_hash = hash_names(take_names, sampling.seed)[take]
        self.track_hash = hash_names(track_names, sampling.seed)[track]
        self.chance = splitmix64(self.track_hash ^ splitmix64(self.frame_idx))

    def keys(self) -> tuple[NDArray[Any], ...]:
        """Sort keys for np.lexsort, the last the most significant; no two pairs are equal."""
        unique = (self.frame_idx, self.track)
        if self.by == "take":
            return (*unique, self.chance, self.take_hash)
        if self.by == "frame":
            return (*unique, self.chance)
        # The n frames of a track get the positions (0 + u)/n, (1 + u)/n, ..., so that any prefix
        # of the order contains the same share of every track. The first frame of every track
        # precedes all other frames.
        place = self._places_within(self.track)
        size = np.bincount(self.track, minlength=1)[self.track]
        # The upper 53 bits as a float in [0, 1).
        start = (splitmix64(self.track_hash) >> np.uint64(11)).astype(np.float64) / 2.0**53
        return (*unique, self.chance, (place + start) / size, place > 0)

    def first_of_object(self, count: int | None) -> Bool:
        """(n,) whether a pair is among the first `count` of its object; always true for None."""
        if count is None:
            return np.ones(len(self.track), bool)
        first: Bool = self._places_within(self.object) < count
        return first

    def _places_within(self, groups: Int64) -> Int64:
        ranking = np.lexsort((self.frame_idx, self.track, self.chance, groups))
        places = np.empty(len(groups), np.int64)
        places[ranking] = _places(groups[ranking])
        return places


def _quotas(strata: Int64, allowed: Bool, needed: Bool, sampling: Sampling) -> Int64:
    """How many pairs each stratum contributes; they add up to the requested number."""
    size = int(strata.max(initial=0)) + 1
    most = np.bincount(strata[allowed], minlength=size)
    least = np.bincount(strata[needed], minlength=size)
    available, floor = int(most.sum()), int(least.sum())
    if sampling.count is not None:
        if sampling.count > available:
            raise DataError(
                f"{sampling.count:,} pairs are requested and {available:,} are available; "
                "request fewer, or raise the cap per object"
            )
        if sampling.count < floor:
            raise DataError(
                f"the floor per object requires {floor:,} pairs, more than the "
                f"{sampling.count:,} requested; lower the floor"
            )
        return _level(sampling.count, least, most)
    if sampling.fraction is not None:
        total = round(sampling.fraction * len(strata))
        return _level(min(max(total, floor), available), least, most)
    # Balance alone: every scenario is cut to the size of the smallest.
    return np.maximum(np.minimum(most, most.min()), least) if sampling.balance else most


def _level(total: int, least: Int64, most: Int64) -> Int64:
    """Shares that add up to `total`, as equal as least <= share <= most allows."""
    # Bisection for the largest level whose clipped shares do not exceed the total.
    low, high = 0, int(most.max(initial=0)) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if np.clip(middle, least, most).sum() <= total:
            low = middle
        else:
            high = middle
    shares = np.clip(low, least, most)
    # The remainder is less than one pair per stratum: give it to the first strata that have more.
    can_grow = np.flatnonzero((shares == low) & (shares < most))
    shares[can_grow[: total - int(shares.sum())]] += 1
    return np.asarray(shares, np.int64)


def _codes(column: "pd.Series[Any]") -> Int64:
    """A number per row, ascending with the value: independent of the order of the rows."""
    import pandas as pd  # not at the top: `pairs --help` reads BY and BALANCE of this module

    codes, _ = pd.factorize(column.astype(str), sort=True)
    return codes.astype(np.int64)


def _named(pairs: "pd.DataFrame", columns: list[str]) -> tuple[Int64, list[str]]:
    """Codes (n,) of the distinct combinations of columns, and their names joined by "/"."""
    codes = np.zeros(len(pairs), np.int64)
    for column in columns:
        part = _codes(pairs[column])
        # Compact the codes at each step, so that the product fits into 64 bits.
        _, codes = np.unique(codes * (part.max(initial=0) + 1) + part, return_inverse=True)
    first = np.unique(codes, return_index=True)[1]
    rows = pairs[columns].iloc[first].astype(str)
    return codes, ["/".join(row) for row in rows.itertuples(index=False)]


def _places(groups: Int64) -> Int64:
    """0, 1, 2, ... within each run of equal neighbouring values."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    lengths = np.diff(np.append(starts, len(groups)))
    places: Int64 = np.arange(len(groups)) - np.repeat(starts, lengths)
    return places
