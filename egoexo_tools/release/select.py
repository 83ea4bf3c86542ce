"""Selects takes of a release and divides them into splits, before anything is decoded.

Reads the counts of `survey`. Writes a split.json for `ingest --split-file`, and next to it
`<name>.exclusions.json`: the settings, and every take that was left out with its reason.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.formats import benchmark
from egoexo_tools.layout import Release, write_atomic
from egoexo_tools.release.plan import IngestPlan, plan_ingest
from egoexo_tools.release.scenarios import not_found_text, resolve_scenarios
from egoexo_tools.release.splits import divide
from egoexo_tools.release.survey import TakeFacts, survey
from egoexo_tools.sampling import hash_names
from egoexo_tools.text_table import text_table
from egoexo_tools.vocab import Split

GB = 1e9


@dataclass(frozen=True, kw_only=True)
class TakeCriteria:
    """What a take must have to be selected; the default selects every take.

    These need the counts of `survey`. A download selects before there are any, by `TakeFilter`.
    """

    scenarios: tuple[str, ...] = ()
    """Names, families or patterns; a take has to match one of them."""
    universities: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    """Text in the take's name, scenario or task, or in an object's name; one match is enough."""
    takes: tuple[str, ...] = ()
    """take_uids or take_names."""
    splits: tuple[str, ...] = ()
    """Official splits."""
    min_objects: int = 0
    min_cameras: int = 0
    min_frames: int = 0
    """Annotated frames."""
    max_gb: float | None = None
    """Size of the videos; takes are drawn evenly from all scenarios and splits up to this size."""
    limit: int | None = None
    """Number of takes, drawn in the same way."""


@dataclass(frozen=True)
class LeftOut:
    """A take that was not selected."""

    take_uid: str
    take_name: str | None
    reason: str


@dataclass
class Selection:
    """The takes of each split, and the takes that are in none."""

    takes: list[TakeFacts]
    split_of: dict[str, Split]
    """By take_uid."""
    left_out: list[LeftOut]
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def of_split(self, split: Split) -> list[TakeFacts]:
        return [take for take in self.takes if self.split_of[take.take_uid] is split]


def select(
    release: Release,
    criteria: TakeCriteria = TakeCriteria(),
    *,
    splits: str = "official",
    group_by: str = "take",
    seed: int = 0,
    video: str = "full",
    manifests: Path | None = None,
) -> Selection:
    """Select takes and divide them; see `splits.divide` for `splits` and `group_by`.

    Raises SettingsError for names that the release does not have, and DataError where an
    annotation file is cut off or no take is left.
    """
    plan = plan_ingest(release)
    if plan.damaged_files:
        raise DataError(f"takes are not selected from half a release: {plan.damaged_files[0]}")
    facts = survey(release, plan, video=video, manifests=manifests)
    selected, reasons = _filter(facts, criteria, seed, plan)
    if not selected:
        common = Counter(reasons.values()).most_common(3)
        counts = "; ".join(f"{number} takes: {reason}" for reason, number in common) or "no takes"
        raise DataError(f"nothing is left: {counts}; relax the criteria")
    division = divide(selected, splits, group_by=group_by, seed=seed)
    reasons |= division.left_out
    names = {take.take_uid: take.take_name for take in plan.entries.values()}
    left_out = [
        *((row["take_uid"] or "", row["reason"]) for row in plan.exclusions),
        *((take.take_uid, reasons[take.take_uid]) for take in facts if take.take_uid in reasons),
    ]
    settings = {name: value for name, value in asdict(criteria).items() if value}
    return Selection(
        takes=[take for take in selected if take.take_uid in division.split_of],
        split_of=division.split_of,
        left_out=[LeftOut(uid, names.get(uid), reason) for uid, reason in left_out],
        notes=division.notes,
        settings={
            **settings, "splits": splits, "group_by": group_by, "seed": seed, "video": video
        },
    )  # fmt: skip


def read_lines(path: Path) -> tuple[str, ...]:
    """The lines of a text file without the empty ones; DataError where it cannot be read."""
    try:
        lines = path.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error})") from error
    return tuple(line.strip() for line in lines if line.strip())


def write_selection(path: Path, selection: Selection) -> Path:
    """Write split.json to `path` and the exclusions next to it; returns the latter's path."""
    exclusions_path = path.with_name(f"{path.stem}.exclusions.json")
    content = {
        "settings": selection.settings,
        "notes": selection.notes,
        "takes": [asdict(take) for take in selection.left_out],
    }
    write_atomic(exclusions_path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    # Written last: where the split exists, its exclusions do too.
    benchmark.write_splits(
        path, {split: [take.take_uid for take in selection.of_split(split)] for split in Split}
    )
    return exclusions_path


def selection_text(selection: Selection) -> str:
    """The selected takes by split and by scenario, and the reasons for those left out."""
    by_split = [(str(split), selection.of_split(split)) for split in Split]
    by_scenario = [
        (scenario or "(none)", [take for take in selection.takes if take.scenario == scenario])
        for scenario in sorted({take.scenario for take in selection.takes})
    ]
    parts = [
        _totals_table("split", [*by_split, ("all", selection.takes)]),
        _totals_table("scenario", by_scenario),
        *selection.notes,
    ]
    if selection.left_out:
        reasons = Counter(take.reason for take in selection.left_out).most_common()
        lines = [f"  {number:,} left out: {reason}" for reason, number in reasons]
        title = f"{len(selection.left_out):,} takes are left out:"
        parts.append("\n".join([title, *lines]))
    return "\n\n".join(parts)


def _totals_table(title: str, groups: Iterable[tuple[str, Sequence[TakeFacts]]]) -> str:
    rows = []
    for name, takes in groups:
        sizes = [take.video_bytes for take in takes if take.video_bytes is not None]
        # "+": some sizes are unknown, "?": all of them.
        gigabytes = _short(sum(sizes) / GB) + ("+" if len(sizes) < len(takes) else "")
        rows.append(
            [
                name,
                f"{len(takes):,}",
                f"{sum(len(take.objects) for take in takes):,}",
                f"{sum(take.masks for take in takes):,}",
                f"{sum(take.pairs for take in takes):,}",
                _short(sum(take.seconds for take in takes) / 3600),
                "?" if takes and not sizes else gigabytes,
            ]
        )
    return text_table([title, "takes", "objects", "masks", "pairs", "hours", "GB"], rows)


def _short(value: float) -> str:
    return f"{value:,.1f}" if value >= 1 or not value else f"{value:.3f}"


def _filter(
    facts: Sequence[TakeFacts], criteria: TakeCriteria, seed: int, plan: IngestPlan
) -> tuple[list[TakeFacts], dict[str, str]]:
    """The takes that meet all criteria, and for each of the others the first reason against it."""
    reasons: dict[str, str] = {}
    for reason, flags in _test_criteria(facts, criteria, plan):
        for take, is_met in zip(facts, flags, strict=True):
            if not is_met:
                reasons.setdefault(take.take_uid, reason)
    selected = [take for take in facts if take.take_uid not in reasons]
    if criteria.max_gb is not None:
        sizes = {take.take_uid: take.video_bytes for take in selected}
        if selected and set(sizes.values()) == {None}:
            raise SettingsError(
                "the sizes of the videos are not known, so --max-gb cannot be applied: the release "
                "has neither videos nor download manifests; give --manifests DIR"
            )
        # Takes that do not fit are skipped, and smaller ones after them may still be added.
        room = criteria.max_gb * GB
        for take in stratified_order(selected, seed):
            size = sizes[take.take_uid]
            if size is None:
                reasons[take.take_uid] = "the size of its videos is not known"
            elif size <= room:
                room -= size
            else:
                reasons[take.take_uid] = f"beyond the budget of {criteria.max_gb:g} GB"
        selected = [take for take in selected if take.take_uid not in reasons]
    if criteria.limit is not None:
        for take in stratified_order(selected, seed)[criteria.limit :]:
            reasons[take.take_uid] = f"beyond the limit of {criteria.limit} takes"
        selected = [take for take in selected if take.take_uid not in reasons]
    return selected, reasons


def _test_criteria(
    facts: Sequence[TakeFacts], criteria: TakeCriteria, plan: IngestPlan
) -> list[tuple[str, list[bool]]]:
    """For each criterion that is set: the reason to leave a take out, and whether each take passes.

    Checks the names in the criteria too, and raises SettingsError for those that do not exist.
    """
    tests: list[tuple[str, list[bool]]] = []
    if criteria.takes:
        take_uids = _resolve_takes(criteria.takes, facts, plan)
        tests.append(("not in the list of takes", [take.take_uid in take_uids for take in facts]))
    if criteria.scenarios:
        names = resolve_scenarios(criteria.scenarios, {take.scenario for take in facts} - {""})
        reason = "another scenario than " + ", ".join(sorted(names))
        tests.append((reason, [take.scenario in names for take in facts]))
    if criteria.universities:
        universities = {take.university for take in facts}
        names = {name.casefold() for name in criteria.universities}
        for name in criteria.universities:
            if name.casefold() not in map(str.casefold, universities):
                raise SettingsError(f"university {not_found_text(name, universities)}")
        reason = "another university than " + ", ".join(criteria.universities)
        tests.append((reason, [take.university.casefold() in names for take in facts]))
    if criteria.splits:
        if unknown := sorted(set(criteria.splits) - set(Split)):
            raise SettingsError(f"{unknown[0]!r} is not a split; use {', '.join(Split)}")
        reason = "another official split than " + ", ".join(criteria.splits)
        tests.append((reason, [take.split in criteria.splits for take in facts]))
    if criteria.keywords:
        keywords = [keyword.casefold() for keyword in criteria.keywords]
        texts = [
            # A line break keeps the names apart: no keyword matches across two of them.
            "\n".join([take.take_name, take.scenario, take.task, *take.objects]).casefold()
            for take in facts
        ]
        reason = "no keyword in its names: " + ", ".join(criteria.keywords)
        tests.append((reason, [any(keyword in text for keyword in keywords) for text in texts]))
    for minimum, unit, counts in (
        (criteria.min_objects, "objects", [len(take.objects) for take in facts]),
        (criteria.min_cameras, "cameras", [len(take.cameras) for take in facts]),
        (criteria.min_frames, "annotated frames", [len(take.frame_idxs) for take in facts]),
    ):
        if minimum:
            passes = [count >= minimum for count in counts]
            tests.append((f"fewer than {minimum} {unit}", passes))
    return tests


def _resolve_takes(names: Sequence[str], facts: Sequence[TakeFacts], plan: IngestPlan) -> set[str]:
    """The take_uids of take_uids and take_names; SettingsError for takes that cannot be used."""
    by_name = {take.take_name: take.take_uid for take in facts}
    usable = {take.take_uid for take in facts}
    excluded = {row["take_uid"]: row["reason"] for row in plan.exclusions}
    uid_of = {entry.take_name: uid for uid, entry in plan.entries.items()}
    take_uids = set()
    for name in names:
        take_uid = by_name.get(name, name)
        if take_uid not in usable:
            if reason := excluded.get(uid_of.get(name, name)):
                raise SettingsError(f"take {name} cannot be used: {reason}")
            raise SettingsError(f"take {not_found_text(name, [*by_name, *usable])}")
        take_uids.add(take_uid)
    return take_uids


def stratified_order(takes: Sequence[TakeFacts], seed: int) -> list[TakeFacts]:
    """The takes in an order whose every prefix has about the same mix of scenarios and splits.

    A smaller selection is therefore contained in a larger one of the same seed.
    """
    take_uids = [take.take_uid for take in takes]
    chance = dict(zip(take_uids, hash_names(take_uids, seed).tolist(), strict=True))
    strata: dict[tuple[str, str], list[TakeFacts]] = {}
    for take in sorted(takes, key=lambda take: (chance[take.take_uid], take.take_uid)):
        strata.setdefault((take.scenario, take.split), []).append(take)
    offsets = hash_names(["/".join(names) for names in strata], seed).tolist()
    # The n takes of a stratum get the positions (0 + u)/n, (1 + u)/n, ... with one random u.
    positions = {
        take.take_uid: (number + offset / 2**64) / len(members)
        for offset, members in zip(offsets, strata.values(), strict=True)
        for number, take in enumerate(members)
    }
    return sorted(takes, key=lambda take: (positions[take.take_uid], take.take_uid))
