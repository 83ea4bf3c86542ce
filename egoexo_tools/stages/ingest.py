"""The ingest stage: a release's annotations → the takes and masks manifests.

Reads takes.json, the relations files and the split. Writes each take's parts of `takes`, `masks`
and `exclusions` and its `processed/<take_uid>/annotation.json`; at the end takes.json (entries of
the ingested takes, unchanged) and processed/split.json. A unit is a take: the parent process finds
its bytes in the relations files, and a worker decodes only these.
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
from egoexo_tools.masks.columns import RLE_COLUMNS
from egoexo_tools.release.annotations import CameraLimits, check_take
from egoexo_tools.release.plan import IngestPlan, PlannedTake, plan_ingest
from egoexo_tools.release.takes import ShippedTake, write_takes
from egoexo_tools.running.lock import shared_files_lock
from egoexo_tools.running.records import RunOptions, StageSummary, Unit, UnitResult
from egoexo_tools.running.stage import run_stage
from egoexo_tools.video.frames import probe
from egoexo_tools.vocab import Split

STAGE = "ingest"
RELEASE_UNIT = "release"
"""Exclusions of whole takes, which have no unit."""


@dataclass(frozen=True, kw_only=True)
class TakeUnit(Unit):
    """A take and the location of its annotations."""

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
    """Ingest a release, or the takes of `take_uids` and `scenarios`.

    Takes of earlier runs stay. A damaged relations file is a failure in the summary; the takes
    before the damage are ingested. Raises DataError where there is nothing to ingest, and
    SettingsError for a take or scenario that the release does not have, or where the root holds
    takes that this release and split do not have.
    """
    plan = plan_ingest(release, split_file=split_file)
    selected = plan.select(take_uids=take_uids, scenarios=scenarios)
    if not selected and not plan.damaged_files:
        if plan.takes:
            raise DataError(
                "no take has both that take_uid and that scenario; give only one of them"
            )
        reasons = sorted({row["reason"] for row in plan.exclusions})
        counts_text = f": {len(plan.exclusions)} takes are left out ({'; '.join(reasons[:3])})"
        raise DataError(
            f"{release.path} has no take that can be ingested{counts_text if reasons else ''}"
        )
    # Before any unit runs: a killed run leaves no takes of two splits side by side.
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
    failed = [
        UnitResult(error.take_uid or RELEASE_UNIT, "failed", str(error), seconds=0)
        for error in plan.damaged_files
    ]
    counts = dict(summary.counts)
    if plan.exclusions:
        counts["takes_left_out"] = len({row["take_uid"] for row in plan.exclusions})
    return replace(summary, counts=counts, failed=(*summary.failed, *failed))


def units(root: DatasetRoot, takes: Sequence[PlannedTake]) -> list[Unit]:
    """One unit per take."""
    return [
        TakeUnit(
            key=(planned.take.take_uid,),
            outputs=(
                root.annotation_json(planned.take.take_uid),
                root.part("masks", planned.take.take_uid),
                root.part("takes", planned.take.take_uid),
            ),
            fingerprint=planned.fingerprint,
            planned=planned,
        )
        for planned in takes
    ]


def work(unit: Unit, *, root: DatasetRoot, release: Release) -> Mapping[str, int]:
    """Ingest one take; DataError where its annotation cannot be decoded at all."""
    assert isinstance(unit, TakeUnit)
    planned, take = unit.planned, unit.planned.take
    relations = planned.source.read()
    cameras = {camera for tracks in relations.object_masks.values() for camera in tracks}
    # check_take refuses the cameras that takes.json lacks; their videos need not be opened.
    limits = {cam: _limits(release, take, cam) for cam in sorted(cameras & take.cameras)}
    checked = check_take(relations, cameras=take.cameras, limits=limits)
    masks, scenario = checked.masks, take.scenario or relations.scenario
    columns = ["object_name", "camera", "frame_idx", "visible", *RLE_COLUMNS]
    benchmark.write_annotation(
        root.annotation_json(take.take_uid),
        masks.select(columns).to_pylist(),
        checked.frame_idxs,
        extra={"scenario": scenario, "take_name": take.take_name},
    )
    take_uids = pa.repeat(pa.scalar(take.take_uid), masks.num_rows)
    write_manifest(root, "masks", unit.name, masks.add_column(0, "take_uid", take_uids))
    exclusions = [{"take_uid": take.take_uid, **row} for row in checked.exclusions]
    write_exclusions(root, STAGE, unit.name, exclusions)
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
    # `takes` comes last, so that a take that it lists has its masks. A take without any usable mask
    # has no row; exclusions have the reasons.
    write_manifest(root, "takes", unit.name, [row] if masks.num_rows else [])
    visible = int(masks.column("visible").to_numpy().sum())
    return {"masks": visible, "absent": masks.num_rows - visible, "excluded": len(exclusions)}


def _limits(release: Release, take: ShippedTake, camera: str) -> CameraLimits:
    """A camera's frame count and size, from a readable video if there is one, or takes.json."""
    for short_side in (None, DOWNSCALED_448):
        path = release.find_video(take.take_name, camera, short_side=short_side)
        if path.is_file():
            try:
                info = probe(path)
            except DataError:
                continue  # the frames stage reports it; annotations do not depend on the video
            return CameraLimits(info.frames, info.height, info.width)
    return CameraLimits(frames=take.frames)


def _remove_foreign(root: DatasetRoot, plan: IngestPlan, *, overwrite: bool) -> None:
    """Remove takes of another release or split, which would mix with the new ones."""
    present = sorted(path.stem for path in root.table("takes").glob("*.parquet"))
    foreign = [take_uid for take_uid in present if take_uid not in plan.takes]
    # A damaged relations file lacks takes that an earlier, whole file had: these stay.
    if not foreign or plan.damaged_files:
        return
    if not overwrite:
        raise SettingsError(
            f"{root.path} holds {len(foreign)} takes that this release and split do not have "
            f"({foreign[0]}); use another root, or --overwrite to remove them from this one"
        )
    for take_uid in foreign:
        for table in ("takes", "masks"):
            root.part(table, take_uid).unlink(missing_ok=True)
        write_exclusions(root, STAGE, take_uid, [])
        root.annotation_json(take_uid).unlink(missing_ok=True)
        root.status(STAGE, take_uid).unlink(missing_ok=True)


def _write_lists(root: DatasetRoot, plan: IngestPlan) -> None:
    """Write takes.json and split.json.

    They list all takes of the root, not only this run's: takes can be ingested scenario by
    scenario, and programs that read the lists must see all of them.
    """
    if not any(root.table("takes").glob("*.parquet")):
        return
    rows = read_manifest(root, "takes", columns=["take_uid", "split"]).to_pylist()
    split_of = {row["take_uid"]: row["split"] for row in rows}
    entries = [entry.text for uid, entry in plan.entries.items() if uid in split_of]
    write_takes(root.takes_json, entries)
    order = [uid for uid in dict.fromkeys([*plan.takes, *sorted(split_of)]) if uid in split_of]
    splits = {str(split): [uid for uid in order if split_of[uid] == split] for split in Split}
    # An equal file keeps its time, so that `pairs` need not read it again.
    if not root.split_json.exists() or benchmark.read_json(root.split_json) != splits:
        benchmark.write_splits(root.split_json, splits)
