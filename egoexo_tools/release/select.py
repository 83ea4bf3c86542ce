"""Choosing takes of a release and splitting them, before anything is decoded.

Reads what `survey` counts; writes a split.json that `ingest --split-file` takes, and beside it
`<name>.exclusions.json`: what was asked, every take that was left out, and why.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.formats import benchmark
from egoexo_tools.layout import Release, write_atomic
from egoexo_tools.release.plan import IngestPlan, plan_ingest
from egoexo_tools.release.scenarios import not_found_text, require_names, resolve_scenarios
from egoexo_tools.release.splits import divide
from egoexo_tools.release.survey import TakeFacts, survey
from egoexo_tools.sampling import hash_names
from egoexo_tools.text_table import text_table
from egoexo_tools.vocab import Split

GB = 1e9


@dataclass(frozen=True, kw_only=True)
class TakeCriteria:
    """What a take must have to be chosen; the default wants every take."""

    scenarios: tuple[str, ...] = ()
    """Names, families or patterns; a take fulfils one of them."""
    universities: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    """Text in the take's name, scenario, task or in an object's name; one of them is enough."""
    takes: tuple[str, ...] = ()
    """take_uids or take_names."""
    splits: tuple[str, ...] = ()
    """Official splits."""
    min_objects: int = 0
    min_cameras: int = 0
    min_frames: int = 0
    max_gb: float | None = None
    """Of videos; takes are then drawn evenly from all scenarios and splits until it is full."""
    limit: int | None = None
    """Number of takes, drawn in the same way."""


@dataclass(frozen=True)
class LeftOut:
    """A take that was not chosen."""

    take_uid: str
    take_name: str | None
    reason: str


@dataclass
class Selection:
    """The takes of each split, and all that is not in one."""

    takes: list[TakeFacts]
    split_of: dict[str, Split]
    left_out: list[LeftOut]
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def of_split(self, split: Split) -> list[TakeFacts]:
        return [take for take in self.takes if self.split_of[take.take_uid] is split]


def select(
    release: Release,
    wanted: TakeCriteria = TakeCriteria(),
    *,
    splits: str = "official",
    group_by: str = "take",
    seed: int = 0,
    video: str = "full",
    manifests: Path | None = None,
) -> Selection:
    """Choose takes and split them; see `splits.divide` for `splits` and `group_by`.

    Raises SettingsError for names that the release does not have, DataError where an annotation
    file is cut off or nothing is left.
    """
    plan = plan_ingest(release)
    if plan.broken:
        raise DataError(f"half a release is not selected from: {plan.broken[0]}")
    facts = survey(release, plan, video=video, manifests=manifests)
    chosen, reasons = _filter(facts, wanted, seed, plan)
    if not chosen:
        raise DataError(f"nothing is left: {_counted(reasons.values())}; ask for less")
    division = divide(chosen, splits, group_by=group_by, seed=seed)
    reasons |= division.left_out
    names = {take.take_uid: take.take_name for take in plan.entries.values()}
    left_out = [
        *((row["take_uid"] or "", row["reason"]) for row in plan.exclusions),
        *((take.take_uid, reasons[take.take_uid]) for take in facts if take.take_uid in reasons),
    ]
    asked = {name: value for name, value in asdict(wanted).items() if value}
    return Selection(
        takes=[take for take in chosen if take.take_uid in division.split_of],
        split_of=division.split_of,
        left_out=[LeftOut(uid, names.get(uid), reason) for uid, reason in left_out],
        notes=division.notes,
        settings={**asked, "splits": splits, "group_by": group_by, "seed": seed, "video": video},
    )


def read_lines(path: Path) -> tuple[str, ...]:
    """The lines of a text file without empty ones; DataError where it cannot be read."""
    try:
        lines = path.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no readable text file ({error})") from error
    return tuple(line.strip() for line in lines if line.strip())


def write_selection(path: Path, selection: Selection) -> Path:
    """Write split.json at `path` and the exclusions beside it; returns the latter's path."""
    beside = path.with_name(f"{path.stem}.exclusions.json")
    content = {
        "settings": selection.settings,
        "notes": selection.notes,
        "takes": [asdict(take) for take in selection.left_out],
    }
    write_atomic(beside, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    benchmark.write_splits(
        path,
        {split: [take.take_uid for take in selection.of_split(split)] for split in Split},
    )
    return beside


def selection_text(selection: Selection) -> str:
    """What remains, by split and by scenario, and what was left out by reason."""
    by_split = [(str(split), selection.of_split(split)) for split in Split]
    scenarios = sorted({take.scenario for take in selection.takes})
    by_scenario = [
        (name or "(none)", [take for take in selection.takes if take.scenario == name])
        for name in scenarios
    ]
    parts = [
        _sums("split", [*by_split, ("all", selection.takes)]),
        _sums("scenario", by_scenario),
        *selection.notes,
    ]
    if selection.left_out:
        count = len(selection.left_out)
        reasons = Counter(take.reason for take in selection.left_out).most_common()
        lines = [f"  {number:,} left out: {reason}" for reason, number in reasons]
        parts.append("\n".join([f"{count:,} takes are left out:", *lines]))
    return "\n\n".join(parts)


def _sums(title: str, groups: Iterable[tuple[str, Sequence[TakeFacts]]]) -> str:
    rows = [
        [
            name,
            f"{len(takes):,}",
            f"{sum(len(take.objects) for take in takes):,}",
            f"{sum(take.masks for take in takes):,}",
            f"{sum(take.pairs for take in takes):,}",
            _short(sum(take.seconds for take in takes) / 3600),
            _gb(takes),
        ]
        for name, takes in groups
    ]
    return text_table([title, "takes", "objects", "masks", "pairs", "hours", "GB"], rows)


def _gb(takes: Sequence[TakeFacts]) -> str:
    """The videos' size; with a + where some are not known, ? where none is."""
    known = [take.video_bytes for take in takes if take.video_bytes is not None]
    if takes and not known:
        return "?"
    return _short(sum(known) / GB) + ("+" if len(known) < len(takes) else "")


def _short(value: float) -> str:
    return f"{value:,.1f}" if value >= 1 or not value else f"{value:.3f}"


def _filter(
    facts: Sequence[TakeFacts], wanted: TakeCriteria, seed: int, plan: IngestPlan
) -> tuple[list[TakeFacts], dict[str, str]]:
    """The takes that fulfil everything, and the first reason of each that does not."""
    reasons: dict[str, str] = {}
    chosen = list(facts)
    for reason, fulfils in _tests(facts, wanted, plan):
        for take in chosen:
            if not fulfils(take):
                reasons[take.take_uid] = reason
        chosen = [take for take in chosen if fulfils(take)]
    if wanted.max_gb is not None:
        chosen = _within_budget(chosen, wanted.max_gb, seed, reasons)
    if wanted.limit is not None and len(chosen) > wanted.limit:
        kept = {take.take_uid for take in evenly(chosen, seed)[: wanted.limit]}
        reason = f"beyond the limit of {wanted.limit} takes"
        reasons |= {take.take_uid: reason for take in chosen if take.take_uid not in kept}
        chosen = [take for take in chosen if take.take_uid in kept]
    return chosen, reasons


def _tests(
    facts: Sequence[TakeFacts], wanted: TakeCriteria, plan: IngestPlan
) -> list[tuple[str, Callable[[TakeFacts], bool]]]:
    """(reason to leave a take out, whether it stays) of every filter that is asked for."""
    tests: list[tuple[str, Callable[[TakeFacts], bool]]] = []
    if wanted.takes:
        listed = _listed(wanted.takes, facts, plan)
        tests.append(("not in the list of takes", lambda take: take.take_uid in listed))
    if wanted.scenarios:
        scenarios = resolve_scenarios(wanted.scenarios, {take.scenario for take in facts} - {""})
        told = "another scenario than " + ", ".join(sorted(scenarios))
        tests.append((told, lambda take: take.scenario in scenarios))
    if wanted.universities:
        require_names("university", wanted.universities, {take.university for take in facts})
        universities = {name.casefold() for name in wanted.universities}
        told = "another university than " + ", ".join(wanted.universities)
        tests.append((told, lambda take: take.university.casefold() in universities))
    if wanted.splits:
        if unknown := sorted(set(wanted.splits) - set(Split)):
            raise SettingsError(f"{unknown[0]!r} is no split; use {', '.join(Split)}")
        told = "another official split than " + ", ".join(wanted.splits)
        tests.append((told, lambda take: take.split in wanted.splits))
    if wanted.keywords:
        keywords = [word.casefold() for word in wanted.keywords]
        told = "no keyword in its names: " + ", ".join(wanted.keywords)
        tests.append((told, lambda take: any(word in _words(take) for word in keywords)))
    for least, unit, count in (
        (wanted.min_objects, "objects", lambda take: len(take.objects)),
        (wanted.min_cameras, "cameras", lambda take: len(take.cameras)),
        (wanted.min_frames, "annotated frames", lambda take: len(take.frame_idxs)),
    ):
        if least:
            tests.append((f"fewer than {least} {unit}", _at_least(count, least)))
    return tests


def _at_least(count: Callable[[TakeFacts], int], least: int) -> Callable[[TakeFacts], bool]:
    return lambda take: count(take) >= least


def _words(take: TakeFacts) -> str:
    """All its names in one text; a line break keeps them apart."""
    return "\n".join([take.take_name, take.scenario, take.task, *take.objects]).casefold()


def _listed(asked: Sequence[str], facts: Sequence[TakeFacts], plan: IngestPlan) -> set[str]:
    """The take_uids of a list of take_uids and take_names; refuses those that cannot be used."""
    by_name = {take.take_name: take.take_uid for take in facts}
    known = {take.take_uid for take in facts}
    refused = {row["take_uid"]: row["reason"] for row in plan.exclusions}
    uid_of = {entry.take_name: uid for uid, entry in plan.entries.items()}
    found = set()
    for text in asked:
        take_uid = by_name.get(text, text)
        if take_uid not in known:
            why = refused.get(uid_of.get(text, text))
            raise SettingsError(
                f"take {text} cannot be used: {why}"
                if why
                else f"take {not_found_text(text, [*by_name, *known])}"
            )
        found.add(take_uid)
    return found


def evenly(takes: Sequence[TakeFacts], seed: int) -> list[TakeFacts]:
    """The takes in an order of which any first part has the mix of scenarios and splits."""
    chance = dict(
        zip(
            [take.take_uid for take in takes],
            hash_names([take.take_uid for take in takes], seed).tolist(),
            strict=True,
        )
    )
    strata: dict[tuple[str, str], list[TakeFacts]] = {}
    for take in sorted(takes, key=lambda take: (chance[take.take_uid], take.take_uid)):
        strata.setdefault((take.scenario, take.split), []).append(take)
    starts = hash_names(["/".join(names) for names in strata], seed).tolist()
    # The n takes of a stratum stand at (0 + u)/n, (1 + u)/n, ...
    placed = [
        ((number + start / 2**64) / len(members), take)
        for start, members in zip(starts, strata.values(), strict=True)
        for number, take in enumerate(members)
    ]
    return [take for _, take in sorted(placed, key=lambda item: (item[0], item[1].take_uid))]


def _within_budget(
    takes: Sequence[TakeFacts], max_gb: float, seed: int, reasons: dict[str, str]
) -> list[TakeFacts]:
    unknown = [take for take in takes if take.video_bytes is None]
    if takes and len(unknown) == len(takes):
        raise SettingsError(
            "the sizes of the videos are not known, so no budget can be kept: there are no videos "
            "and no download manifests in the release; give --manifests DIR"
        )
    reasons |= {take.take_uid: "the size of its videos is not known" for take in unknown}
    kept, room = set(), max_gb * GB
    for take in evenly(takes, seed):
        if take.video_bytes is None:
            continue
        if take.video_bytes <= room:
            room -= take.video_bytes
            kept.add(take.take_uid)
        else:
            reasons[take.take_uid] = f"beyond the budget of {max_gb:g} GB"
    return [take for take in takes if take.take_uid in kept]


def _counted(reasons: Iterable[str]) -> str:
    common = Counter(reasons).most_common(3)
    return "; ".join(f"{number} takes: {reason}" for reason, number in common) or "no takes"
