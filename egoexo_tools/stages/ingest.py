"""The ingest stage: a release's annotations → the takes and masks manifests.

Reads takes.json, the relations files and the split; writes for each take its parts of `takes`,
`masks` and `exclusions` and `processed/<take_uid>/annotation.json`, and at the end takes.json
(the ingested takes, entries untouched) and processed/split.json. A unit is a take: the parent
finds where each lies in the relations files, and a worker decodes only those bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.formats import benchmark
from egoexo_tools.layout import DOWNSCALED_448, DatasetRoot, Release
from egoexo_tools.manifests import read_manifest, write_exclusions, write_manifest
from egoexo_tools.release.annotations import CameraLimits, CheckedTake, check_take
from egoexo_tools.release.plan import IngestPlan, PlannedTake, plan_ingest
from egoexo_tools.release.takes import ShippedTake, write_takes
from egoexo_tools.running.lock import shared_files_lock
from egoexo_tools.running.records import RunOptions, StageSummary, Unit, UnitResult
from egoexo_tools.running.stage import run_stage
from egoexo_tools.video.frames import probe
from egoexo_tools.vocab import Split

STAGE = "ingest"
RELEASE_UNIT = "release"
"""The exclusions part of whole takes: they are left out before there is a unit."""


@dataclass(frozen=True, kw_only=True)
class TakeUnit(Unit):
    """A take, and where to find its annotations."""

    planned: PlannedTake


def run_ingest(
    root: DatasetRoot,
    release: Release,
    *,
    split_file: Path | None = None,
    take_uids: Sequence[str] | None = None,
    scenarios: Sequence[str] | None = None,
    run: RunOptions = RunOptions(),
) -> StageSummary:
    """Ingest a release, or the takes and scenarios that are named.

    Takes that were ingested before stay. A relations file that is cut off counts as a failure,
    after the takes before the damage are done. Raises DataError where there is nothing to ingest
    and SettingsError for a take or scenario that the release does not have, or where the root
    holds takes that this release and split do not.
    """
    plan = plan_ingest(release, split_file=split_file)
    selected = plan.select(take_uids=take_uids, scenarios=scenarios)
    if not selected and not plan.damaged_files:
        raise DataError(_nothing_to_do(release, plan))
    with shared_files_lock(root.status_dir(STAGE)):
        _remove_foreign(root, plan, overwrite=run.overwrite)
        write_exclusions(root, STAGE, RELEASE_UNIT, plan.exclusions)
    summary = run_stage(
        root,
        STAGE,
        units(root, selected),
        partial(work, root=root, release=release),
        settings={},
        options=run,
    )
    with shared_files_lock(root.status_dir(STAGE)):
        _write_lists(root, plan)
    broken = [
        UnitResult(
            unit=error.take_uid or RELEASE_UNIT, status="failed", error=str(error), seconds=0
        )
        for error in plan.damaged_files
    ]
    counts = dict(summary.counts)
    if plan.exclusions:
        counts["takes_left_out"] = len({row["take_uid"] for row in plan.exclusions})
    return replace(summary, counts=counts, failed=(*summary.failed, *broken))


def units(root: DatasetRoot, takes: Sequence[PlannedTake]) -> list[Unit]:
    """One unit a take."""
    return [
        TakeUnit(
            key=(take.take.take_uid,),
            outputs=(
                root.annotation_json(take.take.take_uid),
                root.part("masks", take.take.take_uid),
                root.part("takes", take.take.take_uid),
            ),
            fingerprint=take.fingerprint,
            planned=take,
        )
        for take in takes
    ]


def work(unit: Unit, *, root: DatasetRoot, release: Release) -> Mapping[str, int]:
    """Ingest one take; DataError where its annotation cannot be decoded at all."""
    assert isinstance(unit, TakeUnit)
    planned, take = unit.planned, unit.planned.take
    relations = planned.source.read()
    cameras = {camera for tracks in relations.object_masks.values() for camera in tracks}
    checked = check_take(
        relations,
        cameras=take.cameras,
        limits={
            camera: _limits(release, take, camera)
            for camera in sorted(cameras)
            if camera in take.cameras
        },
    )
    scenario = take.scenario or relations.scenario
    _write_annotation(root, take, scenario, checked)
    # `takes` comes last: a take that it lists has its masks.
    take_uids = pa.repeat(pa.scalar(take.take_uid), checked.masks.num_rows)
    write_manifest(root, "masks", unit.name, checked.masks.add_column(0, "take_uid", take_uids))
    excluded = [{"take_uid": take.take_uid, **row} for row in checked.exclusions]
    write_exclusions(root, STAGE, unit.name, excluded)
    row = {
        "take_uid": take.take_uid,
        "take_name": take.take_name,
        "scenario": scenario,
        "university": take.university,
        "split": str(planned.split),
        "ego_camera": checked.ego_camera,
        "exo_cameras": checked.exo_cameras,
        "duration_seconds": take.duration_seconds,
        "frames_annotated": len(checked.frame_idxs),
    }
    # A take of which nothing can be used has no row, and its reasons are in exclusions.
    write_manifest(root, "takes", unit.name, [row] if checked.masks.num_rows else [])
    visible = checked.masks.column("visible").to_numpy().sum()
    return {
        "masks": int(visible),
        "absent": checked.masks.num_rows - int(visible),
        "excluded": len(excluded),
    }


def _limits(release: Release, take: ShippedTake, camera: str) -> CameraLimits:
    """From the video where it is there and readable, else from takes.json."""
    for short_side in (None, DOWNSCALED_448):
        path = release.find_video(take.take_name, camera, short_side=short_side)
        if path.is_file():
            try:
                info = probe(path)
            except DataError:
                continue  # the frames stage names it; annotations do not depend on it
            return CameraLimits(info.frames, info.height, info.width)
    return CameraLimits(frames=take.frames)


def _write_annotation(
    root: DatasetRoot, take: ShippedTake, scenario: str | None, checked: CheckedTake
) -> None:
    columns = ["object_name", "camera", "frame_idx", "visible", "rle_height", "rle_width"]
    benchmark.write_annotation(
        root.annotation_json(take.take_uid),
        checked.masks.select([*columns, "rle_counts"]).to_pylist(),
        checked.frame_idxs,
        extra={"scenario": scenario, "take_name": take.take_name},
    )


def _remove_foreign(root: DatasetRoot, plan: IngestPlan, *, overwrite: bool) -> None:
    """Takes of another release or split: they would mix with the new ones."""
    present = sorted(path.stem for path in root.table("takes").glob("*.parquet"))
    foreign = [take_uid for take_uid in present if take_uid not in plan.takes]
    # A relations file that is cut off lacks takes that were whole before: they stay.
    if not foreign or plan.damaged_files:
        return
    if not overwrite:
        raise SettingsError(
            f"{root.path} holds {len(foreign)} takes that this release and split do not "
            f"({foreign[0]}); use another root, or --overwrite to remove them from this one"
        )
    for take_uid in foreign:
        for table in ("takes", "masks"):
            root.part(table, take_uid).unlink(missing_ok=True)
        write_exclusions(root, STAGE, take_uid, [])
        root.annotation_json(take_uid).unlink(missing_ok=True)
        root.status(STAGE, take_uid).unlink(missing_ok=True)


def _write_lists(root: DatasetRoot, plan: IngestPlan) -> None:
    """takes.json and split.json of all takes that the root holds, of this run or before."""
    if not any(root.table("takes").glob("*.parquet")):
        return
    rows = read_manifest(root, "takes", columns=["take_uid", "split"]).to_pylist()
    split_of = {row["take_uid"]: row["split"] for row in rows}
    # Of all takes of the root, not of this call's: takes can be ingested scenario by scenario, and
    # programs that read these lists must see all of them.
    entries = [entry.text for uid, entry in plan.entries.items() if uid in split_of]
    write_takes(root.takes_json, entries)
    order = [uid for uid in dict.fromkeys([*plan.takes, *sorted(split_of)]) if uid in split_of]
    splits = {str(split): [uid for uid in order if split_of[uid] == split] for split in Split}
    benchmark.write_splits(root.split_json, splits)


def _nothing_to_do(release: Release, plan: IngestPlan) -> str:
    if plan.takes:
        return "no take has both that take_uid and that scenario; name fewer"
    reasons = sorted({row["reason"] for row in plan.exclusions})
    why = f": {len(plan.exclusions)} takes are left out ({'; '.join(reasons[:3])})"
    return f"{release.path} has no take that can be ingested{why if reasons else ''}"
