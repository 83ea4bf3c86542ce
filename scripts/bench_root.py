"""The dataset root of bench_model.py: frames of noise with discs, at published sizes."""

import argparse
from pathlib import Path

import cv2
import numpy as np

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import write_manifest
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.runs import join_pair_id
from egoexo_tools.vocab import Direction, Split

EGO, EXO = "aria01_214-1", "cam01"
SIZES = {EGO: (704, 704), EXO: (540, 960)}
DIRECTION = Direction.EGO2EXO
DISCS = 512
"""Different ones of each size; frames draw theirs from them."""


def make_root(path: Path, options: argparse.Namespace) -> DatasetRoot:
    """Frames of noise with discs, at the sizes that a processed dataset has."""
    root, rng = DatasetRoot(path), np.random.default_rng(0)
    discs = {size: [disc_rle(rng, *size) for _ in range(DISCS)] for size in SIZES.values()}
    for split in Split:
        pairs = []
        for number in range(options.takes):
            take_uid = f"{split}-{number}"
            cameras = {"ego_camera": EGO, "exo_cameras": [EXO]}
            takes = {"take_uid": take_uid, "split": str(split), **cameras}
            write_manifest(root, "takes", take_uid, [takes])
            masks = []
            for camera in SIZES:
                masks += write_camera(root, (take_uid, camera), rng, discs[SIZES[camera]], options)
            write_manifest(root, "masks", take_uid, masks)
            pairs += [
                {
                    "pair_id": join_pair_id(take_uid, EGO, EXO, frame_idx, f"object {name}"),
                    "split": str(split),
                    "direction": str(DIRECTION),
                    "take_uid": take_uid,
                    "object_name": f"object {name}",
                    "frame_idx": frame_idx,
                    "source_camera": EGO,
                    "dest_camera": EXO,
                    "dest_state": "visible",
                }
                for frame_idx in range(0, 30 * options.frames, 30)
                for name in range(options.objects)
            ]
        write_manifest(root, "pairs", f"{split}.{DIRECTION}", pairs)
    return root


def write_camera(
    root: DatasetRoot,
    of: tuple[str, str],
    rng: np.random.Generator,
    known: list[dict[str, object]],
    options: argparse.Namespace,
) -> list[dict[str, object]]:
    """Pictures, frames and proposals of a (take, camera); returns its rows of the masks manifest.

    Proposals are drawn from the `known` discs.
    """
    take_uid, camera = of
    height, width = SIZES[camera]
    frames, proposals, masks = [], [], []
    for frame_idx in range(0, 30 * options.frames, 30):
        key = {"take_uid": take_uid, "camera": camera, "frame_idx": frame_idx}
        path = root.frame(take_uid, camera, frame_idx)
        path.parent.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        cv2.imwrite(str(path), cv2.resize(small, (width, height)))
        size = {"height": height, "width": width}
        source = {"source_height": 2 * height, "source_width": 2 * width}
        frames.append({**key, **size, **source, "view": "", "path": root.relative(path)})
        discs = [known[int(i)] for i in rng.choice(len(known), options.proposals, replace=False)]
        proposals += [{**key, "proposal_idx": i, **rle} for i, rle in enumerate(discs)]
        masks += [
            {**key, "object_name": f"object {i}", "visible": True, **discs[i]}
            for i in range(options.objects)
        ]
    write_manifest(root, "frames", f"{take_uid}.{camera}", frames)
    write_manifest(root, "proposals", f"{take_uid}.{camera}", proposals)
    return masks


def disc_rle(rng: np.random.Generator, height: int, width: int) -> dict[str, object]:
    mask = np.zeros((height, width), np.uint8)
    centre = (int(rng.integers(40, width - 40)), int(rng.integers(40, height - 40)))
    cv2.circle(mask, centre, int(rng.integers(8, 60)), 1, -1)
    rle = MaskRle.encode(mask)
    counts = {"rle_height": height, "rle_width": width, "rle_counts": rle.counts}
    return {**counts, "area": rle.area(), "bbox_xywh": list(map(float, rle.box_xywh()))}
