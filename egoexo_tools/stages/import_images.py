"""Stage `import`: somebody's own pictures and masks → a root on which every later command works.

Reads `<folder>/<take>/<ego|exo camera>/<frame>.jpg`, one folder a take, one folder in it a camera
(docs/import.md shows an example). Masks may come as

- `<frame>/<object>.png` beside the picture: a PNG for each object, everything but 0 is the object;
- `<frame>.json` beside the picture: a list of `{"object_name", "segmentation": {size, counts}}`,
  as SAM writes them with a name added (or `{"annotations": [...]}` around the list);
- any other .json in the folder, a take's or a camera's: COCO, RLE or polygons, where the category
  is the object's name and `file_name` is relative to the JSON.

An object has one name in both views. A picture with any mask, or that an annotation file names,
counts as looked at: objects of the take without a mask in it are recorded as absent there.
Pictures of one name in two cameras show one instant. Writes frames (JPEG 95, the longer side cut
to LONG_SIDE), the takes, frames and masks manifests, annotation.json, and at the end takes.json
and split.json.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.formats import benchmark
from egoexo_tools.layout import DatasetRoot, write_atomic
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.running.stage import RunOptions, StageSummary, Unit, run_stage
from egoexo_tools.stages.import_masks import PictureMasks, read_camera_masks
from egoexo_tools.vocab import Split, View, view_of

STAGE = "import"
PICTURES = (".jpg", ".jpeg", ".png")
LONG_SIDE: Mapping[View, int] = {View.EGO: 704, View.EXO: 960}
"""Pixels of a kept frame's longer side: those of the benchmark's own frames."""
ASPECT_TOLERANCE = 0.01
FPS = 30


@dataclass(frozen=True)
class Camera:
    """A camera's folder: its name in the root, and its pictures by frame."""

    name: str
    pictures: Mapping[int, Path]


def run_import_images(
    root: DatasetRoot,
    folder: Path,
    *,
    split: Split = Split.TEST,
    scenario: str = "imported",
    run: RunOptions = RunOptions(),
) -> StageSummary:
    """Import every take of `folder` into the root, all into one split.

    A root may be filled by several imports. Raises DataError for a folder without takes, or with
    one that cannot be read as described above (as a failed unit, the others are imported).
    """
    todo = units(root, folder)
    summary = run_stage(
        root,
        STAGE,
        todo,
        partial(work, root=root, folder=folder, split=split, scenario=scenario),
        settings={"split": str(split), "scenario": scenario, "folder": str(folder.resolve())},
        options=run,
    )
    _write_lists(root)
    return summary


def units(root: DatasetRoot, folder: Path) -> list[Unit]:
    """One unit per folder; its inputs are all files in it."""
    takes = sorted(path for path in _entries(folder) if path.is_dir())
    if not takes:
        raise DataError(
            f"{folder} holds no takes; it must look like {folder.name}/<take>/<ego, exo>/"
            "<frame>.jpg, see docs/import.md"
        )
    shared = tuple(sorted(folder.glob("*.json")))
    foreign = {path.stem for path in root.table("takes").glob("*.parquet")}
    foreign -= {path.stem for path in root.status_dir(STAGE).glob("*.json")}
    found = []
    for take in takes:
        if not re.fullmatch(r"[\w-]+", take.name):
            raise SettingsError(
                f"{take.name!r} cannot be a take's name; use letters, digits, - and _ only"
            )
        if take.name in foreign:
            raise SettingsError(f"{root.path} has a take {take.name} that was not imported")
        inputs = tuple(sorted(path for path in take.rglob("*") if path.is_file()))
        outputs = tuple(root.part(table, take.name) for table in ("takes", "masks"))
        found.append(Unit((take.name,), (*shared, *inputs), outputs))
    return found


def work(
    unit: Unit, *, root: DatasetRoot, folder: Path, split: Split, scenario: str
) -> dict[str, int]:
    """Import one take; returns counts of frames and masks."""
    take_uid = unit.key[0]
    take = folder / take_uid
    cameras = find_cameras(take)
    masks = {camera.name: read_camera_masks([folder, take], camera.pictures) for camera in cameras}
    names = sorted({name for frames in masks.values() for one in frames.values() for name in one})
    if not names:
        raise DataError(f"{take} has no masks; docs/import.md shows where they go")
    mask_rows = [
        row
        for name in names
        for camera in cameras
        for row in _track(take_uid, name, camera, masks[camera.name])
    ]
    try:
        sizes = {
            (cam.name, idx): _keep_frame(root, take_uid, cam, idx, masks[cam.name].get(idx, {}))
            for cam in cameras
            for idx in cam.pictures
        }
    except DataError:
        if not root.part("takes", take_uid).exists():  # leave no half of a take behind
            shutil.rmtree(root.processed / take_uid, ignore_errors=True)
        raise
    _write_frames(root, take_uid, cameras, sizes)
    frame_idxs = sorted({idx for camera in cameras for idx in camera.pictures})
    benchmark.write_annotation(
        root.annotation_json(take_uid), mask_rows, frame_idxs, extra={"scenario": scenario}
    )
    write_manifest(root, "masks", take_uid, mask_rows)
    ego, *exo = [camera.name for camera in cameras]
    row = {
        "take_uid": take_uid,
        "take_name": take_uid,
        "scenario": scenario,
        "university": None,
        "split": str(split),
        "ego_camera": ego,
        "exo_cameras": exo,
        "duration_seconds": (frame_idxs[-1] + 1) / FPS,
        "frames_annotated": len({row["frame_idx"] for row in mask_rows}),
    }
    write_manifest(root, "takes", take_uid, [row])
    visible = sum(row["visible"] for row in mask_rows)
    return {"frames": len(sizes), "masks": visible, "absent": len(mask_rows) - visible}


def find_cameras(take: Path) -> list[Camera]:
    """The cameras of a take, the ego one first; DataError unless there is one ego and an exo.

    A folder called `ego`, or whose name contains `aria`, is the ego camera.
    """
    folders = sorted(path for path in _entries(take) if path.is_dir())
    pictures = {path: _pictures(path) for path in folders}
    pictures = {path: found for path, found in pictures.items() if found}
    names = {path: _camera_name(path.name) for path in pictures}
    ego = [path for path, name in names.items() if view_of(name) is View.EGO]
    if len(ego) != 1 or len(names) < 2:
        listed = ", ".join(path.name for path in pictures) or "none"
        raise DataError(
            f"{take} must hold one folder `ego` and at least one other with pictures; "
            f"it has {listed}"
        )
    idxs = _frame_idxs({stem for found in pictures.values() for stem in found})
    return [
        Camera(names[path], {idxs[stem]: file for stem, file in sorted(pictures[path].items())})
        for path in sorted(pictures, key=lambda path: (path not in ego, path.name))
    ]


def _camera_name(folder: str) -> str:
    name = f"aria_{folder}" if folder.lower().startswith("ego") else folder
    if not re.fullmatch(r"[\w-]+", name):
        raise DataError(f"{folder!r} cannot be a camera's name; use letters, digits, - and _ only")
    return name


def _entries(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith((".", "__"))]
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error})") from error


def _pictures(folder: Path) -> dict[str, Path]:
    """Stem → picture; DataError where two pictures have one stem."""
    found: dict[str, Path] = {}
    for path in sorted(_entries(folder)):
        if path.suffix.lower() in PICTURES and path.is_file():
            if path.stem in found:
                raise DataError(f"{path} and {found[path.stem].name} have one name; keep one")
            found[path.stem] = path
    return found


def _frame_idxs(stems: set[str]) -> dict[str, int]:
    """Stem → frame_idx: the number if all are numbers, else the place in name order."""
    if all(re.fullmatch(r"[0-9]{1,8}", stem) for stem in stems):
        idxs = {stem: int(stem) for stem in stems}
        if len(set(idxs.values())) < len(idxs):
            raise DataError("two pictures have one number (such as 7 and 007); rename one")
        return idxs
    return {stem: place for place, stem in enumerate(sorted(stems))}


def _track(
    take_uid: str, name: str, camera: Camera, masks: Mapping[int, PictureMasks]
) -> Sequence[dict[str, Any]]:
    """Mask rows of one object in one camera: visible or absent where anyone has looked."""
    rows = []
    for frame_idx, found in sorted(masks.items()):
        rle = found.get(name)
        row: dict[str, Any] = {
            "take_uid": take_uid,
            "object_name": name,
            "camera": camera.name,
            "frame_idx": frame_idx,
            "view": str(view_of(camera.name)),
            "visible": rle is not None,
        }
        if rle is not None:
            row |= {"rle_height": rle.height, "rle_width": rle.width, "rle_counts": rle.counts}
            row |= {"area": rle.area(), "bbox_xywh": [float(side) for side in rle.box_xywh()]}
        rows.append(row)
    return rows


def _keep_frame(
    root: DatasetRoot, take_uid: str, camera: Camera, frame_idx: int, masks: PictureMasks
) -> tuple[int, int, int, int]:
    """Write one frame; returns its height and width, and those of the picture."""
    path = camera.pictures[frame_idx]
    picture = read_picture(path)
    height, width = picture.shape[:2]
    for name, rle in masks.items():
        # Masks drawn on a smaller copy are fine; one of a turned or another picture is not.
        if abs(rle.width * height / (rle.height * width) - 1) > ASPECT_TOLERANCE:
            raise DataError(
                f"the mask of {name!r} has {rle.height}x{rle.width} pixels (height x width), its "
                f"picture {path} is shown at {height}x{width}; it must have the same shape"
            )
    scale = min(1.0, LONG_SIDE[view_of(camera.name)] / max(height, width))
    kept = max(1, round(height * scale)), max(1, round(width * scale))
    if scale < 1:
        picture = cv2.resize(picture, kept[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
    write_atomic(root.frame(take_uid, camera.name, frame_idx), data.tobytes())
    return (*kept, height, width)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture as it is shown (a phone's rotation applied), (H, W, 3) uint8 BGR."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if picture is None:
        raise DataError(f"{path} is not a picture that can be read; use JPEG or PNG")
    return np.asarray(picture, np.uint8)


def _write_frames(
    root: DatasetRoot,
    take_uid: str,
    cameras: Sequence[Camera],
    sizes: Mapping[tuple[str, int], tuple[int, int, int, int]],
) -> None:
    names = ("height", "width", "source_height", "source_width")
    for camera in cameras:
        rows = [
            {
                "take_uid": take_uid,
                "camera": camera.name,
                "frame_idx": idx,
                "view": str(view_of(camera.name)),
                "path": root.relative(root.frame(take_uid, camera.name, idx)),
                **dict(zip(names, sizes[camera.name, idx], strict=True)),
            }
            for idx in sorted(camera.pictures)
        ]
        write_manifest(root, "frames", f"{take_uid}.{camera.name}", rows)


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
