"""Stage `import`: own pictures and masks → a root on which every later command works.

Reads `<folder>/<take>/<ego or exo camera>/<frame>.jpg` (docs/import.md shows an example). Masks may
be given as

- `<frame>/<object>.png` beside the picture: one PNG per object, every pixel but 0 is the object;
- `<frame>.json` beside the picture: a list of `{"object_name", "segmentation": {size, counts}}`,
  as SAM writes them with a name added (or `{"annotations": [...]}` around the list);
- any other .json in the folder, a take's or a camera's: COCO, RLE or polygons, where the category
  is the object's name and `file_name` is relative to the JSON.

`cameras.json` in the folder or a take gives the cameras' views, `{"wrist": "ego", "front": "exo"}`;
without it a camera is ego if its name starts with `ego` or contains `aria`. Pictures with the same
name in two cameras show the same instant, and an object has the same name in both views.

A picture is annotated if it has a mask or an annotation file lists it: the take's other objects are
recorded as absent there. Unusable files and masks are recorded in exclusions and affect nothing
else; an object with an unusable mask is neither visible nor absent there.

Writes frames (JPEG 95, the longer side scaled down to LONG_SIDE), the takes, frames and masks
manifests, annotation.json, and at the end takes.json and split.json.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from egoexo_tools.aliases import Row
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
from egoexo_tools.importing.take_lists import write_take_lists
from egoexo_tools.layout import DatasetRoot, write_atomic
from egoexo_tools.manifests import write_exclusions, write_manifest
from egoexo_tools.parsing.lenient import list_folder, plain_name
from egoexo_tools.parsing.pictures import read_picture
from egoexo_tools.running.claims import claim_units, claimed_units
from egoexo_tools.running.inputs import hash_stamps, hash_texts
from egoexo_tools.running.lock import shared_files_lock
from egoexo_tools.running.owned_files import Ownership, is_of_takes
from egoexo_tools.running.pictures import changed_pictures, picture_digest, remember_pictures
from egoexo_tools.running.records import RunOptions, StageSummary, Unit, UnitResult
from egoexo_tools.running.stage import run_stage
from egoexo_tools.vocab import FPS, Split, View, view_of

STAGE = "import"
SHARED_UNIT = "shared"
"""Exclusions of files that belong to no take."""
LONG_SIDE: Mapping[View, int] = {View.EGO: 704, View.EXO: 960}
"""Longer side of a kept frame in pixels, as in the benchmark's own frames."""


@dataclass
class _TakeFolder:
    """A take during its import."""

    take_uid: str
    cameras: list[CameraFolder]
    """The ego camera first."""
    masks: dict[str, CameraMasks]
    """By camera."""
    sizes: dict[tuple[str, int], tuple[int, int, int, int]] = field(default_factory=dict)
    """(camera, frame_idx) → height and width of the kept frame, then of the picture."""
    digests: dict[tuple[str, int], str] = field(default_factory=dict)
    """(camera, frame_idx) → digest of the kept frame."""
    left_out: list[Row] = field(default_factory=list)
    """Rows of exclusions."""

    def leave_out(self, reason: str, *keys: Any) -> None:
        """`keys`: camera, object_name and frame_idx, as far as they are known."""
        columns = dict(zip(("camera", "object_name", "frame_idx"), keys, strict=False))
        self.left_out.append({"take_uid": self.take_uid, **columns, "reason": reason})

    def first_reasons(self) -> str:
        more = f"; and {len(self.left_out) - 3} more" if len(self.left_out) > 3 else ""
        return "; ".join(row["reason"] for row in self.left_out[:3]) + more

    def write_pictures(self, root: DatasetRoot) -> None:
        """Write the frames and note their sizes; unreadable ones are left out with their masks."""
        for camera in self.cameras:
            for frame_idx, path in camera.pictures.items():
                try:
                    picture = read_picture(path)
                except DataError as error:
                    self.leave_out(str(error), camera.name, None, frame_idx)
                    self.masks[camera.name].frames.pop(frame_idx, None)
                    continue
                height, width = picture.shape[:2]
                # Never enlarged, which would cost time and disk space and add no detail.
                scale = min(1.0, LONG_SIDE[view_of(camera.name)] / max(height, width))
                frame_hw = max(1, round(height * scale)), max(1, round(width * scale))
                if scale < 1:
                    picture = cv2.resize(picture, frame_hw[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
                # Encoded again at full size too, because the rotation in the metadata was applied.
                _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
                write_atomic(root.frame(self.take_uid, camera.name, frame_idx), data.data)
                self.digests[camera.name, frame_idx] = picture_digest(data.data)
                self.sizes[camera.name, frame_idx] = (*frame_hw, height, width)
            if not any(name == camera.name for name, _ in self.sizes):
                raise DataError(
                    f"no picture of {camera.folder} can be read: {self.first_reasons()}"
                )

    def write_manifests(
        self, root: DatasetRoot, masks: list[Row], *, split: Split, scenario: str
    ) -> None:
        """Write annotation.json and the take's parts of the manifests; `takes` comes last."""
        take_uid = self.take_uid
        names = ("height", "width", "source_height", "source_width")
        for camera in self.cameras:
            frames = [
                {
                    "take_uid": take_uid,
                    "camera": camera.name,
                    "frame_idx": idx,
                    "view": str(view_of(camera.name)),
                    "path": root.relative(root.frame(take_uid, camera.name, idx)),
                    **dict(zip(names, self.sizes[camera.name, idx], strict=True)),
                    "digest": self.digests[camera.name, idx],
                }
                for idx in sorted(camera.pictures)
                if (camera.name, idx) in self.sizes
            ]
            unit = f"{take_uid}.{camera.name}"
            write_manifest(root, "frames", unit, frames)
            remember_pictures(root, unit, frames)
        frame_idxs = sorted({idx for _, idx in self.sizes})
        benchmark.write_annotation(
            root.annotation_json(take_uid), masks, frame_idxs, extra={"scenario": scenario}
        )
        write_manifest(root, "masks", take_uid, masks)
        write_exclusions(root, STAGE, take_uid, self.left_out)
        ego, *exo = [camera.name for camera in self.cameras]
        row = {
            "take_uid": take_uid,
            "take_name": take_uid,
            "scenario": scenario,
            "university": None,
            "split": str(split),
            "ego_camera": ego,
            "exo_cameras": exo,
            "duration_seconds": (frame_idxs[-1] + 1) / FPS,
            "frames_annotated": len({row["frame_idx"] for row in masks}),
        }
        write_manifest(root, "takes", take_uid, [row])


def run_import_images(
    root: DatasetRoot,
    folder: Path,
    *,
    split: Split = Split.TEST,
    scenario: str = "imported",
    run: RunOptions = RunOptions(),
) -> StageSummary:
    """Import every take of `folder` into the root, all into one split.

    Several folders may be imported into one root. Raises DataError for a folder without takes. A
    take that does not have the layout above is a failed unit; the others are imported.
    """
    todo, refused = units(root, folder)
    # Before the work: after an interruption, the takes must not pass for another source's.
    claim_units(root, STAGE, (unit.name for unit in todo))
    place = str(folder.resolve())
    present = {unit.name for unit in todo} | {*refused}
    summary = run_stage(
        root,
        STAGE,
        todo,
        partial(work, root=root, folder=folder, split=split, scenario=scenario),
        settings={"split": str(split), "scenario": scenario, "folder": place},
        options=run,
        owned=Ownership(
            root.path,
            lambda status: status.settings.get("folder") == place and status.unit not in present,
        ),
    )
    reasons = read_annotation_files(annotation_files(folder)).notes + _other_files(folder)
    # Shards and other imports into the root write the same files.
    with shared_files_lock(root.status_dir(STAGE)):
        write_take_lists(root)
        write_exclusions(root, STAGE, SHARED_UNIT, [{"reason": reason} for reason in reasons])
    failed = [
        UnitResult(unit=name, status="failed", error=reason, seconds=0)
        for name, reason in refused.items()
    ]
    return replace(summary, failed=(*summary.failed, *failed))


def units(root: DatasetRoot, folder: Path) -> tuple[list[Unit], dict[str, str]]:
    """One unit per take, with all its files as inputs; and folder → why it cannot be a take.

    Files count by name and stamp: a mask file's name is its object, and reading all takes long.

    Raises DataError for a folder without takes, SettingsError where none can be imported.
    """
    takes = [path for path in list_folder(folder) if path.is_dir()]
    if not takes:
        raise DataError(
            f"{folder} holds no takes; it must look like {folder.name}/<take>/<ego, exo>/"
            "<frame>.jpg, see docs/import.md"
        )
    shared = tuple(path for path in list_folder(folder) if path.is_file())
    present = {path.stem for path in root.table("takes").glob("*.parquet")}
    foreign = present - claimed_units(root, STAGE)
    todo, refused = [], {}
    changed = changed_pictures(root)
    for take in takes:
        name = plain_name(take.name)
        if not re.fullmatch(NAME, name):
            refused[name] = f"{name!r} cannot be a take's name; use letters, digits, - and _ only"
            continue
        if name in foreign:
            raise SettingsError(
                f"{root.path} has a take {name} that was not imported from pictures; rename the "
                "folder, or use another root"
            )
        outputs = tuple(root.part(table, name) for table in ("takes", "masks"))
        names = [path.name for path in shared]
        fingerprint = hash_texts([*names, hash_stamps(take)])
        is_incomplete = any(is_of_takes(unit, {name}) for unit in changed)
        todo.append(Unit((name,), shared, outputs, fingerprint, is_incomplete=is_incomplete))
    if not todo:
        raise SettingsError(next(iter(refused.values())))
    return todo, refused


def work(
    unit: Unit, *, root: DatasetRoot, folder: Path, split: Split, scenario: str
) -> dict[str, int]:
    """Import one take; returns counts of frames and masks."""
    take = _read_take(unit.key[0], folder)
    place = folder / take.take_uid
    try:
        take.write_pictures(root)
        rows = mask_rows(take.take_uid, take.masks, take.sizes, take.leave_out)
        if not any(row["visible"] for row in rows):
            raise DataError(
                f"{place} has no usable masks: {take.first_reasons()}"
                if take.left_out
                else f"{place} has no masks; docs/import.md shows where they go"
            )
    except DataError:
        if not root.part("takes", take.take_uid).exists():  # leave no incomplete take behind
            shutil.rmtree(root.processed / take.take_uid, ignore_errors=True)
        raise
    take.write_manifests(root, rows, split=split, scenario=scenario)
    visible = sum(row["visible"] for row in rows)
    counts = {"frames": len(take.sizes), "masks": visible, "absent": len(rows) - visible}
    return counts | ({"noted": len(take.left_out)} if take.left_out else {})


def _read_take(take_uid: str, folder: Path) -> _TakeFolder:
    """The take's cameras and masks; frames are not read yet."""
    # A take_uid is composed (NFC), its folder's name may not be.
    place = next(path for path in list_folder(folder) if plain_name(path.name) == take_uid)
    notes: list[str] = []
    cameras = find_cameras(place, read_views(folder, place), notes)
    of_folder = read_annotation_files(annotation_files(folder))
    of_take = read_annotation_files(annotation_files(place))
    take = _TakeFolder(take_uid, cameras, {})
    for reason in [*notes, *of_take.notes, *_other_files(place)]:
        take.leave_out(reason)
    # COCO files may be in three places; each may be about any picture of the take.
    for camera in cameras:
        files = annotation_files(camera.folder, camera.pictures.values())
        of_camera = read_annotation_files(files)
        masks = read_camera_masks(camera, [of_folder, of_take, of_camera])
        take.masks[camera.name] = masks
        for reason in [*of_camera.notes, *masks.notes]:
            take.leave_out(reason, camera.name)
        for frame_idx, picture in masks.frames.items():
            for name, reason in picture.notes:
                take.leave_out(reason, camera.name, name, frame_idx)
    return take


def _other_files(folder: Path) -> list[str]:
    """Why a folder's files other than JSON are not read."""
    return [
        not_read(path)
        for path in list_folder(folder)
        if path.is_file() and path.suffix.lower() != ".json"
    ]
