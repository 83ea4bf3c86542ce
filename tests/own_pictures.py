"""Own pictures and masks as people have them, for tests of `import images`."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from egoexo_tools.importing.images import STAGE, run_import_images
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.records import RunOptions, StageSummary
from egoexo_tools.stages.left_out import left_out_text

SMALL = {"height": 48, "width": 64}


def square(y: int, x: int, side: int, *, height: int = 600, width: int = 800) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[y : y + side, x : x + side] = 1
    return mask


SMALL_SQUARE = square(5, 5, 10, **SMALL)


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def save_picture(path: Path, *, height: int = 600, width: int = 800) -> None:
    """A picture of one colour."""
    save(path, np.full((height, width, 3), (10, 200, 90), np.uint8))


def make_take(photos: Path, name: str = "kitchen") -> Path:
    """One instant in two views: a cup in both, a lid in the ego view only; masks as PNG."""
    take = photos / name
    save_picture(take / "ego" / "1.jpg", height=1200, width=900)
    save_picture(take / "phone" / "1.jpg", height=900, width=1600)
    save(take / "ego" / "1" / "cup.png", square(100, 200, 50, height=1200, width=900) * 255)
    save(take / "ego" / "1" / "lid.png", square(500, 300, 9, height=1200, width=900) * 255)
    save(take / "phone" / "1" / "cup.png", square(40, 700, 30, height=900, width=1600) * 255)
    return take


def write_coco(take: Path, segmentations: list[Any], name: str = "pot") -> Path:
    """A COCO file about `ego/1.png`, with one annotation per segmentation."""
    content = {
        "images": [{"id": 1, "file_name": "ego/1.png", **SMALL}],
        "categories": [{"id": 7, "name": name}],
        "annotations": [
            {"image_id": 1, "category_id": 7, "segmentation": segmentation}
            for segmentation in segmentations
        ],
    }
    path = take / "coco.json"
    path.write_text(json.dumps(content))
    return path


def import_pictures(root: DatasetRoot, photos: Path, **options: Any) -> StageSummary:
    run = RunOptions(executor="inline", quiet=True)
    return run_import_images(root, photos, run=run, **options)


def visibility(root: DatasetRoot) -> dict[tuple[str, str, int], bool]:
    """(object, camera, frame_idx) → visible, of every row of the masks manifest."""
    rows = read_manifest(root, "masks").to_pylist()
    return {(row["object_name"], row["camera"], row["frame_idx"]): row["visible"] for row in rows}


def areas(root: DatasetRoot, camera: str = "aria_ego") -> dict[str, int | None]:
    """object → area in pixels, None where it is absent."""
    rows = read_manifest(root, "masks").to_pylist()
    return {row["object_name"]: row["area"] for row in rows if row["camera"] == camera}


def left_out(root: DatasetRoot) -> str:
    return left_out_text(root, STAGE, reasons=99)
