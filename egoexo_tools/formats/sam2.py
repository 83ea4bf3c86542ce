"""DAVIS-style videos, as SAM 2's training and VOS inference read them.

```
<out>/<split>/JPEGImages/<take_uid>.<camera>/<frame, 5 digits>.jpg
<out>/<split>/Annotations/<take_uid>.<camera>/<frame, 5 digits>.png     palette PNG
<out>/<split>/objects/<take_uid>.json                                  {number: object name}
<out>/<split>/videos.txt                                               one video a line
```

The value of a pixel is the object's number, the same in all cameras of a take; 0 is background. A
pixel holds one object: where masks overlap, the smaller one is on top. SAM 2 needs a PNG for every
JPEG, so frames without annotations are left out; an absent object has no pixels.
"""

import json
from pathlib import Path

import numpy as np

from egoexo_tools.aliases import Row
from egoexo_tools.arrays import Bytes
from egoexo_tools.formats.source import (
    ExportResult,
    exclusion,
    link_or_copy,
    list_takes,
    mask_at_size,
    read_extracted,
    read_take,
    take_units,
)
from egoexo_tools.layout import DatasetRoot, atomic_path, path_component, write_atomic
from egoexo_tools.running.records import Unit

MAX_OBJECTS = 254
"""255 is "void" in DAVIS files."""


def units(root: DatasetRoot, out: Path) -> list[Unit]:
    return take_units(root, lambda take: (_objects_file(out, take.split, take.take_uid),))


def work(unit: Unit, root: DatasetRoot, out: Path) -> ExportResult:
    from PIL import Image

    take = read_take(root, unit.key[1])
    frames, masks, excluded = read_extracted(root, take)
    numbers = _number_objects(masks)
    by_frame: dict[tuple[str, int], list[Row]] = {}
    for row in masks:
        if row["object_name"] in numbers:
            by_frame.setdefault((row["camera"], row["frame_idx"]), []).append(row)
        else:
            excluded.append(exclusion(row, f"a palette PNG holds {MAX_OBJECTS} objects"))
    folder = out / path_component(take.split)
    palette = davis_palette().tobytes()
    for (camera, frame_idx), frame in frames.items():
        rows = by_frame.get((camera, frame_idx))
        if rows is None:
            excluded.append(exclusion(frame, "nothing was annotated in this frame"))
            continue
        # File names of DAVIS have five digits.
        name = f"{path_component(f'{take.take_uid}.{camera}')}/{frame_idx:05d}"
        link_or_copy(root.path / frame["path"], folder / "JPEGImages" / f"{name}.jpg")
        labels, hidden = _draw_labels(rows, frame, numbers)
        excluded += hidden
        image = Image.frombytes("P", labels.shape[::-1], labels.tobytes())
        image.putpalette(palette)
        with atomic_path(folder / "Annotations" / f"{name}.png") as partial:
            image.save(partial, format="PNG")
    content = {str(number): name for name, number in numbers.items()}
    # Written last: it is the unit's output, so where it exists, all other files do too.
    text = json.dumps(content, indent=1) + "\n"
    write_atomic(_objects_file(out, take.split, take.take_uid), text)
    return {"takes": 1, "frames": len(by_frame), "objects": len(numbers)}, excluded


def finish(root: DatasetRoot, out: Path) -> None:
    """The list of videos of each split."""
    for split in sorted({take.split for take in list_takes(root)}):
        folder = out / path_component(split) / "JPEGImages"
        videos = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        write_atomic(out / path_component(split) / "videos.txt", "".join(f"{v}\n" for v in videos))


def object_numbers(root: DatasetRoot, take_uid: str) -> dict[int, str]:
    """Number → object name as in this export; empty for a take that the root does not have."""
    if not root.part("takes", take_uid).is_file():
        return {}
    _, masks, _ = read_extracted(root, read_take(root, take_uid))
    return {number: name for name, number in _number_objects(masks).items()}


def davis_palette() -> Bytes:
    """The 256 colours of DAVIS and PASCAL VOC, (256, 3) RGB.

    Bit k of a number belongs to red, green or blue (k % 3) and becomes bit 7 - k // 3 of it.
    """
    numbers = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        level = np.uint8(1 << (7 - bit // 3))
        colours[:, bit % 3] |= ((numbers >> bit) & 1).astype(np.uint8) * level
    return colours


def _number_objects(masks: list[Row]) -> dict[str, int]:
    # By first occurrence in the take, so that a number is the same object in all of its cameras.
    names = list(dict.fromkeys(row["object_name"] for row in masks))
    return {name: number for number, name in enumerate(names[:MAX_OBJECTS], start=1)}


def _objects_file(out: Path, split: str, take_uid: str) -> Path:
    return out / path_component(split) / "objects" / f"{path_component(take_uid)}.json"


def _draw_labels(rows: list[Row], frame: Row, numbers: dict[str, int]) -> tuple[Bytes, list[Row]]:
    """Object numbers by pixel (H, W), and exclusion rows of masks that others hide in part."""
    height, width = frame["height"], frame["width"]
    labels = np.zeros((height, width), np.uint8)
    areas: list[tuple[Row, int]] = []
    visible = [row for row in rows if row["visible"]]
    # Large masks first, so that small ones are drawn over them. The name makes a tie reproducible.
    for row in sorted(visible, key=lambda row: (row["area"], row["object_name"]), reverse=True):
        mask = mask_at_size(row, height, width).decode()
        labels[mask] = numbers[row["object_name"]]
        areas.append((row, int(mask.sum())))
    # Each object has its own number, so one histogram gives the pixels that are left of all.
    remaining = np.bincount(labels.reshape(-1), minlength=256)
    hidden = []
    for row, area in areas:
        covered = area - int(remaining[numbers[row["object_name"]]])
        if covered:
            reason = f"{covered} of {area} pixels are under smaller objects"
            hidden.append(exclusion(row, reason))
        elif not area:
            hidden.append(exclusion(row, "its mask is empty at the size of the frame"))
    return labels, hidden
