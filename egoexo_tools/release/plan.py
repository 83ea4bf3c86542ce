"""Which takes of a release can be ingested, where their annotations are, and why others cannot be.

Joins takes.json (which takes exist), the relations files (which takes are annotated) and the split
(which part of the dataset a take belongs to). One pass over the mapped relations files finds and
hashes each take's bytes; nothing of a take is decoded here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import Release, path_component
from egoexo_tools.release.relations import BrokenRelations, TakeSlice, index_takes
from egoexo_tools.release.scenarios import not_found_text, resolve_scenarios
from egoexo_tools.release.takes import ShippedTake, read_split_file, read_takes
from egoexo_tools.vocab import Split


@dataclass(frozen=True)
class PlannedTake:
    """A take that can be ingested."""

    take: ShippedTake
    """Without its `text`: the plan is sent to worker processes, which do not need it."""
    split: Split
    source: TakeSlice
    fingerprint: str
    """Hash of its annotation, its entry in takes.json and its split."""

    @property
    def scenario(self) -> str | None:
        return self.take.scenario or self.source.read().scenario


@dataclass
class IngestPlan:
    """The takes of a release that can be ingested, and the reasons against the others."""

    takes: dict[str, PlannedTake] = field(default_factory=dict)
    """By take_uid, in the order of the split file; without one, of the relations files."""
    exclusions: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the exclusions manifest: whole takes that are excluded."""
    entries: dict[str, ShippedTake] = field(default_factory=dict)
    """Everything in takes.json, by take_uid, in its order."""
    damaged_files: list[BrokenRelations] = field(default_factory=list)
    """Relations files that are damaged; the takes before the damage are planned."""

    def exclude(self, take_uid: str | None, reason: str) -> None:
        self.exclusions.append({"take_uid": take_uid, "reason": reason})

    def select(
        self,
        *,
        take_uids: Sequence[str] | None = None,
        scenarios: Sequence[str] | None = None,
        splits: Sequence[Split] = tuple(Split),
    ) -> list[PlannedTake]:
        """The takes with these take_uids, scenarios and splits; None: all of them.

        Raises SettingsError for a take or scenario that the release does not have.
        """
        for take_uid in take_uids or ():
            if take_uid in self.takes:
                continue
            for row in self.exclusions:
                if row["take_uid"] == take_uid:
                    raise SettingsError(f"take {take_uid} cannot be ingested: {row['reason']}")
            raise SettingsError(f"take {not_found_text(take_uid, self.takes)}")
        selected = {uid: take for uid, take in self.takes.items() if take.split in splits}
        if take_uids is not None:
            selected = {uid: take for uid, take in selected.items() if uid in take_uids}
        if scenarios is not None:
            # Of all takes: a scenario that only other splits have is known, and selects nothing.
            scenario_of = {uid: take.scenario or "" for uid, take in self.takes.items()}
            names = resolve_scenarios(scenarios, filter(None, scenario_of.values()))
            selected = {uid: take for uid, take in selected.items() if scenario_of[uid] in names}
        return list(selected.values())


def plan_ingest(release: Release, *, split_file: Path | None = None) -> IngestPlan:
    """Find every take of the release that can be ingested.

    The split comes from `split_file`; without one, from the release's splits.json; without that,
    from the names of the relations files. Raises DataError where the release has no takes.json or
    no relations file, or where the split file is not one.
    """
    release.require()
    plan = IngestPlan()
    entries, faults = read_takes(release.takes_json)
    for named_uid, fault in faults:
        plan.exclude(named_uid, fault)
    for entry in entries:
        if entry.take_uid in plan.entries:
            plan.exclude(entry.take_uid, "duplicate take in takes.json: the first entry is used")
        else:
            plan.entries[entry.take_uid] = entry
    slices_of = _index_files(release, plan)
    splits: dict[str, list[Split]] | None = None
    if split_file is not None or release.splits_json.is_file():
        splits, split_faults = read_split_file(split_file or release.splits_json)
        for fault in split_faults:
            plan.exclude(None, fault)
    # Takes of the split first, in its order; then those that only the relations files have.
    unreadable = {named_uid for named_uid, _ in faults} - set(plan.entries)
    for take_uid in dict.fromkeys([*(splits or ()), *slices_of]):
        if take_uid in unreadable:
            continue  # excluded above, with a more precise reason
        slices = slices_of.get(take_uid, [])
        reason = _exclusion_reason(plan, take_uid, splits)
        if reason is None and not slices and split_file is not None:
            reason = f"in {split_file.name}, but in no relations file"
        if reason is not None:
            plan.exclude(take_uid, reason)
        # Without slices: a take of the official split that is not annotated, which is no fault.
        elif slices:
            split = slices[0][0] if splits is None else splits[take_uid][0]
            source = _select_slice(plan, slices, split)
            entry = plan.entries[take_uid]
            key = "\n".join([source.digest, sha256(entry.text).hexdigest(), split])
            fingerprint = sha256(key.encode()).hexdigest()[:16]
            take = replace(entry, text=b"")
            plan.takes[take_uid] = PlannedTake(take, split, source, fingerprint)
    return plan


def _index_files(release: Release, plan: IngestPlan) -> dict[str, list[tuple[Split, TakeSlice]]]:
    """take_uid → its slices in all relations files, each with the split in the file's name.

    Damage is recorded in the plan.
    """
    files = {split: release.relations_json(split) for split in Split}
    if not any(path.is_file() for path in files.values()):
        raise DataError(
            f"{release.path} has no annotations/relations_*.json; fetch them with "
            "`egoexo-tools download`"
        )
    slices_of: dict[str, list[tuple[Split, TakeSlice]]] = {}
    for split, path in files.items():
        if not path.is_file():
            continue
        try:
            for piece in index_takes(path, hashed=True):
                slices_of.setdefault(piece.take_uid, []).append((split, piece))
        # The other files and the takes before the damage are used all the same.
        except BrokenRelations as error:
            plan.damaged_files.append(error)
            plan.exclude(error.take_uid, str(error))
    return slices_of


def _exclusion_reason(
    plan: IngestPlan, take_uid: str, splits: Mapping[str, list[Split]] | None
) -> str | None:
    """Why a take cannot be used, whether or not it has annotations; None: it can be."""
    entry = plan.entries.get(take_uid)
    if entry is None:
        return "not in takes.json: redacted, or not part of this release"
    if entry.is_dropped:
        return "takes.json marks it as dropped"
    try:  # both become names of files
        path_component(take_uid)
        path_component(entry.take_name)
    except DataError as error:
        return str(error)
    if splits is not None and len(names := splits.get(take_uid, [])) != 1:
        return f"in more than one split: {', '.join(names)}" if names else "not in the split file"
    return None


def _select_slice(
    plan: IngestPlan, slices: list[tuple[Split, TakeSlice]], split: Split
) -> TakeSlice:
    """The slice in the file of the take's own split, or the first one; the others are excluded."""
    source = next((piece for of_file, piece in slices if of_file is split), slices[0][1])
    for _, piece in slices:
        if piece is not source:
            plan.exclude(
                piece.take_uid,
                f"duplicate take: {piece.path.name} at byte {piece.start:,} holds it again, "
                f"{source.path.name} at byte {source.start:,} is used",
            )
    return source
