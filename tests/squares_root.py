"""A dataset root for LM-EEC's training: one moving square a take, in both views, nine frames.

A train, a val and a test take of the same pictures, so that what is validated was seen. Both views
are kept at 160x160 pixels; masks are of twice that size.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tiny_root import EGO, pairs_by_loop, rle_columns

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import write_manifest
from egoexo_tools.running.pictures import picture_digest
from egoexo_tools.vocab import Direction, view_of

EXO, OBJECT = "cam01", "red cup"
FRAMES = tuple(range(0, 270, 30))
TAKES = {f"{number}" * 8 + "-0000-4000-8000-000000000001": split for number, split in
         enumerate(("train", "val", "test"), start=1)}  # fmt: skip
_KEPT, _FILMED, _SIDE = 160, 320, 56


def make_squares_root(path: Path) -> DatasetRoot:
    """takes, masks, frames and pairs manifests, and the JPEGs."""
    root = DatasetRoot(path)
    for take_uid, split in TAKES.items():
        masks = [_mask_row(take_uid, cam, idx) for cam in (EGO, EXO) for idx in FRAMES]
        write_manifest(root, "takes", take_uid, [_take(take_uid, split)])
        write_manifest(root, "masks", take_uid, masks)
        for camera in (EGO, EXO):
            frames = [_frame_row(root, take_uid, camera, idx) for idx in FRAMES]
            write_manifest(root, "frames", f"{take_uid}.{camera}", frames)
        for direction in Direction:
            pairs = pairs_by_loop(masks, direction, split)
            write_manifest(root, "pairs", f"{split}.{direction}", pairs)
    return root


def _corner(camera: str, frame_idx: int) -> tuple[int, int]:
    """y, x of the square on the kept frame."""
    step = FRAMES.index(frame_idx)
    return (30 + 4 * step, 20 + 6 * step) if camera == EGO else (80 - 4 * step, 90 - 6 * step)


def _draw_mask(camera: str, frame_idx: int, size: int) -> np.ndarray:
    scale = size // _KEPT
    y, x, side = (value * scale for value in (*_corner(camera, frame_idx), _SIDE))
    mask = np.zeros((size, size), np.uint8)
    mask[y : y + side, x : x + side] = 1
    return mask


def _take(take_uid: str, split: str) -> dict[str, Any]:
    return {
        "take_uid": take_uid,
        "take_name": f"squares_{split}",
        "scenario": "Squares",
        "university": "iiith",
        "split": split,
        "ego_camera": EGO,
        "exo_cameras": [EXO],
        "duration_seconds": 9.0,
        "frames_annotated": len(FRAMES),
    }


def _mask_row(take_uid: str, camera: str, frame_idx: int) -> dict[str, Any]:
    return {
        **_key(take_uid, camera, frame_idx),
        "object_name": OBJECT,
        "visible": True,
        **rle_columns(_draw_mask(camera, frame_idx, _FILMED)),
    }


def _frame_row(root: DatasetRoot, take_uid: str, camera: str, frame_idx: int) -> dict[str, Any]:
    picture = np.full((_KEPT, _KEPT, 3), 90, np.uint8)
    picture[_draw_mask(camera, frame_idx, _KEPT) > 0] = (220, 40, 40)
    path = root.frame(take_uid, camera, frame_idx)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    sizes = {"height": _KEPT, "width": _KEPT, "source_height": _FILMED, "source_width": _FILMED}
    digest = picture_digest(path.read_bytes())
    key = _key(take_uid, camera, frame_idx)
    return {**key, "path": root.relative(path), **sizes, "digest": digest}


def _key(take_uid: str, camera: str, frame_idx: int) -> dict[str, Any]:
    view = str(view_of(camera))
    return {"take_uid": take_uid, "camera": camera, "frame_idx": frame_idx, "view": view}
