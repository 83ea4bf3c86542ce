"""The folder that LM-EEC's training and inference read.

```
<out>/<split>/<take_uid>/annotation.json
<out>/<split>/<take_uid>/<camera>/<frame>.jpg
<out>/object_names_<split>.json        {take_uid: {name here: name in the data set}}
```

That code uses object names as folder names and replaces "/" by "-" while it lists them, but then
looks the replaced name up in annotation.json; so the names are replaced there too. It opens the
picture of every annotated frame: masks of frames that were not extracted are left out. It reads a
mask of every object in every annotated frame of both views, so an object that is absent there, or
of which nobody knows, gets an empty one, at the size of its camera's other masks;
`annotated_frames` says which of them somebody has looked at. It takes everything in a split's
folder for a take, so nothing else lies there.
"""

import json
from pathlib import Path

import numpy as np

from egoexo_tools.aliases import Row
from egoexo_tools.formats import benchmark
from egoexo_tools.formats.source import (
    Done,
    link_or_copy,
    list_takes,
    read_frames,
    read_masks,
    read_take,
    with_frame,
)
from egoexo_tools.layout import DatasetRoot, path_component, write_atomic
from egoexo_tools.masks.rle import runs_to_counts
from egoexo_tools.parsing.names import folder_names
from egoexo_tools.running.records import Unit


def units(root: DatasetRoot, out: Path) -> list[Unit]:
    return [
        Unit(
            ("take", take.take_uid),
            take.parts(root),
            (_take_folder(out, take.split, take.take_uid) / "annotation.json",),
        )
        for take in list_takes(root)
    ]


def work(unit: Unit, root: DatasetRoot, out: Path) -> Done:
    take = read_take(root, unit.key[1])
    folder = _take_folder(out, take.split, take.take_uid)
    frames = read_frames(root, take)
    for (camera, frame_idx), row in frames.items():
        link_or_copy(root.path / row["path"], folder / path_component(camera) / f"{frame_idx}.jpg")
    masks, missing = with_frame(read_masks(root, take.take_uid), frames)
    names = folder_names([row["object_name"] for row in masks])
    renamed = [{**row, "object_name": names[row["object_name"]]} for row in masks]
    benchmark.write_annotation(
        folder / "annotation.json",
        [*renamed, *_empty_masks(renamed, frames)],
        sorted({frame_idx for _, frame_idx in frames}),
        extra={
            "annotated_frames": _annotated_frames(renamed),
            "object_names": {new: name for name, new in names.items()},
        },
    )
    return {"takes": 1, "frames": len(frames)}, missing


def finish(root: DatasetRoot, out: Path) -> None:
    """One list of replaced names per split; empty where nothing was replaced."""
    replaced: dict[str, dict[str, dict[str, str]]] = {}
    for take in list_takes(root):
        path = _take_folder(out, take.split, take.take_uid) / "annotation.json"
        names = benchmark.read_json(path)["object_names"]
        changed = {new: name for new, name in names.items() if new != name}
        takes = replaced.setdefault(take.split, {})
        takes.update({take.take_uid: changed} if changed else {})
    for split, takes in replaced.items():
        text = json.dumps(takes, indent=1, sort_keys=True) + "\n"
        write_atomic(out / f"object_names_{path_component(split)}.json", text)


def _take_folder(out: Path, split: str, take_uid: str) -> Path:
    return out / path_component(split) / path_component(take_uid)


def _empty_masks(masks: list[Row], frames: dict[tuple[str, int], Row]) -> list[Row]:
    """A mask without pixels for each object and annotated frame that has none."""
    sizes: dict[str, tuple[int, int]] = {}
    for row in masks:
        if row["visible"]:
            sizes.setdefault(row["camera"], (row["rle_height"], row["rle_width"]))
    known = {
        (row["object_name"], row["camera"], row["frame_idx"]) for row in masks if row["visible"]
    }
    annotated = {row["frame_idx"] for row in masks}
    empty = []
    for name in dict.fromkeys(row["object_name"] for row in masks):
        for (camera, frame_idx), frame in frames.items():
            if frame_idx not in annotated or (name, camera, frame_idx) in known:
                continue
            height, width = sizes.get(camera) or (frame["source_height"], frame["source_width"])
            key = {"object_name": name, "camera": camera, "frame_idx": frame_idx}
            counts = runs_to_counts(np.array([height * width]))
            size = {"rle_height": height, "rle_width": width, "rle_counts": counts}
            empty.append({**key, "visible": True, **size})
    return empty


def _annotated_frames(masks: list[Row]) -> dict[str, dict[str, list[int]]]:
    """object → camera → frames that were annotated, visible or not."""
    frames: dict[str, dict[str, list[int]]] = {}
    for row in masks:
        cameras = frames.setdefault(row["object_name"], {})
        cameras.setdefault(row["camera"], []).append(row["frame_idx"])
    return frames
