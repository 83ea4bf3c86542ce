"""Which take goes into which split: by shares, or one scenario left out for the test.

A split by shares works on groups (takes, captures or participants) that stay together, and keeps
every split's mix of scenarios, universities and object counts close to the whole's. Groups are
placed one after the other, the large and the rare first, each where it lowers the chi-square
distance to the wanted mix most, as far as that split has room (after Sechidis et al., "On the
stratification of multi-label data", 2011). Chance comes from hashes of names and the seed, so
that the same call gives the same split on every machine.
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
    """The outcome: a split for each take, reasons for those without, and what to tell the user."""

    split_of: dict[str, Split] = field(default_factory=dict)
    """By take_uid, in the order of the takes."""
    left_out: dict[str, str] = field(default_factory=dict)
    """take_uid → reason."""
    notes: list[str] = field(default_factory=list)


def divide(
    takes: Sequence[TakeFacts], how: str, *, group_by: str = "take", seed: int = 0
) -> Division:
    """Split takes: `how` is `official`, shares such as `0.8,0.1,0.1`, or `leave-out:SCENARIO`.

    Raises SettingsError for another `how` and for contradictions, DataError where there are too
    few groups.
    """
    if group_by not in SPLIT_GROUPS:
        raise SettingsError(f"group-by {group_by!r} is unknown; use {', '.join(SPLIT_GROUPS)}")
    if how == "official":
        if group_by != "take":
            raise SettingsError(
                "the official split is fixed, so nothing can be grouped in it; give --splits as "
                "shares or leave-out:SCENARIO, or look at what it shares with --leaks"
            )
        return Division(split_of={take.take_uid: take.split for take in takes})
    division = Division()
    group_of = _groups(takes, group_by, division.notes)
    if how.startswith(LEAVE_OUT):
        _leave_out(takes, how.removeprefix(LEAVE_OUT), group_of, group_by, division)
    else:
        _by_shares(takes, _shares(how), group_of, seed, division)
    return division


def group_key(take: TakeFacts, group_by: str) -> str:
    """What a take shares with the others of its group; a take without a participant counts with
    its capture."""
    if group_by == "take":
        return take.take_uid
    if group_by == "participant" and take.participant is not None:
        return f"participant {take.participant}"
    return f"capture {take.capture}"


def _groups(takes: Sequence[TakeFacts], group_by: str, notes: list[str]) -> dict[str, str]:
    """take_uid → its group; says where the groups had to be guessed."""
    by_capture = [
        take
        for take in takes
        if group_by == "capture" or (group_by == "participant" and take.participant is None)
    ]
    if by_capture and group_by == "participant":
        notes.append(
            f"{len(by_capture)} takes have no participant_uid; each stays with its capture"
        )
    guessed = sum(not take.capture_named for take in by_capture)
    if guessed:
        notes.append(f"{guessed} takes have no capture_uid; take_name without its number is used")
    if by_capture and guessed < len(by_capture):
        named = len(by_capture) - guessed
        notes.append(f"the capture of {named} takes is the capture_uid of takes.json")
    return {take.take_uid: group_key(take, group_by) for take in takes}


def _shares(text: str) -> Float64:
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
            "of train, val and test that add up to 1, as 0.8,0.1,0.1"
        )
    return shares


def _by_shares(
    takes: Sequence[TakeFacts],
    shares: Float64,
    group_of: Mapping[str, str],
    seed: int,
    division: Division,
) -> None:
    names = sorted(set(group_of.values()))
    used = int((shares > 0).sum())
    if len(names) < used:
        raise DataError(f"{len(names)} groups of takes cannot fill {used} splits; select more")
    place = {name: number for number, name in enumerate(names)}
    member = np.array([place[group_of[take.take_uid]] for take in takes])
    columns = _labels(takes)
    labels = np.zeros((len(names), columns.shape[1]))
    np.add.at(labels, member, columns)
    sizes = np.bincount(member, minlength=len(names))
    rarity = _rarity(takes, member, len(names))
    # Large groups while there is room for them, rare scenarios while the mix can still be mended;
    # the seed decides between equals alone.
    order = np.lexsort((hash_names(names, seed), rarity, -sizes))
    placed = _place(labels, sizes, shares, order)
    splits = list(Split)
    for take, group in zip(takes, member.tolist(), strict=True):
        division.split_of[take.take_uid] = splits[placed[group]]


def _labels(takes: Sequence[TakeFacts]) -> Float64:
    """(takes, labels) of 0 and 1: scenario, university, and few, some or many objects."""
    counts = np.array([len(take.objects) for take in takes])
    thirds = np.searchsorted(np.quantile(counts, [1 / 3, 2 / 3]), counts)
    columns: list[list[Hashable]] = [
        [take.scenario for take in takes],
        [take.university for take in takes],
        thirds.tolist(),
    ]
    coded = [np.unique(np.array(column), return_inverse=True)[1] for column in columns]
    return np.concatenate([np.eye(int(codes.max()) + 1)[codes] for codes in coded], axis=1)


def _rarity(takes: Sequence[TakeFacts], member: Int64, groups: int) -> Int64:
    """(groups,) how many takes the group's rarest scenario has: rare ones are placed first."""
    counts = Counter(take.scenario for take in takes)
    rarity = np.full(groups, len(takes), np.int64)
    np.minimum.at(rarity, member, np.array([counts[take.scenario] for take in takes]))
    return rarity


def _place(
    labels: Float64,
    sizes: Int64,
    shares: Float64,
    order: Int64,
) -> Int64:
    """(groups,) the split of each group; labels (groups, labels) counts takes."""
    quotas = _quotas(int(sizes.sum()), shares)
    wanted = shares[:, None] * labels.sum(axis=0)  # (splits, labels)
    have = np.zeros_like(wanted)
    filled = np.zeros(len(shares), np.int64)
    placed = np.zeros(len(sizes), np.int64)
    for group in order.tolist():
        room = quotas - filled
        # How much the chi-square distance of a split grows if the group goes there.
        growth = labels[group] * (labels[group] + 2 * (have - wanted))
        cost = (growth / np.where(wanted > 0, wanted, 1)).sum(axis=1)
        fits = (room >= sizes[group]) & (shares > 0)
        # A group that fits nowhere goes where the most room is left.
        best = np.where(fits, cost, np.inf).argmin() if fits.any() else _roomiest(room, shares)
        placed[group] = best
        have[best] += labels[group]
        filled[best] += sizes[group]
    return placed


def _roomiest(room: Int64, shares: Float64) -> np.int64:
    return np.int64(np.where(shares > 0, room, np.iinfo(np.int64).min).argmax())


def _quotas(count: int, shares: Float64) -> Int64:
    """(splits,) whole numbers that add up to `count`: the largest remainders are rounded up, and
    no split with a share stays empty."""
    # 0.29 * 100 is a bit below 29, and would be 28.
    quotas = np.floor(shares * count + _SUM_TOLERANCE).astype(np.int64)
    remainders = shares * count - quotas
    for split in np.argsort(-remainders, kind="stable")[: count - int(quotas.sum())].tolist():
        quotas[split] += 1
    for split in np.flatnonzero((shares > 0) & (quotas == 0)).tolist():
        quotas[split] += 1
        quotas[int(quotas.argmax())] -= 1
    return quotas


def _leave_out(
    takes: Sequence[TakeFacts],
    scenario: str,
    group_of: Mapping[str, str],
    group_by: str,
    division: Division,
) -> None:
    """The scenario's takes are the test; of the others, official val stays val."""
    chosen = resolve_scenarios([scenario], {take.scenario for take in takes})
    held_out = {group_of[take.take_uid] for take in takes if take.scenario in chosen}
    votes: dict[str, Counter[bool]] = {}
    for take in takes:
        is_val = take.split is Split.VAL
        votes.setdefault(group_of[take.take_uid], Counter())[is_val] += 1
    for take in takes:
        group = group_of[take.take_uid]
        if take.scenario in chosen:
            division.split_of[take.take_uid] = Split.TEST
        elif group in held_out:
            division.left_out[take.take_uid] = f"shares its {group_by} with the test scenario"
        else:
            # A group whose takes the official split has on both sides goes with its majority, and
            # with train where there is none: val must not see what was trained on.
            is_val = votes[group][True] > votes[group][False]
            division.split_of[take.take_uid] = Split.VAL if is_val else Split.TRAIN
    division.notes.append(f"test: {', '.join(sorted(chosen))}; of the rest, official val stays val")
    if len(chosen) == len({take.scenario for take in takes}):
        raise SettingsError("every selected take is of that scenario, so nothing is left to train")
