"""Stages `import processed` and `import lm-eec`: other people's prepared data → a root.

Nothing is downloaded or decoded again: frames are hard links where the disk allows, annotations
and proposals become manifests.

- processed: `processed/<take_uid>/{annotation.json,<camera>/<frame>.jpg}`, `processed/split.json`,
  `takes.json`, as the official script and its forks write them; `dataset_jsons/*_pairs.json` become
  pairs and `Masks_<SPLIT>_<DIRECTION>/` proposals. It may be imported into itself.
- LM-EEC: `<split>/<take_uid>/{annotation.json,<camera>/<frame>.jpg}`, and the replaced object names
  in `object_names_<split>.json`.

A unit is a take, then a camera's proposals, then a split's pairs in one direction. What cannot be
used is in exclusions, with its reason. Where the source does not say in which frames somebody has
looked for an object, none is called absent, and exclusions say so.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.formats import benchmark
from egoexo_tools.formats.source import link_or_copy
from egoexo_tools.importing import pairs, proposals
from egoexo_tools.importing.annotation_json import ProcessedTake, read_annotation_json
from egoexo_tools.importing.sources import (
    SourceTake,
    find_lm_eec,
    find_processed,
    home_of,
)
from egoexo_tools.layout import DatasetRoot, path_component
from egoexo_tools.manifests import read_manifest, write_exclusions, write_manifest
from egoexo_tools.parsing.lenient import frame_number, list_folder
from egoexo_tools.parsing.pictures import picture_size
from egoexo_tools.release.takes import read_split_file, read_takes, write_takes
from egoexo_tools.running.claims import claim_units, claimed_units
from egoexo_tools.running.lock import shared_files_lock
from egoexo_tools.running.records import RunOptions, StageSummary, Unit, read_status
from egoexo_tools.running.stage import run_stage
from egoexo_tools.vocab import Split, view_of

PROCESSED, LM_EEC = "import-processed", "import-lm-eec"
SHARED_UNIT = "source"
UNKNOWN = (
    "absent and never annotated cannot be told apart: the source does not say which frames were "
    "annotated, so only frames with a mask are in the masks manifest"
)
_JPEG = (".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True)
class ImportUnit(Unit):
    """A take to import."""

    take: SourceTake
    empty_is_absent: bool


def import_processed(
    root: DatasetRoot, folder: Path, *, run: RunOptions = RunOptions()
) -> list[StageSummary]:
    """Import a processed folder, its pairs and proposals; a summary for each of them.

    Raises DataError where `folder` holds no processed take.
    """
    takes, texts, notes = find_processed(folder)
    home = home_of(folder)
    summaries = [_import_takes(root, PROCESSED, takes, notes, run, empty_is_absent=False)]
    with shared_files_lock(root.status_dir(PROCESSED)):
        _write_lists(root, texts)
    summaries.append(proposals.run_import_proposals(root, home, run=run))
    with shared_files_lock(root.status_dir(PROCESSED)):
        # Pairs need all takes of their split: of several shards the last one to end has them.
        if all(read_status(root, PROCESSED, take.take_uid) for take in takes):
            whole = replace(run, shard=None)
            summaries.append(pairs.run_import_pairs(root, home, run=whole))
    return [summary for summary in summaries if summary.counts or summary.failed or summary.done]


def import_lm_eec(
    root: DatasetRoot, folder: Path, *, run: RunOptions = RunOptions()
) -> list[StageSummary]:
    """Import LM-EEC's processed data set; DataError where `folder` holds none."""
    takes, notes = find_lm_eec(folder)
    if folder.resolve() == root.path.resolve():
        raise SettingsError(f"{folder} has another layout than a root; give another --root")
    summary = _import_takes(root, LM_EEC, takes, notes, run, empty_is_absent=True)
    with shared_files_lock(root.status_dir(LM_EEC)):
        _write_lists(root, {})
    return [summary]


def work(unit: Unit, *, root: DatasetRoot, stage: str) -> dict[str, int]:
    """Import one take; returns counts of frames and masks."""
    assert isinstance(unit, ImportUnit)
    source = unit.take
    path = source.folder / "annotation.json"
    found = read_annotation_json(path, names=source.names, empty_is_absent=unit.empty_is_absent)
    left_out = list(found.faults)
    if not found.knows_absent and not unit.empty_is_absent:
        left_out.append({"reason": UNKNOWN})
    if found.ego_camera is None or not found.exo_cameras:
        raise DataError(f"{path} has no masks in an ego and an exo camera")
    frames = _keep_frames(root, source, found, left_out)
    masks = found.masks.append_column(
        "take_uid", pa.repeat(pa.scalar(source.take_uid), found.masks.num_rows)
    )
    write_manifest(root, "masks", source.take_uid, masks)
    ours = root.annotation_json(source.take_uid)
    if ours.resolve() != path.resolve():
        link_or_copy(path, ours)
    write_exclusions(
        root, stage, source.take_uid, [{"take_uid": source.take_uid, **row} for row in left_out]
    )
    _write_take(root, source, found)
    visible = int(masks["visible"].to_numpy(zero_copy_only=False).sum())
    counts = {"frames": frames, "masks": visible, "absent": masks.num_rows - visible}
    return counts | ({"excluded": len(left_out)} if left_out else {})


def _import_takes(
    root: DatasetRoot,
    stage: str,
    takes: Sequence[SourceTake],
    notes: Sequence[Mapping[str, Any]],
    run: RunOptions,
    *,
    empty_is_absent: bool,
) -> StageSummary:
    foreign = {path.stem for path in root.table("takes").glob("*.parquet")}
    foreign -= claimed_units(root, stage)
    if mixed := sorted(foreign & {take.take_uid for take in takes}):
        raise SettingsError(
            f"{root.path} has take {mixed[0]} from elsewhere; import into another root"
        )
    claim_units(root, stage, (take.take_uid for take in takes))
    units = []
    for take in takes:
        key = (path_component(take.take_uid),)
        outputs = tuple(root.part(table, take.take_uid) for table in ("masks", "takes"))
        inputs = (take.folder / "annotation.json",)
        units.append(
            ImportUnit(
                key=key,
                inputs=inputs,
                outputs=outputs,
                fingerprint=f"{take.split} {_names(take)}",
                take=take,
                empty_is_absent=empty_is_absent,
            )
        )
    summary = run_stage(
        root, stage, units, partial(work, root=root, stage=stage), settings={}, options=run
    )
    with shared_files_lock(root.status_dir(stage)):
        write_exclusions(root, stage, SHARED_UNIT, notes)
    return summary


def _names(take: SourceTake) -> str:
    """Hash of which files a take has, and of its objects' names: more of them is another take."""
    names = sorted(str(path.relative_to(take.folder)) for path in take.folder.rglob("*"))
    names += [f"{new} {name}" for new, name in sorted(take.names.items())]
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()[:16]


def _keep_frames(
    root: DatasetRoot, source: SourceTake, found: ProcessedTake, left_out: list[dict[str, Any]]
) -> int:
    """Link the frames of the take's cameras and write their manifest; returns how many."""
    sizes = _source_sizes(found)
    count = 0
    for path in list_folder(source.folder):
        if not path.is_dir():
            if path.name != "annotation.json":
                left_out.append({"reason": f"{path.name} is no camera's folder; it is not read"})
            continue
        camera = path.name
        if camera not in {found.ego_camera, *found.exo_cameras}:
            left_out.append({"camera": camera, "reason": "no object has a mask in this camera"})
            continue
        rows = []
        for frame_idx, file in sorted(_frames(path, left_out).items()):
            try:
                height, width = picture_size(file)
            except DataError as error:
                left_out.append({"camera": camera, "frame_idx": frame_idx, "reason": str(error)})
                continue
            kept = root.frame(source.take_uid, camera, frame_idx)
            link_or_copy(file, kept)
            source_height, source_width = sizes.get(camera, (height, width))
            rows.append({
                "take_uid": source.take_uid, "camera": camera, "frame_idx": frame_idx,
                "view": str(view_of(camera)), "path": root.relative(kept),
                "height": height, "width": width,
                "source_height": source_height, "source_width": source_width,
            })  # fmt: skip
        write_manifest(root, "frames", f"{source.take_uid}.{camera}", rows)
        count += len(rows)
    return count


def _frames(folder: Path, left_out: list[dict[str, Any]]) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in list_folder(folder):
        number = frame_number(path.stem) if path.suffix.lower() in _JPEG else None
        if number is None or number in found:
            why = "is no JPEG with a frame number" if number is None else "is there twice"
            left_out.append({"camera": folder.name, "reason": f"{path.name} {why}"})
        else:
            found[number] = path
    return found


def _source_sizes(found: ProcessedTake) -> dict[str, tuple[int, int]]:
    """camera → height and width of most of its masks: those of the source video."""
    groups = found.masks.group_by(["camera", "rle_height", "rle_width"]).aggregate(
        [([], "count_all")]
    )
    sizes: dict[str, tuple[int, int, int]] = {}
    for row in groups.to_pylist():
        if row["rle_height"] is not None:
            best = (row["count_all"], row["rle_height"], row["rle_width"])
            sizes[row["camera"]] = max(best, sizes.get(row["camera"], (0, 0, 0)))
    return {camera: (height, width) for camera, (_, height, width) in sizes.items()}


def _write_take(root: DatasetRoot, source: SourceTake, found: ProcessedTake) -> None:
    entry = source.entry
    frames = found.masks["frame_idx"].unique()
    row = {
        "take_uid": source.take_uid,
        "take_name": (entry.take_name if entry else found.take_name) or source.take_uid,
        "scenario": (entry.scenario if entry else None) or found.scenario,
        "university": entry.university if entry else None,
        "split": str(source.split),
        "ego_camera": found.ego_camera,
        "exo_cameras": found.exo_cameras,
        "duration_seconds": entry.duration_seconds if entry else None,
        "frames_annotated": len(frames),
    }
    write_manifest(root, "takes", source.take_uid, [row])


def _write_lists(root: DatasetRoot, texts: Mapping[str, bytes]) -> None:
    """takes.json and split.json get the takes of the root that they lack; what is there stays."""
    if not any(root.table("takes").glob("*.parquet")):
        return
    takes = read_manifest(root, "takes").to_pylist()
    uids = [take["take_uid"] for take in takes]
    listed = read_split_file(root.split_json)[0] if root.split_json.exists() else {}
    if not set(uids) <= set(listed):
        listed = {take["take_uid"]: [Split(take["split"])] for take in takes} | listed
        splits = {
            str(split): [uid for uid in _in_order(uids, listed) if split in listed[uid]]
            for split in Split
        }
        benchmark.write_splits(root.split_json, splits)
    try:
        known = read_takes(root.takes_json)[0] if root.takes_json.exists() else []
    except DataError:
        return  # a source's own file, imported in its place: its fault is told with its takes
    shipped = {take.take_uid: take.text for take in known}
    if not set(uids) <= set(shipped):
        entries = {take["take_uid"]: _entry(take, texts) for take in takes} | shipped
        write_takes(root.takes_json, [entries[uid] for uid in _in_order(uids, entries)])


def _in_order(uids: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """The root's takes in their order, whichever shard wrote first; then a source's others."""
    return [*uids, *(uid for uid in known if uid not in set(uids))]


def _entry(take: Mapping[str, Any], texts: Mapping[str, bytes]) -> bytes:
    import json

    entry = {
        "take_uid": take["take_uid"],
        "take_name": take["take_name"],
        "root_dir": f"takes/{take['take_name']}",
        "parent_task_name": take["scenario"],
        "duration_sec": take["duration_seconds"],
    }
    return texts.get(take["take_uid"]) or json.dumps(entry).encode()
