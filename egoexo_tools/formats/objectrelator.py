"""The frame lists that ObjectRelator's and V2-SAM's code reads.

```
<out>/<direction>_<split>_visual.json
<out>/<take_uid>/<camera>/<frame>.jpg
```

A sample is a destination frame and the source frame of the same moment: `image` (paths are
relative to `<out>`), `image_info` {file_name, height, width}, `anns`, `first_frame_image`,
`first_frame_anns` (of the same objects, in the same order), `new_img_id` (from 0), `video_name`.
An annotation is {segmentation: {size, counts}, area, category_id}; a category is the object's place
among the take's sorted names, from 1. Masks are at half (ego) and a quarter (exo) of the annotated
size. Their code knows one exo camera a take: the one that shares most objects with the ego camera,
here too. Objects that are not visible in both frames are no part of a sample.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from egoexo_tools.aliases import Row
from egoexo_tools.formats.source import (
    Done,
    Take,
    left_out,
    link_or_copy,
    list_takes,
    read_frames,
    read_masks,
    rle_at,
)
from egoexo_tools.layout import DatasetRoot, atomic_path, path_component
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.running.records import Unit
from egoexo_tools.vocab import Direction, Split, View, view_of

SCALE = {View.EGO: 2, View.EXO: 4}
"""How many times smaller than the annotated masks the frames are, as that code fixes it."""


def units(root: DatasetRoot, out: Path) -> list[Unit]:
    """One unit per split and direction: sample numbers count through it."""
    takes = list_takes(root)
    found = []
    for split in Split:
        parts = [part for take in takes if take.split == split for part in take.parts(root)]
        for direction in Direction if parts else ():
            key = ("list", split, direction)
            found.append(Unit(key, tuple(parts), (_list_file(out, split, direction),)))
    return found


def work(unit: Unit, root: DatasetRoot, out: Path) -> Done:
    split, direction = Split(unit.key[1]), Direction(unit.key[2])
    excluded: list[Row] = []
    number = 0
    with (
        atomic_path(_list_file(out, split, direction)) as partial,
        partial.open("w") as file,
    ):
        file.write("[")
        for take in list_takes(root):
            if take.split != split:
                continue
            for sample in _samples(root, out, take, direction, excluded):
                file.write(",\n" if number else "\n")
                file.write(json.dumps({**sample, "new_img_id": number}, ensure_ascii=False))
                number += 1
        file.write("\n]\n")
    return {"samples": number}, excluded


def finish(root: DatasetRoot, out: Path) -> None:
    """Nothing spans the splits."""


def best_exo(masks: list[Row]) -> str | None:
    """The exo camera that shares most objects with the ego camera, the first by name at a tie."""
    of_ego = {row["object_name"] for row in masks if row["view"] == View.EGO and row["visible"]}
    shared: dict[str, set[str]] = {}
    for row in masks:
        if row["view"] == View.EXO and row["visible"]:
            names = shared.setdefault(row["camera"], set())
            names |= {row["object_name"]} & of_ego
    found = max(sorted(shared), key=lambda camera: len(shared[camera]), default=None)
    return found if found is not None and shared[found] else None


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts "lid 9" before "lid 10", as that code does."""
    return [(int(digits or -1), text) for text, digits in re.findall(r"([^0-9]+)|([0-9]+)", name)]


def _list_file(out: Path, split: str, direction: str) -> Path:
    return out / f"{path_component(direction)}_{path_component(split)}_visual.json"


def _samples(
    root: DatasetRoot, out: Path, take: Take, direction: Direction, excluded: list[Row]
) -> Iterator[Row]:
    masks, frames = read_masks(root, take.take_uid), read_frames(root, take)
    exo = best_exo(masks)
    ego = next((camera for camera in take.cameras if view_of(camera) is View.EGO), None)
    if exo is None or ego is None:
        excluded.append(left_out({"take_uid": take.take_uid}, "no object is in both views"))
        return
    for camera in take.cameras:
        if camera not in {ego, exo}:
            other: Row = {"take_uid": take.take_uid, "camera": camera}
            excluded.append(left_out(other, f"that code reads one exo camera a take: {exo}"))
    cameras = (ego, exo) if direction is Direction.EGO2EXO else (exo, ego)
    names = sorted({row["object_name"] for row in masks}, key=_natural)
    categories = {name: number for number, name in enumerate(names, start=1)}
    visible = _by_frame(masks, frames, excluded)
    for frame_idx in sorted({idx for camera, idx in visible if camera == cameras[0]}):
        views = [visible.get((camera, frame_idx), {}) for camera in cameras]
        shared = [name for name in names if name in views[0] and name in views[1]]
        if not shared:
            row: Row = {"take_uid": take.take_uid, "camera": cameras[1]}
            row["frame_idx"] = frame_idx
            excluded.append(left_out(row, "no object of the source frame is visible in it"))
            continue
        paths = [_picture(root, out, frames[camera, frame_idx]) for camera in cameras]
        anns = [[_annotation(view[name], categories[name]) for name in shared] for view in views]
        height, width = anns[1][0]["segmentation"]["size"]
        yield {
            "image": paths[1],
            "image_info": {"file_name": paths[1], "height": height, "width": width},
            "anns": anns[1],
            "first_frame_image": paths[0],
            "first_frame_anns": anns[0],
            "video_name": take.take_uid,
        }


def _by_frame(
    masks: list[Row], frames: dict[tuple[str, int], Row], excluded: list[Row]
) -> dict[tuple[str, int], dict[str, MaskRle]]:
    """(camera, frame_idx) → object → its mask at the size that their code makes."""
    found: dict[tuple[str, int], dict[str, MaskRle]] = {}
    for row in masks:
        key = (row["camera"], row["frame_idx"])
        if not row["visible"]:
            continue
        if key not in frames:
            excluded.append(left_out(row, "its frame was not extracted"))
            continue
        scale = SCALE[view_of(row["camera"])]
        height, width = row["rle_height"] // scale, row["rle_width"] // scale
        rle = rle_at(row, height, width) if height and width else None
        if rle is None or not rle.area():
            excluded.append(left_out(row, f"its mask is empty at 1/{scale} of its size"))
            continue
        found.setdefault(key, {})[row["object_name"]] = rle
    return found


def _annotation(rle: MaskRle, category: int) -> Row:
    return {
        "segmentation": rle.to_json(),
        "area": float(rle.area()),
        "category_id": float(category),
    }


def _picture(root: DatasetRoot, out: Path, frame: Row) -> str:
    """Put a frame into the export; returns its path there."""
    take, camera = path_component(frame["take_uid"]), path_component(frame["camera"])
    relative = f"{take}/{camera}/{frame['frame_idx']}.jpg"
    link_or_copy(root.path / frame["path"], out / relative)
    return relative
