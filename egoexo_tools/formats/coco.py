"""COCO instance annotations, one file a split.

```
<out>/annotations/instances_<split>.json
<out>/images/<split>/<take_uid>/<camera>/<frame>.jpg
```

Masks are brought to the size of the frame. `bbox` is COCO's own: [x, y, width, height] with
width = x_max - x_min + 1, one more than in the manifests. A category is an object name; an
annotation also says its take, camera, frame and track (the object in its take, the same in
every camera). Each file is written take by take, without holding the split in memory.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

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
    with_frame,
)
from egoexo_tools.layout import DatasetRoot, atomic_path, path_component
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.records import Unit
from egoexo_tools.vocab import Split, view_of


def units(root: DatasetRoot, out: Path) -> list[Unit]:
    """One unit per split: image and annotation ids count through it."""
    takes = list_takes(root)
    found = []
    for split in Split:
        parts = [part for take in takes if take.split == split for part in take.parts(root)]
        if parts:
            found.append(Unit(("split", split), tuple(parts), (_json_file(out, split),)))
    return found


def work(unit: Unit, root: DatasetRoot, out: Path) -> Done:
    split = Split(unit.key[1])
    takes = [take for take in list_takes(root) if take.split == split]
    categories = _categories(root)
    counts = {"frames": 0, "annotations": 0}
    excluded: list[Row] = []
    with atomic_path(_json_file(out, split)) as partial, partial.open("w") as file:
        info = {"description": f"Ego-Exo correspondence, {split} split", "version": "1.0"}
        file.write(f'{{"info": {json.dumps(info)}, "licenses": [],\n"images": [')
        for image in _numbered(_images(root, out, split, takes), file):
            counts["frames"] = image
        file.write('\n],\n"annotations": [')
        for annotation in _numbered(_annotations(root, takes, categories, excluded), file):
            counts["annotations"] = annotation
        names = [{"id": number, "name": name} for name, number in categories.items()]
        file.write(f'\n],\n"categories": {json.dumps(names)}}}\n')
    return counts, excluded


def finish(root: DatasetRoot, out: Path) -> None:
    """Nothing spans the splits."""


def _json_file(out: Path, split: str) -> Path:
    return out / "annotations" / f"instances_{split}.json"


def _categories(root: DatasetRoot) -> dict[str, int]:
    """Object name → category id, from 1, the same in every split."""
    names = read_manifest(root, "masks", columns=["object_name"])["object_name"].unique()
    return {name: number for number, name in enumerate(sorted(names.to_pylist()), start=1)}


def _numbered(rows: Iterator[Row], file: Any) -> Iterator[int]:
    """Write each row with its id, from 1; yields the ids."""
    for number, row in enumerate(rows, start=1):
        file.write(",\n" if number > 1 else "\n")
        file.write(json.dumps({"id": number, **row}))
        yield number


def _images(root: DatasetRoot, out: Path, split: str, takes: list[Take]) -> Iterator[Row]:
    """The images of a split, each placed in the export as it is yielded."""
    for take in takes:
        for (camera, frame_idx), row in read_frames(root, take).items():
            name = f"{path_component(take.take_uid)}/{path_component(camera)}/{frame_idx}.jpg"
            link_or_copy(root.path / row["path"], out / "images" / split / name)
            yield {
                "file_name": name,
                "height": row["height"],
                "width": row["width"],
                "take_uid": take.take_uid,
                "camera": camera,
                "view": str(view_of(camera)),
                "frame_idx": frame_idx,
            }


def _annotations(
    root: DatasetRoot, takes: list[Take], categories: dict[str, int], excluded: list[Row]
) -> Iterator[Row]:
    images_before = tracks_before = 0
    for take in takes:
        frames = read_frames(root, take)
        image_ids = {key: number for number, key in enumerate(frames, start=images_before + 1)}
        masks, missing = with_frame(read_masks(root, take.take_uid), frames)
        excluded += missing
        objects = list(dict.fromkeys(row["object_name"] for row in masks))
        track_ids = {name: number for number, name in enumerate(objects, tracks_before + 1)}
        for row in masks:
            key = (row["camera"], row["frame_idx"])
            annotation = _annotation(row, frames[key]) if row["visible"] else None
            if annotation:
                ids = {"image_id": image_ids[key], "category_id": categories[row["object_name"]]}
                yield {**ids, "track_id": track_ids[row["object_name"]], **annotation}
            elif row["visible"]:
                excluded.append(left_out(row, "its mask is empty at the size of the frame"))
        images_before += len(frames)
        tracks_before += len(objects)


def _annotation(row: Row, frame: Row) -> Row | None:
    """Mask, area and COCO's box at the frame's size; None where nothing is left of the mask."""
    rle = rle_at(row, frame["height"], frame["width"]).to_json()
    area = int(coco_mask.area(rle))
    if not area:
        return None
    names = {name: row[name] for name in ("take_uid", "camera", "object_name", "frame_idx")}
    box = [float(value) for value in coco_mask.toBbox(rle)]
    return {"segmentation": rle, "area": area, "bbox": box, "iscrowd": 0, **names}
