"""Reads the masks of somebody's own pictures: PNG, SAM-style JSON, COCO JSON → MaskRle by name.

Where each lies is told in `import_images`. All of it comes from outside: every error names the
file and says what it should hold.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from pycocotools import mask as coco

from egoexo_tools.errors import DataError
from egoexo_tools.masks.rle import MaskRle

PictureMasks: TypeAlias = dict[str, MaskRle]
"""object_name → mask, of one picture."""

NAME_KEYS = ("object_name", "label", "name", "category")
"""Where a SAM-style entry may hold the object's name."""


def read_camera_masks(
    parents: Sequence[Path], pictures: Mapping[int, Path]
) -> dict[int, PictureMasks]:
    """frame_idx → masks of every picture of a camera that has been annotated.

    COCO files are looked for in `parents` and in the camera's folder. Raises DataError for a
    file that cannot be used, and where one picture has two masks of one object.
    """
    folder = next(iter(pictures.values())).parent
    coco_masks: dict[Path, PictureMasks] = {}
    own = {path.with_suffix(".json") for path in pictures.values()}
    for parent in [*parents, folder]:
        for path in sorted(set(parent.glob("*.json")) - own):
            for picture, masks in read_coco(path).items():
                known = coco_masks.setdefault(picture, {})
                _add(known, masks, path)
    found: dict[int, PictureMasks] = {}
    for frame_idx, picture in pictures.items():
        of_coco = coco_masks.get(picture.resolve())
        sources = [] if of_coco is None else [(of_coco, picture)]
        pngs, sam = picture.with_suffix(""), picture.with_suffix(".json")
        if pngs.is_dir():
            sources.append((read_pngs(pngs), pngs))
        if sam.is_file():
            sources.append((read_sam(sam), sam))
        for masks, path in sources:
            _add(found.setdefault(frame_idx, {}), masks, path)
    return found


def read_pngs(folder: Path) -> PictureMasks:
    """`<object>.png` → the object's mask: every pixel that is not 0 (or not transparent)."""
    masks: PictureMasks = {}
    for path in sorted(folder.glob("*.png")):
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise DataError(f"{path} is not a PNG that can be read")
        image = np.asarray(image)
        if image.ndim == 3:
            # With transparency, what is drawn is what is opaque; its colour may be black.
            image = image[..., 3] if image.shape[2] == 4 else image.max(axis=2)
        _add(masks, {path.stem: MaskRle.encode(image)}, path)
    return masks


def read_sam(path: Path) -> PictureMasks:
    """A list of `{"object_name", "segmentation": {size, counts}}`, or `{"annotations": [...]}`."""
    content = _load(path)
    entries = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path} must hold a list of masks, as SAM writes it")
    masks: PictureMasks = {}
    for number, entry in enumerate(entries):
        name = next((entry[key] for key in NAME_KEYS if isinstance(entry.get(key), str)), None)
        if not name:
            raise DataError(
                f'{path}: mask {number} has no name; add "object_name", the same for the same '
                "object in the other view"
            )
        _add(masks, {name: _rle(entry.get("segmentation"), f"{path}, {name}")}, path)
    return masks


def read_coco(path: Path) -> dict[Path, PictureMasks]:
    """Picture → masks, for every image that a COCO file lists (without annotations: no masks).

    The name of an object is `object_name` where an annotation has it, else its category.
    """
    content = _load(path)
    try:
        categories = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        images = {entry["id"]: entry for entry in content["images"]}
        pictures = {id_: (path.parent / e["file_name"]).resolve() for id_, e in images.items()}
        found: dict[Path, PictureMasks] = {picture: {} for picture in pictures.values()}
        for entry in content["annotations"]:
            name = entry.get("object_name") or categories[entry["category_id"]]
            image = images[entry["image_id"]]
            size = int(image["height"]), int(image["width"])
            rle = _coco_rle(entry["segmentation"], size, f"{path}, {name}")
            _add(found[pictures[entry["image_id"]]], {name: rle}, path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} is not a COCO file: it must hold images, annotations and categories "
            f"({type(error).__name__}: {error}); a SAM-style file is named like its picture"
        ) from error
    return found


def _coco_rle(segmentation: Any, size: tuple[int, int], where: str) -> MaskRle:
    if isinstance(segmentation, dict):
        return _rle(segmentation, where)
    polygons = [[float(value) for value in polygon] for polygon in segmentation]
    if not polygons or any(len(polygon) < 6 for polygon in polygons):
        raise DataError(f"{where}: a polygon needs three points at least")
    merged = coco.merge(coco.frPyObjects(polygons, *size))
    return _rle(merged, where)


def _rle(value: Any, where: str) -> MaskRle:
    if not isinstance(value, dict):
        raise DataError(f"{where}: segmentation must be {{size, counts}}")
    try:
        return MaskRle.from_json(value).validate()
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _add(masks: PictureMasks, more: PictureMasks, path: Path) -> None:
    """Add masks to those of a picture; empty ones say "absent" and are left out."""
    if twice := sorted(set(masks) & set(more)):
        raise DataError(
            f"{path}: {twice[0]!r} has two masks in one picture; an object has one, "
            "give the other a name of its own"
        )
    masks.update({name: rle for name, rle in more.items() if rle.area()})


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error})") from error
