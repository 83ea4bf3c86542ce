"""The folder that LM-EEC's training and inference read.

```
<out>/<split>/<take_uid>/annotation.json
<out>/<split>/<take_uid>/<camera>/<frame>.jpg
<out>/object_names_<split>.json        {take_uid: {name here: name in the data set}}
```

LM-EEC's code has four requirements:

- It uses object names as folder names. It replaces "/" by "-" while it lists them, but then looks
  the replaced name up in annotation.json, so the names are replaced there too.
- It opens the image of every annotated frame, so masks of frames that were not extracted are left
  out.
- It reads a mask of every object in every annotated frame of both views. An object that is absent
  or unannotated there gets an empty mask, at the size of its camera's other masks;
  `annotated_frames` lists the frames that were annotated.
- It treats everything in a split's folder as a take, so the folder contains nothing else.
"""

import json
from pathlib import Path

import numpy as np

from egoexo_tools.aliases import Row
from egoexo_tools.formats import benchmark
from egoexo_tools.formats.source import (
    ExportResult,
    FrameRows,
    link_or_copy,
    list_takes,
    read_extracted,
    read_take,
    take_units,
)
from egoexo_tools.layout import DatasetRoot, path_component, write_atomic
from egoexo_tools.masks.rle import runs_to_counts
from egoexo_tools.parsing.names import folder_names
from egoexo_tools.running.records import Unit


def units(root: DatasetRoot, out: Path) -> list[Unit]:
    return take_units(root, lambda take: (_annotation_json(out, take.split, take.take_uid),))


def work(unit: Unit, root: DatasetRoot, out: Path) -> ExportResult:
    take = read_take(root, unit.key[1])
    path = _annotation_json(out, take.split, take.take_uid)
    frames, masks, excluded = read_extracted(root, take)
    for (camera, frame_idx), row in frames.items():
        image = path.parent / path_component(camera) / f"{frame_idx}.jpg"
        link_or_copy(root.path / row["path"], image)
    names = folder_names([row["object_name"] for row in masks])
    masks = [{**row, "object_name": names[row["object_name"]]} for row in masks]
    annotated: dict[str, dict[str, list[int]]] = {}
    for row in masks:
        cameras = annotated.setdefault(row["object_name"], {})
        cameras.setdefault(row["camera"], []).append(row["frame_idx"])
    benchmark.write_annotation(
        path,
        [*masks, *_empty_masks(masks, frames)],
        sorted({frame_idx for _, frame_idx in frames}),
        extra={
            "annotated_frames": annotated,
            "object_names": {new: name for name, new in names.items()},
        },
    )
    return {"takes": 1, "frames": len(frames)}, excluded


def finish(root: DatasetRoot, out: Path) -> None:
    """One list of replaced names per split; empty where no name was replaced."""
    replaced: dict[str, dict[str, dict[str, str]]] = {}
    for take in list_takes(root):
        # From the exported file, not the root: other processes may have exported the take.
        path = _annotation_json(out, take.split, take.take_uid)
        names = benchmark.read_json(path)["object_names"]
        changed = {new: name for new, name in names.items() if new != name}
        takes = replaced.setdefault(take.split, {})
        if changed:
            takes[take.take_uid] = changed
    for split, takes in replaced.items():
        text = json.dumps(takes, indent=1, sort_keys=True) + "\n"
        write_atomic(out / f"object_names_{path_component(split)}.json", text)


def _annotation_json(out: Path, split: str, take_uid: str) -> Path:
    return out / path_component(split) / path_component(take_uid) / "annotation.json"


def _empty_masks(masks: list[Row], frames: FrameRows) -> list[Row]:
    """A mask without pixels for each object and annotated frame without a visible mask."""
    sizes: dict[str, tuple[int, int]] = {}
    for row in masks:
        if row["visible"]:
            sizes.setdefault(row["camera"], (row["rle_height"], row["rle_width"]))
    visible = {
        (row["object_name"], row["camera"], row["frame_idx"]) for row in masks if row["visible"]
    }
    annotated = {row["frame_idx"] for row in masks}
    empty = []
    for name in dict.fromkeys(row["object_name"] for row in masks):
        for (camera, frame_idx), frame in frames.items():
            if frame_idx not in annotated or (name, camera, frame_idx) in visible:
                continue
            # A camera without any visible mask gets masks of the video's size.
            height, width = sizes.get(camera) or (frame["source_height"], frame["source_width"])
            empty.append(
                {
                    "object_name": name,
                    "camera": camera,
                    "frame_idx": frame_idx,
                    # Written like a mask; `write_annotation` skips rows that are not visible.
                    "visible": True,
                    "rle_height": height,
                    "rle_width": width,
                    "rle_counts": runs_to_counts(np.array([height * width])),
                }
            )
    return empty
