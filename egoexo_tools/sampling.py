"""Choosing some of the pairs: a fraction or an exact count, the same on every machine.

Chance comes from hashes of the names and the seed, never from a generator's state: whether a
pair is taken does not depend on the order of the rows, on the library's version or on what other
takes there are, and a smaller sample of the same seed lies inside a larger one. Both directions
of a track share their hashes, so that they share most of their frames.
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
    """How many pairs to keep, and which; without fraction, count, balance and cap: all."""

    fraction: float | None = None
    """Share of the pairs, in (0, 1]; rounded to a whole number of pairs."""
    count: int | None = None
    """Exactly this many pairs; DataError where there are fewer."""
    by: str = "frame"
    """`frame`: each pair has the same chance. `track`: every track (an object in an ego and an
    exo camera) gives the same share of its frames, and at least one while the count allows.
    `take`: whole takes, the last of them cut to reach the number."""
    balance: str | None = None
    """`scenario`: as many pairs of each scenario, as far as it has them. Alone, every scenario
    is cut to the size of the smallest."""
    floor: int | None = None
    """Every object of a take keeps at least this many pairs (all, where it has fewer)."""
    cap: int | None = None
    """No object of a take keeps more pairs than this."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fraction is not None and self.count is not None:
            raise SettingsError("a split takes a fraction or a count of its pairs, not both")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise SettingsError(f"fraction {self.fraction} must lie above 0 and up to 1")
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
    """A number of pairs for each split, and one rule by which they are chosen."""

    fractions: Mapping[str, float] = field(default_factory=dict)
    """Split → share of its pairs; a split that is not named keeps all."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Split → exact number of its pairs."""
    rule: Sampling = Sampling()
    """Its own fraction and count do not matter."""

    def of(self, split: str) -> Sampling:
        """The sampling of one split; SettingsError for settings that contradict each other."""
        fraction, count = self.fractions.get(split), self.counts.get(split)
        return replace(self.rule, fraction=fraction, count=count)

    @property
    def settings(self) -> dict[str, Any]:
        """What the pairs depend on, as the status files hold it."""
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

    `pairs` has take_uid, object_name, exo_camera, frame_idx and scenario, no two rows the same.
    Raises DataError where the count cannot be reached or holds less than the floor asks for.
    """
    order = _Order(pairs, sampling)
    allowed = order.first_of_object(sampling.cap)
    needed = allowed & order.first_of_object(sampling.floor or 0)
    scenarios = _codes(pairs["scenario"]) if sampling.balance else np.zeros(len(pairs), np.int64)
    quotas = _quotas(scenarios, allowed, needed, sampling)
    ranking = np.lexsort((*order.keys(), ~needed, ~allowed, scenarios))
    places = _places(scenarios[ranking])
    chosen = np.zeros(len(pairs), bool)
    chosen[ranking] = places < quotas[scenarios[ranking]]
    return chosen


def hash_names(names: Sequence[str], seed: int) -> UInt64:
    """64 bits of BLAKE2b of "<seed>/<name>" for each name, (n,)."""
    digests = b"".join(
        hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest() for name in names
    )
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def splitmix64(values: UInt64) -> UInt64:
    """SplitMix64 of each value (Steele, Lea & Flood 2014): equal chances for every bit."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


class _Order:
    """The order in which pairs are taken, as sort keys."""

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
        """Sort keys for np.lexsort, the last the most important; equal only for equal pairs."""
        unique = (self.frame_idx, self.track)
        if self.by == "take":
            return (*unique, self.chance, self.take_hash)
        if self.by == "frame":
            return (*unique, self.chance)
        # The n frames of a track stand at (0 + u)/n, (1 + u)/n, ...: any first part of the order
        # holds the same share of every track. The first frame of each track comes before all.
        place = self._places_within(self.track)
        size = np.bincount(self.track, minlength=1)[self.track]
        start = (splitmix64(self.track_hash) >> np.uint64(11)).astype(np.float64) / 2.0**53
        return (*unique, self.chance, (place + start) / size, place > 0)

    def first_of_object(self, count: int | None) -> Bool:
        """Which pairs are among the first `count` of their object; None: all of them."""
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
    """How many pairs each stratum gives; they add up to the wanted number."""
    size = int(strata.max(initial=0)) + 1
    most = np.bincount(strata[allowed], minlength=size)
    least = np.bincount(strata[needed], minlength=size)
    available, floor = int(most.sum()), int(least.sum())
    if sampling.count is not None:
        if sampling.count > available:
            raise DataError(
                f"{sampling.count:,} pairs are asked for and {available:,} are there; "
                "ask for fewer, or raise the cap per object"
            )
        if sampling.count < floor:
            raise DataError(
                f"the floor per object alone makes {floor:,} pairs, more than the "
                f"{sampling.count:,} asked for; lower the floor"
            )
        return _level(sampling.count, least, most)
    if sampling.fraction is not None:
        wanted = round(sampling.fraction * len(strata))
        return _level(min(max(wanted, floor), available), least, most)
    # Balance alone: every scenario is cut to the smallest.
    return np.maximum(np.minimum(most, most.min()), least) if sampling.balance else most


def _level(total: int, least: Int64, most: Int64) -> Int64:
    """Shares as equal as least <= share <= most allow, adding up to `total`."""
    low, high = 0, int(most.max(initial=0)) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if np.clip(middle, least, most).sum() <= total:
            low = middle
        else:
            high = middle
    shares = np.clip(low, least, most)
    can_grow = np.flatnonzero((shares == low) & (shares < most))
    shares[can_grow[: total - int(shares.sum())]] += 1
    return np.asarray(shares, np.int64)


def _codes(column: "pd.Series[Any]") -> Int64:
    """A number per row, in the order of the names: independent of the order of the rows."""
    import pandas as pd  # here: `pairs --help` reads BY and BALANCE

    codes, _ = pd.factorize(column.astype(str), sort=True)
    return codes.astype(np.int64)


def _named(pairs: "pd.DataFrame", columns: list[str]) -> tuple[Int64, list[str]]:
    """Codes of the distinct combinations of columns, and their names joined by "/"."""
    codes = np.zeros(len(pairs), np.int64)
    for column in columns:
        part = _codes(pairs[column])
        # Compacted at each step, so that the product cannot leave 64 bits.
        _, codes = np.unique(codes * (part.max(initial=0) + 1) + part, return_inverse=True)
    first = np.unique(codes, return_index=True)[1]
    rows = pairs[columns].iloc[first].astype(str)
    return codes, ["/".join(row) for row in rows.itertuples(index=False)]


def _places(groups: Int64) -> Int64:
    """0, 1, 2, ... within each run of equal values."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    lengths = np.diff(np.append(starts, len(groups)))
    places: Int64 = np.arange(len(groups)) - np.repeat(starts, lengths)
    return places
