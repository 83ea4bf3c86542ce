"""A dataset root of a few squares, written without any stage: for tests of what reads a root.

Four takes (two train, one val, one test) with an ego camera of 280x280 and exo cameras of
560x896 pixels, kept as 140x140 and 140x224 frames, at frames 0, 30, 60 and 90. In each take:

- `red cup` is visible in both views in every frame; in the first take `cam02` sees it too;
- `green box/lid` is absent in the exo view at frame 30 and in the ego view at frame 60, and the
  exo view was never annotated at frame 90;
- `blue bowl` has no exo camera, so it makes no pairs.

A frame's proposals are, on the kept frame's grid: the mask of every object drawn there, in
object order, then three squares of nothing.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from egoexo_tools.arrays import Bytes
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.running.pictures import picture_digest
from egoexo_tools.vocab import Direction, view_of

EGO = "aria01_214-1"
FRAMES = (0, 30, 60, 90)
TAKES = {
    "11111111-0000-4000-8000-000000000001": ("train", "Cooking Noodles", (EGO, "cam01", "cam02")),
    "22222222-0000-4000-8000-000000000002": ("train", "Covid-19 Rapid Test", (EGO, "cam01")),
    "33333333-0000-4000-8000-000000000003": ("val", "Cooking Noodles", (EGO, "cam01")),
    "44444444-0000-4000-8000-000000000004": ("test", "Covid-19 Rapid Test", (EGO, "cam01")),
}
OBJECTS = ("red cup", "green box/lid", "blue bowl")
DEST_STATES = {True: "visible", False: "absent", None: "unannotated"}
COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


@dataclass(frozen=True)
class _Square:
    """A square on a grid whose height is 140 (the kept frame's), in whole pixels."""

    y: int
    x: int
    side: int


def make_tiny_root(path: Path) -> DatasetRoot:
    """takes, masks, frames (JPEG), proposals and pairs manifests, and the JSON files beside."""
    shutil.copytree(_template().name, path, dirs_exist_ok=True)
    return DatasetRoot(path)


@cache
def _template() -> tempfile.TemporaryDirectory[str]:
    """The root in a folder that is deleted at exit: a copy takes a tenth of the time to make it."""
    folder = tempfile.TemporaryDirectory(prefix="tiny_root")
    _write_root(DatasetRoot(Path(folder.name)))
    return folder


def _write_root(root: DatasetRoot) -> None:
    takes: list[dict[str, Any]] = []
    for number, (take_uid, (split, scenario, cameras)) in enumerate(TAKES.items()):
        takes.append(_take(take_uid, number, split, scenario, cameras))
        masks = [row for obj in OBJECTS for cam in cameras for row in _track(take_uid, obj, cam)]
        write_manifest(root, "takes", take_uid, takes[-1:])
        write_manifest(root, "masks", take_uid, masks)
        _write_annotation(root, take_uid, masks)
        for camera in cameras:
            _write_camera(root, take_uid, camera)
    _write_pairs(root, takes)
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for take in takes:
        splits[take["split"]].append(take["take_uid"])
    root.split_json.write_text(json.dumps(splits))
    root.takes_json.write_text(
        json.dumps([{"take_uid": t["take_uid"], "take_name": t["take_name"]} for t in takes])
    )


def rewrite_digests(root: DatasetRoot, unit: str) -> None:
    """Write a part of the frames manifest as after a change of its pictures."""
    rows = read_manifest(root, "frames", units=[unit]).to_pylist()
    digests = [picture_digest((root.path / row["path"]).read_bytes()) for row in rows]
    rows = [{**row, "digest": digest} for row, digest in zip(rows, digests, strict=True)]
    write_manifest(root, "frames", unit, rows)


def pairs_by_loop(
    masks: list[dict[str, Any]], direction: Direction, split: str
) -> list[dict[str, Any]]:
    """The pairs of one take's mask rows, one by one: the plain twin of the pairs stage."""
    tracks: dict[str, dict[str, dict[int, bool]]] = {}
    for row in masks:
        cameras = tracks.setdefault(row["object_name"], {})
        cameras.setdefault(row["camera"], {})[row["frame_idx"]] = row["visible"]
    pairs = []
    for name, cameras in tracks.items():
        ego = [camera for camera in cameras if view_of(camera) == "ego"]
        for exo in cameras if ego else ():
            if view_of(exo) == "ego":
                continue
            source, dest = (ego[0], exo) if direction is Direction.EGO2EXO else (exo, ego[0])
            for frame_idx, visible in cameras[source].items():
                if not visible:
                    continue
                dest_visible = cameras[dest].get(frame_idx)
                take_uid = masks[0]["take_uid"]
                pairs.append(
                    {
                        "pair_id": f"{take_uid}/{source}>{dest}/{frame_idx}/{name}",
                        "split": split,
                        "direction": str(direction),
                        "take_uid": take_uid,
                        "object_name": name,
                        "frame_idx": frame_idx,
                        "source_camera": source,
                        "dest_camera": dest,
                        "dest_state": DEST_STATES[dest_visible],
                    }
                )
    return pairs


def _take(
    take_uid: str, number: int, split: str, scenario: str, cameras: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "take_uid": take_uid,
        "take_name": f"site{number}_take_{number}",
        "scenario": scenario,
        "university": "uniandes" if number % 2 else "iiith",
        "split": split,
        "ego_camera": EGO,
        "exo_cameras": list(cameras[1:]),
        "duration_seconds": 4.0,
        "frames_annotated": len(FRAMES),
    }


def _states(object_name: str, camera: str, first_take: bool) -> dict[int, bool]:
    """frame_idx → visible, of one track; frames that are not in it were never annotated."""
    ego = camera == EGO
    if object_name == "blue bowl":
        return dict.fromkeys(FRAMES, True) if ego else {}
    if camera == "cam02" and not (object_name == "red cup" and first_take):
        return {}
    if object_name == "red cup":
        return dict.fromkeys(FRAMES, True)
    if ego:
        return {0: True, 30: True, 60: False, 90: True}
    return {0: True, 30: False, 60: True}


def _square(object_name: str, camera: str, frame_idx: int) -> _Square:
    place = OBJECTS.index(object_name)
    step = FRAMES.index(frame_idx)
    return _Square(y=10 + 40 * place, x=8 + 24 * step + (0 if camera == EGO else 40), side=26)


def _draw(square: _Square, height: int, width: int) -> Bytes:
    scale = height // 140
    mask = np.zeros((height, width), np.uint8)
    y, x, side = square.y * scale, square.x * scale, square.side * scale
    mask[y : y + side, x : x + side] = 1
    return mask


def rle_columns(mask: Bytes) -> dict[str, Any]:
    """The RLE columns of a mask, through pycocotools and plain numpy."""
    rows, columns = np.nonzero(mask)
    box = [columns.min(), rows.min(), np.ptp(columns), np.ptp(rows)]
    return {
        "rle_height": mask.shape[0],
        "rle_width": mask.shape[1],
        "rle_counts": coco.encode(np.asfortranarray(mask))["counts"].decode(),
        "area": int(mask.sum()),
        "bbox_xywh": [float(value) for value in box],
    }


def _source_size(camera: str) -> tuple[int, int]:
    return (280, 280) if camera == EGO else (560, 896)


def _kept_size(camera: str) -> tuple[int, int]:
    return (140, 140) if camera == EGO else (140, 224)


def _track(take_uid: str, object_name: str, camera: str) -> list[dict[str, Any]]:
    rows = []
    states = _states(object_name, camera, take_uid.startswith("1"))
    for frame_idx, visible in states.items():
        row = {
            "take_uid": take_uid,
            "object_name": object_name,
            "camera": camera,
            "frame_idx": frame_idx,
            "view": str(view_of(camera)),
            "visible": visible,
        }
        if visible:
            square = _square(object_name, camera, frame_idx)
            row |= rle_columns(_draw(square, *_source_size(camera)))
        rows.append(row)
    return rows


def _write_annotation(root: DatasetRoot, take_uid: str, masks: list[dict[str, Any]]) -> None:
    tree: dict[str, Any] = {}
    for row in masks:
        track = tree.setdefault(row["object_name"], {}).setdefault(row["camera"], {})
        if row["visible"]:
            size = [row["rle_height"], row["rle_width"]]
            track[str(row["frame_idx"])] = {"size": size, "counts": row["rle_counts"]}
    path = root.annotation_json(take_uid)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"masks": tree, "subsample_idx": list(FRAMES)}))


def _write_camera(root: DatasetRoot, take_uid: str, camera: str) -> None:
    """One camera's JPEGs, and its parts of the frames and proposals manifests."""
    height, width = _kept_size(camera)
    frames, proposals = [], []
    for frame_idx in FRAMES:
        picture = np.full((height, width, 3), 120, np.uint8)
        squares = []
        for name, colour in zip(OBJECTS, COLOURS, strict=True):
            states = _states(name, camera, take_uid.startswith("1"))
            if states.get(frame_idx):
                squares.append(_square(name, camera, frame_idx))
                picture[_draw(squares[-1], height, width) > 0] = colour
        path = root.frame(take_uid, camera, frame_idx)
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        source_height, source_width = _source_size(camera)
        key = {"take_uid": take_uid, "camera": camera, "frame_idx": frame_idx}
        frames.append(
            {
                **key,
                "view": str(view_of(camera)),
                "path": root.relative(path),
                "height": height,
                "width": width,
                "source_height": source_height,
                "source_width": source_width,
                "digest": picture_digest(path.read_bytes()),
            }
        )
        nothing = [_Square(2, 2, 6), _Square(130, 60, 8), _Square(70, 130, 5)]
        for idx, square in enumerate(squares + nothing):
            mask = rle_columns(_draw(square, height, width))
            proposals.append(
                {**key, "proposal_idx": idx, "proposer": "squares", "score": 0.5, **mask}
            )
    write_manifest(root, "frames", f"{take_uid}.{camera}", frames)
    write_manifest(root, "proposals", f"{take_uid}.{camera}", proposals)


def _write_pairs(root: DatasetRoot, takes: list[dict[str, Any]]) -> None:
    for split in ("train", "val", "test"):
        for direction in Direction:
            rows = []
            for take in takes:
                if take["split"] == split:
                    masks = read_manifest(root, "masks", units=[take["take_uid"]]).to_pylist()
                    rows += pairs_by_loop(masks, direction, split)
            write_manifest(root, "pairs", f"{split}.{direction}", rows)
