"""DAVIS-style videos, as SAM 2's training and VOS inference read them.

```
<out>/<split>/JPEGImages/<take_uid>.<camera>/<frame, 5 digits>.jpg
<out>/<split>/Annotations/<take_uid>.<camera>/<frame, 5 digits>.png     palette PNG
<out>/<split>/objects/<take_uid>.json                                  {number: object name}
<out>/<split>/videos.txt                                               one video a line
```

The value of a pixel is the object's number, the same in all cameras of a take; 0 is background.
One pixel holds one object: where masks overlap, the smaller lies on top. SAM 2 needs a PNG for
every JPEG, so frames of which nothing was annotated are left out; an object checked and not
visible has no pixels.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from egoexo_tools.aliases import Row
from egoexo_tools.arrays import Bytes
from egoexo_tools.formats.source import (
    Done,
    left_out,
    link_or_copy,
    list_takes,
    read_frames,
    read_masks,
    read_take,
    rle_at,
    with_frame,
)
from egoexo_tools.layout import DatasetRoot, atomic_path, path_component, write_atomic
from egoexo_tools.running.records import Unit

MAX_OBJECTS = 254
"""255 is "void" in DAVIS files."""


def units(root: DatasetRoot, out: Path) -> list[Unit]:
    return [
        Unit(
            ("take", take.take_uid),
            take.parts(root),
            (_objects_file(out, take.split, take.take_uid),),
        )
        for take in list_takes(root)
    ]


def work(unit: Unit, root: DatasetRoot, out: Path) -> Done:
    take = read_take(root, unit.key[1])
    frames = read_frames(root, take)
    masks, excluded = with_frame(read_masks(root, take.take_uid), frames)
    numbers = _numbers(masks)
    by_frame: dict[tuple[str, int], list[Row]] = {}
    for row in masks:
        if row["object_name"] in numbers:
            by_frame.setdefault((row["camera"], row["frame_idx"]), []).append(row)
        else:
            excluded.append(left_out(row, f"a palette PNG holds {MAX_OBJECTS} objects"))
    for key, frame in frames.items():
        if key not in by_frame:
            excluded.append(left_out(frame, "nothing was annotated in this frame"))
            continue
        image, annotation = _files(out, take.split, take.take_uid, *key)
        link_or_copy(root.path / frame["path"], image)
        labels, hidden = _labels(by_frame[key], frame, numbers)
        _write_palette_png(annotation, labels)
        excluded += hidden
    content = {str(number): name for name, number in numbers.items()}
    # Written last: it is the unit's output, so where it lies all else does too.
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
    """Number → object name as this export counts them; empty for a take that the root lacks."""
    if not root.part("takes", take_uid).is_file():
        return {}
    take = read_take(root, take_uid)
    masks, _ = with_frame(read_masks(root, take_uid), read_frames(root, take))
    return {number: name for name, number in _numbers(masks).items()}


def _numbers(masks: list[Row]) -> dict[str, int]:
    names = list(dict.fromkeys(row["object_name"] for row in masks))
    return {name: number for number, name in enumerate(names[:MAX_OBJECTS], start=1)}


def davis_palette() -> Bytes:
    """The 256 colours of DAVIS and PASCAL VOC, (256, 3): the bits of the number, spread.

    Bit k of number n (three at a time for red, green, blue) becomes bit 7 - k // 3 of a colour.
    """
    numbers = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        level = np.uint8(1 << (7 - bit // 3))
        colours[:, bit % 3] |= ((numbers >> bit) & 1).astype(np.uint8) * level
    return colours


def _objects_file(out: Path, split: str, take_uid: str) -> Path:
    return out / path_component(split) / "objects" / f"{path_component(take_uid)}.json"


def _files(out: Path, split: str, take_uid: str, camera: str, frame_idx: int) -> tuple[Path, Path]:
    folder, video = out / path_component(split), path_component(f"{take_uid}.{camera}")
    return (
        folder / "JPEGImages" / video / f"{frame_idx:05d}.jpg",
        folder / "Annotations" / video / f"{frame_idx:05d}.png",
    )


def _labels(rows: list[Row], frame: Row, numbers: dict[str, int]) -> tuple[Bytes, list[Row]]:
    """Object numbers by pixel (H, W), and exclusion rows of masks that others hide in part."""
    height, width = frame["height"], frame["width"]
    labels = np.zeros((height, width), np.uint8)
    drawn: list[tuple[Row, int]] = []
    for row in sorted((row for row in rows if row["visible"]), key=_size, reverse=True):
        mask = rle_at(row, height, width).decode()
        labels[mask] = numbers[row["object_name"]]
        drawn.append((row, int(mask.sum())))
    left = np.bincount(labels.reshape(-1), minlength=256)
    hidden = []
    for row, area in drawn:
        lost = area - int(left[numbers[row["object_name"]]])
        if lost:
            hidden.append(left_out(row, f"{lost} of {area} pixels lie under smaller objects"))
        elif not area:
            hidden.append(left_out(row, "its mask is empty at the size of the frame"))
    return labels, hidden


def _size(row: Row) -> Any:
    return row["area"], row["object_name"]


def _write_palette_png(path: Path, labels: Bytes) -> None:
    from PIL import Image

    height, width = labels.shape
    image = Image.frombytes("P", (width, height), labels.tobytes())
    image.putpalette(davis_palette().tobytes())
    with atomic_path(path) as partial:
        image.save(partial, format="PNG")
