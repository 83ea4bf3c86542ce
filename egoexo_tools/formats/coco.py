"""COCO instance annotations, one file per split.

```
<out>/annotations/instances_<split>.json
<out>/images/<split>/<take_uid>/<camera>/<frame>.jpg
```

Masks are resized to the frame. `bbox` follows COCO: [x, y, width, height] with width = x_max -
x_min + 1, one more than in the manifests. A category is an object name. An annotation also has its
take, camera, frame and track (the object in its take, the same in every camera). Each file is
written take by take, so that memory does not grow with the split.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from egoexo_tools.aliases import Row
from egoexo_tools.formats.source import (
    ExportResult,
    Take,
    exclusion,
    link_or_copy,
    list_takes,
    mask_at_size,
    parts_by_split,
    read_extracted,
    read_frames,
)
from egoexo_tools.layout import DatasetRoot, atomic_path, path_component
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.inputs import hash_texts
from egoexo_tools.running.records import Unit
from egoexo_tools.vocab import Split, view_of


def units(root: DatasetRoot, out: Path) -> list[Unit]:
    """One unit per split, because image and annotation ids are numbered through it."""
    # The numbers of categories and tracks depend on the objects of all splits.
    numbering = hash_texts([repr(number_objects(root))])
    return [
        Unit(("split", split), parts, (_json_file(out, split),), numbering)
        for split, parts in parts_by_split(root).items()
    ]


def work(unit: Unit, root: DatasetRoot, out: Path) -> ExportResult:
    split = Split(unit.key[1])
    takes = [take for take in list_takes(root) if take.split == split]
    categories, track_ids = number_objects(root)
    counts = {"frames": 0, "annotations": 0}
    excluded: list[Row] = []
    # The JSON is assembled by hand: json.dump would need all rows of the split in memory.
    with atomic_path(_json_file(out, split)) as partial, partial.open("w") as file:
        info = {"description": f"Ego-Exo correspondence, {split} split", "version": "1.0"}
        file.write(f'{{"info": {json.dumps(info)}, "licenses": [],\n"images": [')
        counts["frames"] = _write_rows(file, _images(root, out, split, takes))
        file.write('\n],\n"annotations": [')
        annotations = _annotations(root, takes, categories, track_ids, excluded)
        counts["annotations"] = _write_rows(file, annotations)
        names = [{"id": number, "name": name} for name, number in categories.items()]
        file.write(f'\n],\n"categories": {json.dumps(names)}}}\n')
    return counts, excluded


def number_objects(root: DatasetRoot) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Object name → category id; (take_uid, object name) → track id.

    Of all splits, so that a number means the same in each of their files.
    """
    masks = read_manifest(root, "masks", columns=["take_uid", "object_name"]).to_pandas()
    tracks = list(masks.drop_duplicates().itertuples(index=False, name=None))
    names = sorted({name for _, name in tracks})
    return (
        {name: number for number, name in enumerate(names, start=1)},
        {track: number for number, track in enumerate(tracks, start=1)},
    )


def finish(root: DatasetRoot, out: Path) -> None:
    """No file covers several splits."""


def _json_file(out: Path, split: str) -> Path:
    return out / "annotations" / f"instances_{split}.json"


def _write_rows(file: Any, rows: Iterator[Row]) -> int:
    """Write rows with ids from 1, one per line; returns their number."""
    number = 0
    # Ids start at 1, because pycocotools' evaluation takes 0 for "no match".
    for number, row in enumerate(rows, start=1):
        file.write(",\n" if number > 1 else "\n")
        file.write(json.dumps({"id": number, **row}))
    return number


def _images(root: DatasetRoot, out: Path, split: str, takes: list[Take]) -> Iterator[Row]:
    """The images of a split; each file is placed in the export when its row is yielded."""
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
    root: DatasetRoot,
    takes: list[Take],
    categories: dict[str, int],
    track_ids: dict[tuple[str, str], int],
    excluded: list[Row],
) -> Iterator[Row]:
    image_count = 0  # of the takes before
    for take in takes:
        frames, masks, missing = read_extracted(root, take)
        excluded += missing
        # The same order as `_images`, which gave the ids.
        image_ids = {key: number for number, key in enumerate(frames, start=image_count + 1)}
        for row in masks:
            if not row["visible"]:
                continue  # COCO has no annotation for an absent object
            frame_key, name = (row["camera"], row["frame_idx"]), row["object_name"]
            frame = frames[frame_key]
            rle = mask_at_size(row, frame["height"], frame["width"]).to_json()
            area = int(coco_mask.area(rle))
            if not area:
                excluded.append(exclusion(row, "its mask is empty at the size of the frame"))
                continue
            yield {
                "image_id": image_ids[frame_key],
                "category_id": categories[name],
                # Not a part of COCO: the object's identity over the frames and cameras of its take.
                "track_id": track_ids[take.take_uid, name],
                "segmentation": rle,
                "area": area,
                "bbox": [float(value) for value in coco_mask.toBbox(rle)],
                "iscrowd": 0,
                **{key: row[key] for key in ("take_uid", "camera", "object_name", "frame_idx")},
            }
        image_count += len(frames)
