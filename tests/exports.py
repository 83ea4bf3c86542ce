"""Helpers for tests of exports."""

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from pycocotools import mask as coco_mask

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.running.pictures import picture_digest
from egoexo_tools.running.records import RunOptions
from egoexo_tools.stages.export import run_export
from egoexo_tools.vocab import view_of

RUN = RunOptions(executor="inline", quiet=True)


def export(root: DatasetRoot, format_name: str) -> Path:
    """Export a root to a folder next to it; returns the folder."""
    out = root.path.parent / format_name
    run_export(root, format_name, out, run=RUN).check()
    return out


def read_table(root: DatasetRoot, name: str) -> pd.DataFrame:
    return read_manifest(root, name).to_pandas()


def read_image(path: Path) -> tuple[str, np.ndarray]:
    """The mode of an image and its values, (H, W) or (H, W, 3)."""
    with Image.open(path) as image:
        return image.mode, np.array(image)


def read_left_out(out: Path) -> list[dict[str, str]]:
    """The rows of an export's left_out.csv."""
    with (out / "left_out.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def decode_row(row: Any) -> np.ndarray:
    """The mask of a manifest row, (H, W) uint8."""
    size = [int(row.rle_height), int(row.rle_width)]
    return coco_mask.decode({"size": size, "counts": row.rle_counts})


def drop_frame(root: DatasetRoot, take_uid: str, camera: str, frame_idx: int) -> None:
    """Remove a frame from the manifest, as if the video had ended before it."""
    frames = read_manifest(root, "frames", units=[f"{take_uid}.{camera}"]).to_pandas()
    write_manifest(root, "frames", f"{take_uid}.{camera}", frames[frames["frame_idx"] != frame_idx])


def make_benchmark_root(path: Path) -> DatasetRoot:
    """A val take with the benchmark's frame sizes, and a camera with another size."""
    root = DatasetRoot(path)
    rows, names = [], {"aria01_214-1": (704, 704, 2), "cam01": (540, 960, 4), "cam02": (90, 70, 4)}
    for camera, (height, width, scale) in names.items():
        mask = np.zeros((height * scale, width * scale), np.uint8)
        mask[40:200, 60:220] = 1
        frames = []
        for idx in (0, 30):
            save = root.frame("t", camera, idx)
            save.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(save), np.zeros((height, width, 3), np.uint8))
            frames.append({
                "take_uid": "t", "camera": camera, "frame_idx": idx, "view": view_of(camera),
                "path": root.relative(save), "height": height, "width": width,
                "source_height": height * scale, "source_width": width * scale,
                "digest": picture_digest(save.read_bytes()),
            })  # fmt: skip
            rle = MaskRle.encode(mask)
            for name in ("cup", "lid 10", "lid 9"):
                if (name, camera, idx) != ("lid 9", "cam01", 30) and (name, camera) != (
                    "lid 10", "cam02"):  # fmt: skip
                    rows.append({
                        "take_uid": "t", "object_name": name, "camera": camera, "frame_idx": idx,
                        "view": view_of(camera), "visible": True, "rle_height": rle.height,
                        "rle_width": rle.width, "rle_counts": rle.counts, "area": rle.area(),
                        "bbox_xywh": list(rle.box_xywh()),
                    })  # fmt: skip
        write_manifest(root, "frames", f"t.{camera}", frames)
    write_manifest(root, "masks", "t", rows)
    take = {"take_uid": "t", "take_name": "t", "split": "val", "ego_camera": "aria01_214-1",
            "exo_cameras": ["cam01", "cam02"], "frames_annotated": 2}  # fmt: skip
    write_manifest(root, "takes", "t", [take])
    return root
