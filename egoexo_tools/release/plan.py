"""Which takes of a release can be ingested, where their annotations lie, and why others cannot.

Joins takes.json (which takes exist), the relations files (which are annotated) and the split
(which are used for what). One pass over the mapped relations files finds and hashes each take's
bytes; nothing of a take is decoded here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import Release, path_component
from egoexo_tools.release.relations import BrokenRelations, TakeSlice, index_takes
from egoexo_tools.release.scenarios import not_found_text, resolve_scenarios
from egoexo_tools.release.takes import ShippedTake, read_split_file, read_takes
from egoexo_tools.vocab import Split

Slices: TypeAlias = dict[str, list[tuple[Split, TakeSlice]]]
"""take_uid → the slices that hold it, each with the split that its file is named after."""


@dataclass(frozen=True)
class PlannedTake:
    """A take that can be ingested."""

    take: ShippedTake
    """Without its text, which no worker needs."""
    split: Split
    source: TakeSlice
    fingerprint: str
    """Hash of its annotation, its entry in takes.json and its split."""

    @property
    def scenario(self) -> str | None:
        return self.take.scenario or self.source.read().scenario


@dataclass
class IngestPlan:
    """What a release offers."""

    takes: dict[str, PlannedTake] = field(default_factory=dict)
    """By take_uid, in the order of the split file, else of the relations files."""
    exclusions: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the exclusions manifest: whole takes that are left out."""
    entries: dict[str, ShippedTake] = field(default_factory=dict)
    """Everything in takes.json, in its order."""
    broken: list[BrokenRelations] = field(default_factory=list)
    """Relations files that are damaged; the takes before the damage are planned."""

    def leave_out(self, take_uid: str | None, reason: str) -> None:
        self.exclusions.append({"take_uid": take_uid, "reason": reason})

    def select(
        self,
        *,
        take_uids: Sequence[str] | None = None,
        scenarios: Sequence[str] | None = None,
    ) -> list[PlannedTake]:
        """The takes that are wanted; SettingsError for a name that the release does not have."""
        chosen = dict(self.takes)
        if take_uids is not None:
            for take_uid in take_uids:
                self._require_take(take_uid)
            chosen = {take_uid: chosen[take_uid] for take_uid in chosen if take_uid in take_uids}
        if scenarios is not None:
            of_take = {take_uid: take.scenario or "" for take_uid, take in self.takes.items()}
            wanted = resolve_scenarios(scenarios, (name for name in of_take.values() if name))
            chosen = {uid: take for uid, take in chosen.items() if of_take[uid] in wanted}
        return list(chosen.values())

    def _require_take(self, take_uid: str) -> None:
        if take_uid in self.takes:
            return
        for row in self.exclusions:
            if row["take_uid"] == take_uid:
                raise SettingsError(f"take {take_uid} cannot be ingested: {row['reason']}")
        raise SettingsError(f"take {not_found_text(take_uid, self.takes)}")


def plan_ingest(release: Release, *, split_file: Path | None = None) -> IngestPlan:
    """Find every take of the release that can be ingested.

    The split comes from `split_file`, else from the release's splits.json, else from the names
    of the relations files. Raises DataError where the release has no takes.json or no relations
    file, or where the split file is none.
    """
    release.require()
    plan = IngestPlan()
    entries, faults = read_takes(release.takes_json)
    for named, why in faults:
        plan.leave_out(named, why)
    for entry in entries:
        if entry.take_uid in plan.entries:
            plan.leave_out(entry.take_uid, "duplicate take in takes.json: the first entry is used")
        else:
            plan.entries[entry.take_uid] = entry
    digests: dict[TakeSlice, str] = {}
    found = _index(release, plan, digests)
    splits = _splits(release, split_file, plan)
    refused = {take_uid for take_uid, _ in faults}
    for take_uid in dict.fromkeys([*(splits or ()), *found]):
        if take_uid in refused and take_uid not in plan.entries:
            continue  # why is told already
        slices = found.get(take_uid, [])
        reason = _refusal(plan, take_uid, splits)
        if reason is None and not slices and split_file is not None:
            reason = f"in {split_file.name}, but in no relations file"
        if reason is not None:
            plan.leave_out(take_uid, reason)
        elif slices:
            split = slices[0][0] if splits is None else splits[take_uid][0]
            source = _choose(plan, slices, split)
            plan.takes[take_uid] = _planned(plan.entries[take_uid], split, source, digests[source])
    return plan


def _index(release: Release, plan: IngestPlan, digests: dict[TakeSlice, str]) -> Slices:
    """Every take in every relations file; damage is noted in the plan."""
    files = [(split, release.relations_json(split)) for split in Split]
    present = [(split, path) for split, path in files if path.is_file()]
    if not present:
        raise DataError(
            f"{release.path} has no annotations/relations_*.json; fetch them with "
            "`egoexo-tools download`"
        )
    found: Slices = {}
    for split, path in present:
        try:
            for piece in index_takes(path, digests=digests):
                found.setdefault(piece.take_uid, []).append((split, piece))
        except BrokenRelations as error:
            plan.broken.append(error)
            plan.leave_out(error.take_uid, str(error))
    return found


def _splits(
    release: Release, split_file: Path | None, plan: IngestPlan
) -> Mapping[str, list[Split]] | None:
    path = split_file or release.splits_json
    if split_file is None and not path.is_file():
        return None
    splits, faults = read_split_file(path)
    for reason in faults:
        plan.leave_out(None, reason)
    return splits


def _refusal(
    plan: IngestPlan, take_uid: str, splits: Mapping[str, list[Split]] | None
) -> str | None:
    """Why a take cannot be used, whatever its annotations hold."""
    entry = plan.entries.get(take_uid)
    if entry is None:
        return "not in takes.json: redacted, or not part of this release"
    if entry.is_dropped:
        return "takes.json marks it as dropped"
    try:
        path_component(take_uid)
        path_component(entry.take_name)
    except DataError as error:
        return str(error)
    if splits is not None and len(splits.get(take_uid, ())) != 1:
        listed = splits.get(take_uid)
        return f"in more than one split: {', '.join(listed)}" if listed else "not in the split file"
    return None


def _choose(plan: IngestPlan, slices: list[tuple[Split, TakeSlice]], split: Split) -> TakeSlice:
    """The slice in the file of the take's own split, else the first."""
    source = next((piece for of_file, piece in slices if of_file is split), slices[0][1])
    for _, piece in slices:
        if piece is not source:
            plan.leave_out(
                piece.take_uid,
                f"duplicate take: {piece.path.name} at byte {piece.start:,} holds it again, "
                f"{source.path.name} at byte {source.start:,} is used",
            )
    return source


def _planned(entry: ShippedTake, split: Split, source: TakeSlice, digest: str) -> PlannedTake:
    key = "\n".join([digest, sha256(entry.text).hexdigest(), split])
    return PlannedTake(
        take=replace(entry, text=b""),
        split=split,
        source=source,
        fingerprint=sha256(key.encode()).hexdigest()[:16],
    )
