"""Stage `import`: somebody's own pictures and masks → a root on which every later command works.

Reads `<folder>/<take>/<ego|exo camera>/<frame>.jpg`, one folder a take, one folder in it a camera
(docs/import.md shows an example). Masks may come as

- `<frame>/<object>.png` beside the picture: a PNG for each object, everything but 0 is the object;
- `<frame>.json` beside the picture: a list of `{"object_name", "segmentation": {size, counts}}`,
  as SAM writes them with a name added (or `{"annotations": [...]}` around the list);
- any other .json in the folder, a take's or a camera's: COCO, RLE or polygons, where the category
  is the object's name and `file_name` is relative to the JSON.

`cameras.json` in the folder or a take says which camera is which view, `{"wrist": "ego", "front":
"exo"}`; without it a name with `ego` at its beginning or `aria` in it is the ego camera.

An object has one name in both views. A picture with any mask, or that an annotation file names,
counts as looked at: objects of the take without a mask in it are recorded as absent there. What
cannot be used goes to exclusions with its file's name and costs nothing else; an object whose mask
is among it is neither visible nor absent there. Pictures of one name in two cameras show one
instant.

Writes frames (JPEG 95, the longer side scaled down to LONG_SIDE), the takes, frames and masks
manifests, annotation.json, and at the end takes.json and split.json.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.formats import benchmark
from egoexo_tools.importing.cameras import NAME, CameraFolder, find_cameras, not_read, read_views
from egoexo_tools.importing.masks import (
    CameraMasks,
    annotation_files,
    mask_rows,
    read_annotation_files,
    read_camera_masks,
)
from egoexo_tools.layout import DatasetRoot, write_atomic
from egoexo_tools.manifests import read_manifest, write_exclusions, write_manifest
from egoexo_tools.parsing.lenient import list_folder, plain_name
from egoexo_tools.parsing.pictures import read_picture
from egoexo_tools.running.claims import claim_units, claimed_units
from egoexo_tools.running.lock import shared_files_lock
from egoexo_tools.running.records import RunOptions, StageSummary, Unit, UnitResult
from egoexo_tools.running.stage import run_stage
from egoexo_tools.vocab import FPS, Split, View, view_of

STAGE = "import"
SHARED_UNIT = "shared"
"""Exclusions of files that belong to no take."""
LONG_SIDE: Mapping[View, int] = {View.EGO: 704, View.EXO: 960}
"""Pixels of a kept frame's longer side: those of the benchmark's own frames."""
_KEYS = ("camera", "object_name", "frame_idx")


@dataclass
class _TakeFolder:
    """A take that is being imported."""

    take_uid: str
    cameras: list[CameraFolder]
    masks: dict[str, CameraMasks]
    """By camera."""
    sizes: dict[tuple[str, int], tuple[int, int, int, int]] = field(default_factory=dict)
    """(camera, frame_idx) → height and width of the kept frame, and of its picture."""
    left_out: list[dict[str, Any]] = field(default_factory=list)
    """Rows of exclusions."""

    def leave_out(self, reason: str, *keys: Any) -> None:
        """`keys`: camera, object_name, frame_idx, as far as they are known."""
        named = dict(zip(_KEYS, keys, strict=False))
        self.left_out.append({"take_uid": self.take_uid, **named, "reason": reason})


def run_import_images(
    root: DatasetRoot,
    folder: Path,
    *,
    split: Split = Split.TEST,
    scenario: str = "imported",
    run: RunOptions = RunOptions(),
) -> StageSummary:
    """Import every take of `folder` into the root, all into one split.

    A root may be filled by several imports. Raises DataError for a folder without takes; a take
    that cannot be read as described above is a failed unit, the others are imported.
    """
    todo, refused = units(root, folder)
    claim_units(root, STAGE, (unit.name for unit in todo))
    summary = run_stage(
        root,
        STAGE,
        todo,
        partial(work, root=root, folder=folder, split=split, scenario=scenario),
        settings={"split": str(split), "scenario": scenario, "folder": str(folder.resolve())},
        options=run,
    )
    with shared_files_lock(root.status_dir(STAGE)):
        _write_lists(root)
        write_exclusions(root, STAGE, SHARED_UNIT, _shared_notes(folder))
    failed = [
        UnitResult(unit=name, status="failed", error=reason, seconds=0)
        for name, reason in refused.items()
    ]
    return replace(summary, failed=(*summary.failed, *failed))


def units(root: DatasetRoot, folder: Path) -> tuple[list[Unit], dict[str, str]]:
    """One unit per folder, its inputs are all files in it; and folders that cannot be takes.

    Raises SettingsError where no folder can be one.
    """
    takes = [path for path in list_folder(folder) if path.is_dir()]
    if not takes:
        raise DataError(
            f"{folder} holds no takes; it must look like {folder.name}/<take>/<ego, exo>/"
            "<frame>.jpg, see docs/import.md"
        )
    shared = tuple(path for path in list_folder(folder) if path.is_file())
    foreign = {path.stem for path in root.table("takes").glob("*.parquet")}
    foreign -= claimed_units(root, STAGE)
    found, refused = [], {}
    for take in takes:
        name = plain_name(take.name)
        if not re.fullmatch(NAME, name):
            refused[name] = f"{name!r} cannot be a take's name; use letters, digits, - and _ only"
            continue
        if name in foreign:
            raise SettingsError(f"{root.path} has a take {name} that was not imported")
        inputs = tuple(sorted(path for path in take.rglob("*") if path.is_file()))
        outputs = tuple(root.part(table, name) for table in ("takes", "masks"))
        found.append(Unit((name,), (*shared, *inputs), outputs, _names(folder, take)))
    if not found:
        raise SettingsError(next(iter(refused.values())))
    return found, refused


def _names(folder: Path, take: Path) -> str:
    """Hash of what lies in a take and beside the takes: a name says which object a mask is."""
    names = [path.name for path in list_folder(folder) if path.is_file()]
    names += sorted(str(path.relative_to(take)) for path in take.rglob("*"))
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()[:16]


def work(
    unit: Unit, *, root: DatasetRoot, folder: Path, split: Split, scenario: str
) -> dict[str, int]:
    """Import one take; returns counts of frames and masks."""
    take = _read_take(unit.key[0], folder)
    try:
        _keep_frames(root, take)
        rows = mask_rows(take.take_uid, take.masks, take.sizes, take.leave_out)
        if not any(row["visible"] for row in rows):
            raise DataError(_without_masks(take, folder))
    except DataError:
        if not root.part("takes", take.take_uid).exists():  # leave no half of a take behind
            shutil.rmtree(root.processed / take.take_uid, ignore_errors=True)
        raise
    _write_take(root, take, rows, split=split, scenario=scenario)
    visible = sum(row["visible"] for row in rows)
    counts = {"frames": len(take.sizes), "masks": visible, "absent": len(rows) - visible}
    return counts | ({"noted": len(take.left_out)} if take.left_out else {})


def _read_take(take_uid: str, folder: Path) -> _TakeFolder:
    place = next(path for path in list_folder(folder) if plain_name(path.name) == take_uid)
    notes: list[str] = []
    cameras = find_cameras(place, read_views(folder, place), notes)
    shared = read_annotation_files(annotation_files(folder))
    own = read_annotation_files(annotation_files(place))
    take = _TakeFolder(take_uid, cameras, {})
    for reason in [*notes, *own.notes]:
        take.leave_out(reason)
    for path in list_folder(place):
        if path.is_file() and path.suffix.lower() != ".json":
            take.leave_out(not_read(path))
    for camera in cameras:
        files = annotation_files(camera.folder, camera.pictures.values())
        beside = read_annotation_files(files)
        masks = read_camera_masks(camera, [shared, own, beside])
        take.masks[camera.name] = masks
        for reason in [*beside.notes, *masks.notes]:
            take.leave_out(reason, camera.name)
        for frame_idx, picture in masks.frames.items():
            for name, reason in picture.notes:
                take.leave_out(reason, camera.name, name, frame_idx)
    return take


def _keep_frames(root: DatasetRoot, take: _TakeFolder) -> None:
    """Write the frames; a picture that cannot be read is left out with its masks."""
    for camera in take.cameras:
        for frame_idx, path in camera.pictures.items():
            try:
                sides = _keep_frame(root, take.take_uid, camera.name, frame_idx, path)
                take.sizes[camera.name, frame_idx] = sides
            except DataError as error:
                take.leave_out(str(error), camera.name, None, frame_idx)
                take.masks[camera.name].frames.pop(frame_idx, None)
        if not any(name == camera.name for name, _ in take.sizes):
            raise DataError(f"no picture of {camera.folder} can be read: {_first_reasons(take)}")


def _keep_frame(
    root: DatasetRoot, take_uid: str, camera: str, frame_idx: int, path: Path
) -> tuple[int, int, int, int]:
    """Write one frame; returns its height and width, and those of the picture."""
    picture = read_picture(path)
    height, width = picture.shape[:2]
    scale = min(1.0, LONG_SIDE[view_of(camera)] / max(height, width))
    kept = max(1, round(height * scale)), max(1, round(width * scale))
    if scale < 1:
        picture = cv2.resize(picture, kept[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
    write_atomic(root.frame(take_uid, camera, frame_idx), data.tobytes())
    return (*kept, height, width)


def _without_masks(take: _TakeFolder, folder: Path) -> str:
    if take.left_out:
        return f"{folder / take.take_uid} has no masks that can be used: {_first_reasons(take)}"
    return f"{folder / take.take_uid} has no masks; docs/import.md shows where they go"


def _first_reasons(take: _TakeFolder) -> str:
    more = f"; and {len(take.left_out) - 3} more" if len(take.left_out) > 3 else ""
    return "; ".join(row["reason"] for row in take.left_out[:3]) + more


def _shared_notes(folder: Path) -> list[dict[str, Any]]:
    """Rows of exclusions about what lies beside the takes."""
    found = read_annotation_files(annotation_files(folder))
    others = [
        not_read(path)
        for path in list_folder(folder)
        if path.is_file() and path.suffix.lower() != ".json"
    ]
    return [{"reason": reason} for reason in [*found.notes, *others]]


def _write_take(
    root: DatasetRoot, take: _TakeFolder, rows: list[dict[str, Any]], *, split: Split, scenario: str
) -> None:
    take_uid = take.take_uid
    _write_frames(root, take)
    frame_idxs = sorted({idx for _, idx in take.sizes})
    benchmark.write_annotation(
        root.annotation_json(take_uid), rows, frame_idxs, extra={"scenario": scenario}
    )
    write_manifest(root, "masks", take_uid, rows)
    write_exclusions(root, STAGE, take_uid, take.left_out)
    ego, *exo = [camera.name for camera in take.cameras]
    row = {
        "take_uid": take_uid,
        "take_name": take_uid,
        "scenario": scenario,
        "university": None,
        "split": str(split),
        "ego_camera": ego,
        "exo_cameras": exo,
        "duration_seconds": (frame_idxs[-1] + 1) / FPS,
        "frames_annotated": len({row["frame_idx"] for row in rows}),
    }
    write_manifest(root, "takes", take_uid, [row])


def _write_frames(root: DatasetRoot, take: _TakeFolder) -> None:
    names = ("height", "width", "source_height", "source_width")
    for camera in take.cameras:
        rows = [
            {
                "take_uid": take.take_uid,
                "camera": camera.name,
                "frame_idx": idx,
                "view": str(view_of(camera.name)),
                "path": root.relative(root.frame(take.take_uid, camera.name, idx)),
                **dict(zip(names, take.sizes[camera.name, idx], strict=True)),
            }
            for idx in sorted(camera.pictures)
            if (camera.name, idx) in take.sizes
        ]
        write_manifest(root, "frames", f"{take.take_uid}.{camera.name}", rows)


def _write_lists(root: DatasetRoot) -> None:
    """takes.json and split.json of all takes of the root."""
    if not any(root.table("takes").glob("*.parquet")):
        return
    takes = read_manifest(root, "takes").to_pylist()
    splits = {
        str(split): [take["take_uid"] for take in takes if take["split"] == split]
        for split in Split
    }
    benchmark.write_splits(root.split_json, splits)
    entries = [
        {
            "take_uid": take["take_uid"],
            "take_name": take["take_name"],
            "root_dir": f"takes/{take['take_name']}",
            "parent_task_name": take["scenario"],
            "duration_sec": take["duration_seconds"],
        }
        for take in takes
    ]
    write_atomic(root.takes_json, json.dumps(entries, indent=1) + "\n")
