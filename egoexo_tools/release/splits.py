"""Divides takes into splits: by shares, or with one scenario held out as test.

A division by shares works on groups (takes, captures or participants) that stay together, and keeps
each split's mix of scenarios, universities and object counts close to that of all takes. Groups are
placed one after the other, large and rare ones first. Each goes where it reduces the chi-square
distance to the target mix most, among the splits with enough room (after Sechidis et al., "On the
stratification of multi-label data", 2011). Random choices come from hashes of names and the seed,
so that the same call gives the same splits on every machine.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from egoexo_tools.arrays import Float64, Int64
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.release.scenarios import resolve_scenarios
from egoexo_tools.release.survey import TakeFacts
from egoexo_tools.sampling import hash_names
from egoexo_tools.vocab import SPLIT_GROUPS, Split

LEAVE_OUT = "leave-out:"
_SUM_TOLERANCE = 1e-6


@dataclass
class Division:
    """The split of each take, reasons for takes without one, and notes for the user."""

    split_of: dict[str, Split] = field(default_factory=dict)
    """By take_uid, in the order of the takes."""
    left_out: dict[str, str] = field(default_factory=dict)
    """take_uid → reason."""
    notes: list[str] = field(default_factory=list)


def divide(
    takes: Sequence[TakeFacts], scheme: str, *, group_by: str = "take", seed: int = 0
) -> Division:
    """Divide takes into splits.

    `scheme` is `official`, shares such as `0.8,0.1,0.1`, or `leave-out:SCENARIO`. Raises
    SettingsError for another scheme and for contradictions, DataError for too few groups.
    """
    if group_by not in SPLIT_GROUPS:
        raise SettingsError(f"group-by {group_by!r} is unknown; use {', '.join(SPLIT_GROUPS)}")
    if scheme == "official":
        if group_by != "take":
            raise SettingsError(
                "the official split is fixed and cannot be grouped; give --splits as shares or "
                "leave-out:SCENARIO, or see what the official splits share with --leaks"
            )
        return Division(split_of={take.take_uid: take.split for take in takes})
    division = Division(notes=_group_notes(takes, group_by))
    group_of = {take.take_uid: group_key(take, group_by) for take in takes}
    if scheme.startswith(LEAVE_OUT):
        _hold_out_scenario(takes, scheme.removeprefix(LEAVE_OUT), group_of, group_by, division)
    else:
        _divide_by_shares(takes, _parse_shares(scheme), group_of, seed, division)
    return division


def group_key(take: TakeFacts, group_by: str) -> str:
    """The group that a take stays with; without a participant, a take stays with its capture."""
    if group_by == "take":
        return take.take_uid
    if group_by == "participant" and take.participant is not None:
        return f"participant {take.participant}"
    return f"capture {take.capture}"


def _group_notes(takes: Sequence[TakeFacts], group_by: str) -> list[str]:
    """Where the groups are not what `group_by` says, or had to be derived from names."""
    notes = []
    by_capture = [
        take
        for take in takes
        if group_by == "capture" or (group_by == "participant" and take.participant is None)
    ]
    if by_capture and group_by == "participant":
        notes.append(
            f"{len(by_capture)} takes have no participant_uid; each stays with its capture"
        )
    derived = sum(not take.capture_named for take in by_capture)
    if derived:
        notes.append(f"{derived} takes have no capture_uid; take_name without its number is used")
    if derived < len(by_capture):
        named = len(by_capture) - derived
        notes.append(f"the capture of {named} takes is the capture_uid of takes.json")
    return notes


def _parse_shares(text: str) -> Float64:
    """`0.8,0.1,0.1` → (3,) shares of train, val and test."""
    try:
        shares = np.array([float(number) for number in text.split(",")])
    except ValueError:
        shares = np.zeros(0)
    if (
        shares.shape != (len(Split),)
        or not np.isfinite(shares).all()
        or shares.min() < 0
        or abs(shares.sum() - 1) > _SUM_TOLERANCE
    ):
        raise SettingsError(
            f"--splits {text!r} is unknown; write official, leave-out:SCENARIO, or three shares "
            "of train, val and test that add up to 1, such as 0.8,0.1,0.1"
        )
    return shares


def _divide_by_shares(
    takes: Sequence[TakeFacts],
    shares: Float64,
    group_of: Mapping[str, str],
    seed: int,
    division: Division,
) -> None:
    names = sorted(set(group_of.values()))
    split_count = int((shares > 0).sum())
    if len(names) < split_count:
        raise DataError(
            f"{len(names)} groups of takes cannot fill {split_count} splits; select more takes"
        )
    # Sorted names give the same groups and hashes for any order of the takes.
    group_idx = {name: idx for idx, name in enumerate(names)}
    membership = np.array([group_idx[group_of[take.take_uid]] for take in takes])  # (takes,)
    take_labels = _label_takes(takes)
    labels = np.zeros((len(names), take_labels.shape[1]))  # (groups, labels)
    np.add.at(labels, membership, take_labels)
    sizes = np.bincount(membership, minlength=len(names))
    # How many takes the rarest scenario of each group has.
    counts = Counter(take.scenario for take in takes)
    rarity = np.full(len(names), len(takes), np.int64)
    np.minimum.at(rarity, membership, np.array([counts[take.scenario] for take in takes]))
    # Large groups first, while there is room for them, then rare scenarios, while the others can
    # still balance the mix. The seed only decides between equals.
    order = np.lexsort((hash_names(names, seed), rarity, -sizes))
    placement = _place_groups(labels, sizes, shares, order)
    splits = list(Split)
    for take, group in zip(takes, membership.tolist(), strict=True):
        division.split_of[take.take_uid] = splits[placement[group]]


def _label_takes(takes: Sequence[TakeFacts]) -> Float64:
    """(takes, labels) of 0 and 1: scenario, university, and few, some or many objects."""
    counts = np.array([len(take.objects) for take in takes])
    thirds = np.searchsorted(np.quantile(counts, [1 / 3, 2 / 3]), counts)
    columns: list[list[Hashable]] = [
        [take.scenario for take in takes],
        [take.university for take in takes],
        thirds.tolist(),
    ]
    # One-hot columns, so that adding rows counts the takes of each label.
    codes = [np.unique(np.array(column), return_inverse=True)[1] for column in columns]
    return np.concatenate([np.eye(int(column.max()) + 1)[column] for column in codes], axis=1)


def _place_groups(labels: Float64, sizes: Int64, shares: Float64, order: Int64) -> Int64:
    """(groups,) the split of each group; `labels` (groups, labels) and `sizes` count takes."""
    quotas = _split_quotas(int(sizes.sum()), shares)
    target = shares[:, None] * labels.sum(axis=0)  # (splits, labels)
    current = np.zeros_like(target)
    filled = np.zeros(len(shares), np.int64)
    placement = np.zeros(len(sizes), np.int64)
    for group in order.tolist():
        room = quotas - filled
        # By how much the chi-square distance of each split grows if the group goes there.
        growth = labels[group] * (labels[group] + 2 * (current - target))
        cost = (growth / np.where(target > 0, target, 1)).sum(axis=1)
        fits = (room >= sizes[group]) & (shares > 0)
        if fits.any():
            best = np.where(fits, cost, np.inf).argmin()
        else:  # a group that fits nowhere goes where most room is left
            best = np.where(shares > 0, room, np.iinfo(np.int64).min).argmax()
        placement[group] = best
        current[best] += labels[group]
        filled[best] += sizes[group]
    return placement


def _split_quotas(count: int, shares: Float64) -> Int64:
    """(splits,) whole numbers that add up to `count`: the largest remainders are rounded up, and
    no split with a share stays empty."""
    # The tolerance, because 0.29 * 100 is slightly below 29 and would become 28.
    quotas = np.floor(shares * count + _SUM_TOLERANCE).astype(np.int64)
    remainders = shares * count - quotas
    for split in np.argsort(-remainders, kind="stable")[: count - int(quotas.sum())].tolist():
        quotas[split] += 1
    for split in np.flatnonzero((shares > 0) & (quotas == 0)).tolist():
        quotas[split] += 1
        quotas[int(quotas.argmax())] -= 1
    return quotas


def _hold_out_scenario(
    takes: Sequence[TakeFacts],
    scenario: str,
    group_of: Mapping[str, str],
    group_by: str,
    division: Division,
) -> None:
    """The takes of the scenario become test; among the others, official val stays val."""
    scenarios = resolve_scenarios([scenario], {take.scenario for take in takes})
    if len(scenarios) == len({take.scenario for take in takes}):
        raise SettingsError("every selected take is of that scenario, so nothing is left to train")
    test_groups = {group_of[take.take_uid] for take in takes if take.scenario in scenarios}
    # Official val takes of each group, minus its other takes.
    val_majority: Counter[str] = Counter()
    for take in takes:
        val_majority[group_of[take.take_uid]] += 1 if take.split is Split.VAL else -1
    for take in takes:
        group = group_of[take.take_uid]
        if take.scenario in scenarios:
            division.split_of[take.take_uid] = Split.TEST
        elif group in test_groups:
            division.left_out[take.take_uid] = f"shares its {group_by} with the test scenario"
        else:
            # A group that the official split divides follows its majority, and goes to train at a
            # tie: val must not contain what was trained on.
            is_val = val_majority[group] > 0
            division.split_of[take.take_uid] = Split.VAL if is_val else Split.TRAIN
    names = ", ".join(sorted(scenarios))
    division.notes.append(f"test: {names}; among the other takes, official val stays val")
