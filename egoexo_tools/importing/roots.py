"""Stages `import processed` and `import lm-eec`: data that other programs prepared → a root.

Nothing is downloaded or decoded again: frames are hard links where the disk allows, annotations
and proposals become manifests.

- processed: `processed/<take_uid>/{annotation.json,<camera>/<frame>.jpg}`, `processed/split.json`,
  `takes.json`, as the official script and its forks write them; `dataset_jsons/*_pairs.json` become
  pairs and `Masks_<SPLIT>_<DIRECTION>/` proposals. The folder may become a root in its place.
- LM-EEC: `<split>/<take_uid>/{annotation.json,<camera>/<frame>.jpg}`, and the original object names
  in `object_names_<split>.json`.

A unit is a take; proposals have one unit per camera, and pairs one per split and direction.
Unusable data is recorded in exclusions with its reason. Where the source does not list the
annotated frames, no object is recorded as absent, and exclusions say so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from egoexo_tools.aliases import Row
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.formats.source import link_or_copy
from egoexo_tools.importing import pairs, proposals
from egoexo_tools.importing.annotation_json import ProcessedTake, read_annotation_json
from egoexo_tools.importing.sources import SourceTake, find_lm_eec, find_processed, home_of
from egoexo_tools.importing.take_lists import add_to_take_lists
from egoexo_tools.layout import DatasetRoot, path_component
from egoexo_tools.manifests import write_exclusions, write_manifest
from egoexo_tools.parsing.lenient import frame_number, list_folder
from egoexo_tools.parsing.pictures import picture_size
from egoexo_tools.running.claims import claim_units, claimed_units
from egoexo_tools.running.inputs import hash_stamps, hash_texts
from egoexo_tools.running.lock import shared_files_lock
from egoexo_tools.running.owned_files import is_of_takes
from egoexo_tools.running.pictures import changed_pictures, picture_digest, remember_pictures
from egoexo_tools.running.records import RunOptions, StageSummary, Unit, read_status
from egoexo_tools.running.stage import run_stage
from egoexo_tools.vocab import view_of

PROCESSED, LM_EEC = "import-processed", "import-lm-eec"
SHARED_UNIT = "source"
"""Exclusions of files that belong to no take."""
UNKNOWN = (
    "absent and unannotated objects cannot be distinguished: the source does not list the "
    "annotated frames, so only frames with a mask are in the masks manifest"
)
_JPEG = (".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True)
class ImportUnit(Unit):
    """A take to import."""

    take: SourceTake
    empty_is_absent: bool
    """Whether an empty mask in the take's annotation.json means that the object is absent."""


def import_processed(
    root: DatasetRoot, folder: Path, *, run: RunOptions = RunOptions()
) -> list[StageSummary]:
    """Import a processed folder, its proposals and its pairs; one summary for each.

    Raises DataError where `folder` holds no processed take.
    """
    takes, texts, exclusions = find_processed(folder)
    home = home_of(folder)
    summaries = [_import_takes(root, PROCESSED, takes, exclusions, run, empty_is_absent=False)]
    with shared_files_lock(root.status_dir(PROCESSED)):
        add_to_take_lists(root, texts)
    summaries.append(proposals.run_import_proposals(root, home, run=run))
    with shared_files_lock(root.status_dir(PROCESSED)):
        # Pairs need all takes of their split: of several shards, the last one to end has them.
        if all(read_status(root, PROCESSED, take.take_uid) for take in takes):
            unsharded = replace(run, shard=None)
            summaries.append(pairs.run_import_pairs(root, home, run=unsharded))
    return [summary for summary in summaries if summary.counts or summary.failed or summary.done]


def import_lm_eec(
    root: DatasetRoot, folder: Path, *, run: RunOptions = RunOptions()
) -> list[StageSummary]:
    """Import LM-EEC's processed data set; DataError where `folder` holds none."""
    takes, exclusions = find_lm_eec(folder)
    if folder.resolve() == root.path.resolve():
        raise SettingsError(f"{folder} has another layout than a root; give another --root")
    summary = _import_takes(root, LM_EEC, takes, exclusions, run, empty_is_absent=True)
    with shared_files_lock(root.status_dir(LM_EEC)):
        add_to_take_lists(root, {})
    return [summary]


def work(unit: Unit, *, root: DatasetRoot, stage: str) -> dict[str, int]:
    """Import one take; returns counts of frames and masks."""
    assert isinstance(unit, ImportUnit)
    source = unit.take
    take_uid, entry = source.take_uid, source.entry
    path = source.folder / "annotation.json"
    take = read_annotation_json(path, names=source.names, empty_is_absent=unit.empty_is_absent)
    exclusions = list(take.faults)
    if not take.knows_absent and not unit.empty_is_absent:
        exclusions.append({"reason": UNKNOWN})
    if take.ego_camera is None or not take.exo_cameras:
        raise DataError(f"{path} has no masks in an ego and an exo camera")
    frame_count = _link_frames(root, source, take, exclusions)
    masks = take.masks.append_column(
        "take_uid", pa.repeat(pa.scalar(take_uid), take.masks.num_rows)
    )
    write_manifest(root, "masks", take_uid, masks)
    # A folder that becomes a root in its place keeps its file.
    our_path = root.annotation_json(take_uid)
    if our_path.resolve() != path.resolve():
        link_or_copy(path, our_path)
    write_exclusions(root, stage, take_uid, [{"take_uid": take_uid, **row} for row in exclusions])
    row = {
        "take_uid": take_uid,
        "take_name": (entry.take_name if entry else take.take_name) or take_uid,
        "scenario": (entry.scenario if entry else None) or take.scenario,
        "university": entry.university if entry else None,
        "split": str(source.split),
        "ego_camera": take.ego_camera,
        "exo_cameras": take.exo_cameras,
        "duration_seconds": entry.duration_seconds if entry else None,
        "frames_annotated": len(take.masks["frame_idx"].unique()),
    }
    write_manifest(root, "takes", take_uid, [row])
    visible = int(masks["visible"].to_numpy(zero_copy_only=False).sum())
    counts = {"frames": frame_count, "masks": visible, "absent": masks.num_rows - visible}
    return counts | ({"excluded": len(exclusions)} if exclusions else {})


def _import_takes(
    root: DatasetRoot,
    stage: str,
    takes: Sequence[SourceTake],
    exclusions: Sequence[Row],
    run: RunOptions,
    *,
    empty_is_absent: bool,
) -> StageSummary:
    """Run the stage over the takes; `exclusions` are those of the whole folder."""
    # The same take from two sources would mix their frames and masks.
    present = {path.stem for path in root.table("takes").glob("*.parquet")}
    foreign = present - claimed_units(root, stage)
    if mixed := sorted(foreign & {take.take_uid for take in takes}):
        raise SettingsError(
            f"{root.path} has take {mixed[0]} from another source; import into another root"
        )
    claim_units(root, stage, (take.take_uid for take in takes))
    units = []
    changed = changed_pictures(root)
    for take in takes:
        # In its place, the import itself writes annotation.json and temporary files.
        names = [hash_stamps(take.folder, without=[take.folder / "annotation.json"])]
        names += [f"{new} {name}" for new, name in sorted(take.names.items())]
        units.append(
            ImportUnit(
                key=(path_component(take.take_uid),),
                inputs=(take.folder / "annotation.json",),
                outputs=tuple(root.part(table, take.take_uid) for table in ("masks", "takes")),
                fingerprint=f"{take.split} {hash_texts(names)}",
                is_incomplete=any(is_of_takes(unit, {take.take_uid}) for unit in changed),
                take=take,
                empty_is_absent=empty_is_absent,
            )
        )
    summary = run_stage(
        root, stage, units, partial(work, root=root, stage=stage), settings={}, options=run
    )
    with shared_files_lock(root.status_dir(stage)):
        write_exclusions(root, stage, SHARED_UNIT, exclusions)
    return summary


def _link_frames(
    root: DatasetRoot, source: SourceTake, take: ProcessedTake, exclusions: list[Row]
) -> int:
    """Link the frames of the take's cameras and write their manifest; returns the count."""
    sizes = take.source_sizes()
    count = 0
    for path in list_folder(source.folder):
        if not path.is_dir():
            if path.name != "annotation.json":
                exclusions.append(
                    {"reason": f"{path.name} is not a camera's folder; it is not read"}
                )
            continue
        camera = path.name
        # The takes manifest lists the cameras with masks; later stages skip any other camera.
        if camera not in {take.ego_camera, *take.exo_cameras}:
            exclusions.append({"camera": camera, "reason": "no object has a mask in this camera"})
            continue
        rows = []
        for frame_idx, file in sorted(_find_frames(path, exclusions).items()):
            try:
                height, width = picture_size(file)
            except DataError as error:
                exclusions.append({"camera": camera, "frame_idx": frame_idx, "reason": str(error)})
                continue
            frame = root.frame(source.take_uid, camera, frame_idx)
            link_or_copy(file, frame)
            # Masks have the size of the video, which is not there to be measured.
            source_height, source_width = sizes.get(camera, (height, width))
            rows.append({
                "take_uid": source.take_uid, "camera": camera, "frame_idx": frame_idx,
                "view": str(view_of(camera)), "path": root.relative(frame),
                "height": height, "width": width,
                "source_height": source_height, "source_width": source_width,
                "digest": picture_digest(frame.read_bytes()),
            })  # fmt: skip
        unit = f"{source.take_uid}.{camera}"
        write_manifest(root, "frames", unit, rows)
        remember_pictures(root, unit, rows)
        count += len(rows)
    return count


def _find_frames(folder: Path, exclusions: list[Row]) -> dict[int, Path]:
    """frame_idx → JPEG of a camera's folder."""
    frames: dict[int, Path] = {}
    for path in list_folder(folder):
        number = frame_number(path.stem) if path.suffix.lower() in _JPEG else None
        if number is None or number in frames:
            fault = "is not a JPEG with a frame number" if number is None else "is there twice"
            exclusions.append({"camera": folder.name, "reason": f"{path.name} {fault}"})
        else:
            frames[number] = path
    return frames
