"""Write a release of any size for bench_data.py: annotations as shipped, without videos."""

import json
from typing import Any

import cv2
import numpy as np
from lzstring import LZString
from tqdm import tqdm

from egoexo_tools.layout import Release
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.vocab import Split

CAMERAS = {"aria01_214-1": (1408, 1408), "cam01": (2160, 3840)}
OBJECTS, FRAMES, DISTINCT_MASKS, CLICKS = 4, 173, 60, 13


def write_release(release: Release, size: int) -> None:
    """Write takes.json and a relations_train.json of at least `size` bytes.

    Objects have wavy outlines. As in the real files, run lengths have some 500 characters, and a
    mask with the annotator's clicks takes 1.15 KB. Each camera has 60 distinct masks, which repeat:
    the lzstring package packs only a few hundred masks per second.
    """
    path = release.relations_json(Split.TRAIN)
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    masks = {
        camera: [_mask(rng, hw) for _ in range(DISTINCT_MASKS)] for camera, hw in CAMERAS.items()
    }
    entries: list[dict[str, Any]] = []
    with path.open("w") as file, tqdm(total=size, unit="B", unit_scale=True) as bar:
        file.write('{"annotations": {')
        while file.tell() < size:
            number = len(entries)
            take_uid = f"{number:08}-bench"
            take = json.dumps(_take(number, masks))
            bar.update(file.write(f"{', ' if number else ''}{json.dumps(take_uid)}: {take}"))
            entries.append(
                {
                    "take_uid": take_uid,
                    "take_name": f"take {number}",
                    "university_id": "bench",
                    "parent_task_name": "Cooking",
                    "duration_sec": float(FRAMES),
                    "is_dropped": False,
                    "frame_aligned_videos": {},
                }
            )
        file.write("}}")
    release.takes_json.write_text(json.dumps(entries))


def _mask(rng: np.random.Generator, hw: tuple[int, int]) -> dict[str, Any]:
    """One mask as relations ship it."""
    height, width = hw
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    waves = np.arange(2, 8)[:, None]
    radius = height / 16 + height / 200 * np.sin(waves * angles + rng.uniform(0, 6, (6, 1))).sum(0)
    center = rng.uniform(0.3, 0.7, 2) * (width, height)
    outline = center + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    mask = cv2.fillPoly(np.zeros(hw, np.uint8), [outline.round().astype(np.int32)], 1)
    return {
        "width": width,
        "height": height,
        "encodedMask": LZString.compressToEncodedURIComponent(MaskRle.encode(mask).counts),
        "intSegClicks": [
            {"x": round(x, 4), "y": round(y, 4), "positive": bool(x > y)}
            for x, y in rng.uniform(0, 1, (CLICKS, 2)).tolist()
        ],
    }


def _take(number: int, masks: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    frames = range(0, 30 * FRAMES, 30)
    objects = {
        f"object {name}_{name}": {
            camera: {
                "annotation": {
                    str(idx): camera_masks[(idx // 30 + number + name) % len(camera_masks)]
                    for idx in frames
                    if (idx // 30 + name) % 8  # in one of eight: annotated and not visible
                },
                "annotated_frames": list(frames),
                "annotation_fps": 1,
                "annotation_metadata": {},
            }
            for camera, camera_masks in masks.items()
        }
        for name in range(OBJECTS)
    }
    return {"scenario": "Cooking", "take_name": f"take {number}", "object_masks": objects}
