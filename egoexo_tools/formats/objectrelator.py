"""The frame lists that ObjectRelator's and V2-SAM's code reads.

```
<out>/<direction>_<split>_visual.json
<out>/<take_uid>/<camera>/<frame>.jpg
```

A sample is a destination frame and the source frame of the same moment: `image` (paths are relative
to `<out>`), `image_info` {file_name, height, width}, `anns`, `first_frame_image`,
`first_frame_anns` (the same objects in the same order), `new_img_id` (from 0), `video_name`. An
annotation is {segmentation: {size, counts}, area, category_id}; a category is the object's position
among the take's sorted names, from 1. Masks are at half (ego) and a quarter (exo) of the annotated
size. Their code supports one exo camera per take: the one that shares most objects with the ego
camera. Objects that are not visible in both frames are left out of a sample.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from egoexo_tools.aliases import Row
from egoexo_tools.formats.source import (
    ExportResult,
    FrameRows,
    Take,
    exclusion,
    link_or_copy,
    list_takes,
    mask_at_size,
    parts_by_split,
    read_frames,
    read_masks,
)
from egoexo_tools.layout import DatasetRoot, atomic_path, path_component
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.running.records import Unit
from egoexo_tools.vocab import Direction, Split, View, view_of

SCALE = {View.EGO: 2, View.EXO: 4}
"""How many times smaller than the annotated masks the frames are, fixed in that code."""


def units(root: DatasetRoot, out: Path) -> list[Unit]:
    """One unit per split and direction, because samples are numbered through it."""
    return [
        Unit(("list", split, direction), parts, (_list_file(out, split, direction),))
        for split, parts in parts_by_split(root).items()
        for direction in Direction
    ]


def work(unit: Unit, root: DatasetRoot, out: Path) -> ExportResult:
    split, direction = Split(unit.key[1]), Direction(unit.key[2])
    excluded: list[Row] = []
    count = 0
    with atomic_path(_list_file(out, split, direction)) as partial, partial.open("w") as file:
        file.write("[")
        for take in list_takes(root):
            if take.split != split:
                continue
            for sample in _samples(root, out, take, direction, excluded):
                file.write(",\n" if count else "\n")
                file.write(json.dumps({**sample, "new_img_id": count}, ensure_ascii=False))
                count += 1
        file.write("\n]\n")
    return {"samples": count}, excluded


def finish(root: DatasetRoot, out: Path) -> None:
    """No file covers several splits."""


def best_exo(masks: list[Row]) -> str | None:
    """The exo camera that shares most objects with the ego camera; the first by name at a tie."""
    in_ego = {row["object_name"] for row in masks if row["view"] == View.EGO and row["visible"]}
    shared: dict[str, set[str]] = {}
    for row in masks:
        if row["view"] == View.EXO and row["visible"] and row["object_name"] in in_ego:
            shared.setdefault(row["camera"], set()).add(row["object_name"])
    return max(sorted(shared), key=lambda camera: len(shared[camera]), default=None)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key that compares digits as numbers, as that code does: `lid_9` before `lid_10`."""
    return [(int(digits or -1), text) for text, digits in re.findall(r"([^0-9]+)|([0-9]+)", name)]


def _list_file(out: Path, split: str, direction: str) -> Path:
    return out / f"{path_component(direction)}_{path_component(split)}_visual.json"


def _samples(
    root: DatasetRoot, out: Path, take: Take, direction: Direction, excluded: list[Row]
) -> Iterator[Row]:
    masks, frames = read_masks(root, take.take_uid), read_frames(root, take)
    exo = best_exo(masks)
    # ingest keeps one ego camera per take.
    ego = next((camera for camera in take.cameras if view_of(camera) is View.EGO), None)
    if exo is None or ego is None:
        excluded.append(exclusion({"take_uid": take.take_uid}, "no object is in both views"))
        return
    for camera in take.cameras:
        if camera not in {ego, exo}:
            row: Row = {"take_uid": take.take_uid, "camera": camera}
            excluded.append(exclusion(row, f"that code reads one exo camera per take: {exo}"))
    cameras = (ego, exo) if direction is Direction.EGO2EXO else (exo, ego)
    names = sorted({row["object_name"] for row in masks}, key=natural_key)
    categories = {name: number for number, name in enumerate(names, start=1)}
    visible = _scaled_masks(masks, frames, excluded)
    for frame_idx in sorted({idx for camera, idx in visible if camera == cameras[0]}):
        views = [visible.get((camera, frame_idx), {}) for camera in cameras]
        # By sorted name: both lists of annotations must have the same objects in the same order.
        shared = [name for name in names if name in views[0] and name in views[1]]
        if not shared:
            row = {"take_uid": take.take_uid, "camera": cameras[1], "frame_idx": frame_idx}
            excluded.append(exclusion(row, "no object of the source frame is visible in it"))
            continue
        paths = []
        for camera in cameras:
            folder = f"{path_component(take.take_uid)}/{path_component(camera)}"
            paths.append(f"{folder}/{frame_idx}.jpg")
            link_or_copy(root.path / frames[camera, frame_idx]["path"], out / paths[-1])
        anns = [
            [
                {
                    "segmentation": view[name].to_json(),
                    # Floats, as their own script writes them.
                    "area": float(view[name].area()),
                    "category_id": float(categories[name]),
                }
                for name in shared
            ]
            for view in views
        ]
        first = views[1][shared[0]]
        yield {
            "image": paths[1],
            "image_info": {"file_name": paths[1], "height": first.height, "width": first.width},
            "anns": anns[1],
            "first_frame_image": paths[0],
            "first_frame_anns": anns[0],
            "video_name": take.take_uid,
        }


def _scaled_masks(
    masks: list[Row], frames: FrameRows, excluded: list[Row]
) -> dict[tuple[str, int], dict[str, MaskRle]]:
    """(camera, frame_idx) → object → its visible mask, at the size that their code computes."""
    visible: dict[tuple[str, int], dict[str, MaskRle]] = {}
    for row in masks:
        key = (row["camera"], row["frame_idx"])
        if not row["visible"]:
            continue
        if key not in frames:
            excluded.append(exclusion(row, "its frame was not extracted"))
            continue
        scale = SCALE[view_of(row["camera"])]
        height, width = row["rle_height"] // scale, row["rle_width"] // scale
        rle = mask_at_size(row, height, width) if height and width else None
        if rle is None or not rle.area():
            excluded.append(exclusion(row, f"its mask is empty at 1/{scale} of its size"))
            continue
        visible.setdefault(key, {})[row["object_name"]] = rle
    return visible
