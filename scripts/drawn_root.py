"""The dataset root of bench_model.py and bench_lm_eec.py: drawn frames at the published sizes."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import cv2
import numpy as np

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import write_manifest
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.running.pictures import picture_digest
from egoexo_tools.runs import join_pair_id
from egoexo_tools.vocab import Direction, Split, View, view_of

EGO, EXO = "aria01_214-1", "cam01"
CAMERAS = {EGO: (704, 704), EXO: (540, 960)}
"""Name → (height, width)."""
DISCS = 512
"""Masks of each frame size; the masks and proposals of a frame are drawn from them."""


def draw_root(
    path: Path,
    *,
    takes: int,
    frames: int,
    objects: int,
    proposals: int = 0,
    cameras: Mapping[str, tuple[int, int]] = CAMERAS,
    splits: Sequence[Split] = tuple(Split),
    directions: Sequence[Direction] = (Direction.EGO2EXO,),
) -> DatasetRoot:
    """Write frames of noise with disc-shaped masks, all visible, and the pairs between them.

    The true mask of an object is one of the frame's proposals, if there are any.
    """
    root, rng = DatasetRoot(path), np.random.default_rng(0)
    discs = {hw: [_disc(rng, *hw) for _ in range(DISCS)] for hw in set(cameras.values())}
    for split in splits:
        pairs: dict[Direction, list[dict[str, object]]] = {name: [] for name in directions}
        for number in range(takes):
            take_uid = f"{split}-{number}"
            exo_cameras = [name for name in cameras if view_of(name) is View.EXO]
            take = {"take_uid": take_uid, "split": str(split), "exo_cameras": exo_cameras}
            write_manifest(root, "takes", take_uid, [{**take, "ego_camera": EGO}])
            masks = []
            for camera, hw in cameras.items():
                counts = max(objects, proposals), objects, proposals
                masks += _write_camera(root, take_uid, camera, frames, rng, discs[hw], *counts)
            write_manifest(root, "masks", take_uid, masks)
            for direction, exo in product(directions, exo_cameras):
                ends = (EGO, exo) if direction is Direction.EGO2EXO else (exo, EGO)
                pairs[direction] += _pairs(take_uid, split, direction, ends, frames, objects)
        for direction, rows in pairs.items():
            write_manifest(root, "pairs", f"{split}.{direction}", rows)
    return root


def _write_camera(
    root: DatasetRoot,
    take_uid: str,
    camera: str,
    frames: int,
    rng: np.random.Generator,
    discs: list[dict[str, object]],
    discs_per_frame: int,
    objects: int,
    proposals: int,
) -> list[dict[str, object]]:
    """Write a camera's pictures, frames and proposals; returns its rows of the masks manifest."""
    height, width = int(str(discs[0]["rle_height"])), int(str(discs[0]["rle_width"]))
    frame_rows, proposal_rows, mask_rows = [], [], []
    for frame_idx in range(0, 30 * frames, 30):
        key = {"take_uid": take_uid, "camera": camera, "frame_idx": frame_idx}
        path = root.frame(take_uid, camera, frame_idx)
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        cv2.imwrite(str(path), cv2.resize(noise, (width, height)))
        sizes = {"height": height, "width": width}
        sizes |= {"source_height": 2 * height, "source_width": 2 * width}
        view = {"view": str(view_of(camera))}
        digest = picture_digest(path.read_bytes())
        frame_rows.append({**key, **sizes, **view, "path": root.relative(path), "digest": digest})
        rles = [discs[int(i)] for i in rng.choice(DISCS, discs_per_frame, replace=False)]
        proposal_rows += [{**key, "proposal_idx": i, **rles[i]} for i in range(proposals)]
        mask_rows += [
            {**key, **view, "object_name": f"object {i}", "visible": True, **rles[i]}
            for i in range(objects)
        ]
    write_manifest(root, "frames", f"{take_uid}.{camera}", frame_rows)
    if proposals:
        write_manifest(root, "proposals", f"{take_uid}.{camera}", proposal_rows)
    return mask_rows


def _disc(rng: np.random.Generator, height: int, width: int) -> dict[str, object]:
    """The mask columns of a disc of 20 to 60 pixels radius."""
    mask = np.zeros((height, width), np.uint8)
    centre = (int(rng.integers(60, width - 60)), int(rng.integers(60, height - 60)))
    cv2.circle(mask, centre, int(rng.integers(20, 60)), 1, -1)
    rle = MaskRle.encode(mask)
    columns = {"rle_height": height, "rle_width": width, "rle_counts": rle.counts}
    return {**columns, "area": rle.area(), "bbox_xywh": list(map(float, rle.box_xywh()))}


def _pairs(
    take_uid: str,
    split: Split,
    direction: Direction,
    ends: tuple[str, str],
    frames: int,
    objects: int,
) -> Iterator[dict[str, object]]:
    for frame_idx, number in product(range(0, 30 * frames, 30), range(objects)):
        yield {
            "pair_id": join_pair_id(take_uid, *ends, frame_idx, f"object {number}"),
            "split": str(split),
            "direction": str(direction),
            "take_uid": take_uid,
            "object_name": f"object {number}",
            "frame_idx": frame_idx,
            "source_camera": ends[0],
            "dest_camera": ends[1],
            "dest_state": "visible",
        }
