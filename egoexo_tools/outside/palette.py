"""Palette PNGs of videos, as SAM 2 and SAM 3 write them: a pixel's number is its object.

```
<folder>/<take_uid>.<camera>/<frame>.png                 one PNG a frame, numbers as colours
<folder>/<take_uid>.<camera>/<number>/<frame>.png        one PNG an object and frame
```

What a number means is in `objects/<take_uid>.json` ({number: object name}) of the `sam2` export
that the videos came from, looked for beside the folder and above it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from egoexo_tools.errors import DataError
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.outside.pictures import read_labels, read_mask
from egoexo_tools.outside.tolerant import entries, frame_number, load_json, whole_number

_LEVELS_UP = 3


@dataclass(frozen=True)
class PaletteVideo:
    """One video's folder."""

    path: Path
    take_uid: str
    camera: str


def find_videos(folder: Path) -> list[PaletteVideo]:
    """The folders in `folder` that are named `<take_uid>.<camera>` and hold PNGs."""
    found = []
    for path in entries(folder):
        take_uid, dot, camera = path.name.rpartition(".")
        if dot and take_uid and camera and path.is_dir() and _holds_pngs(path):
            found.append(PaletteVideo(path, take_uid, camera))
    return found


def read_objects(folder: Path, take_uid: str) -> dict[int, str] | None:
    """Number → object name, from the export that lies nearest; None where there is none."""
    places = [folder, *folder.resolve().parents[:_LEVELS_UP]]
    for place in places:
        for path in (place / "objects" / f"{take_uid}.json", *_in_splits(place, take_uid)):
            if path.is_file():
                return _objects(path)
    return None


def read_video(
    video: PaletteVideo, objects: Mapping[int, str], problems: list[str]
) -> Iterator[tuple[int, str, MaskRle]]:
    """(frame_idx, object_name, mask) of every PNG, an empty mask for an object that is not in it.

    What cannot be read, and numbers that no object has, are added to `problems`.
    """
    numbers = [path for path in entries(video.path) if path.is_dir()]
    for path in numbers:
        name = objects.get(whole_number(path.name) or -1)
        if name is None:
            problems.append(f"{path}: {path.name} is no object's number")
            continue
        for frame_idx, file in _numbered(path, problems).items():
            try:
                yield frame_idx, name, read_mask(file)
            except DataError as error:
                problems.append(str(error))
    for frame_idx, file in _numbered(video.path, problems).items():
        try:
            labels = read_labels(file)
        except DataError as error:
            problems.append(str(error))
            continue
        present = set(np.unique(labels).tolist()) - {0, 255}
        for number in sorted(present - set(objects)):
            problems.append(f"{file}: {number} is no object's number")
        for number, name in objects.items():
            yield frame_idx, name, _mask(labels, number)


def _mask(labels: NDArray[np.uint8], number: int) -> MaskRle:
    return MaskRle.encode(labels == number)


def _holds_pngs(folder: Path) -> bool:
    return any(
        path.suffix.lower() == ".png"
        or (path.is_dir() and whole_number(path.name) is not None and _numbered(path))
        for path in entries(folder)
    )


def _in_splits(place: Path, take_uid: str) -> Iterator[Path]:
    for split in ("train", "val", "test"):
        yield place / split / "objects" / f"{take_uid}.json"


def _objects(path: Path) -> dict[int, str]:
    content = load_json(path)
    found = {
        number: name
        for key, name in (content.items() if isinstance(content, dict) else ())
        if (number := whole_number(key)) is not None and isinstance(name, str)
    }
    if not found:
        raise DataError(f'{path} must hold {{"1": object name, ...}}')
    return found


def _numbered(folder: Path, problems: list[str] | None = None) -> dict[int, Path]:
    """frame_idx → PNG; others, and two of one number, go to `problems`."""
    found: dict[int, list[Path]] = {}
    others = []
    for path in entries(folder):
        number = frame_number(path.stem) if path.suffix.lower() == ".png" else None
        if number is not None:
            found.setdefault(number, []).append(path)
        elif not path.is_dir():
            others.append(f"{path} is no PNG with a frame number; it is not read")
    twice = [paths for paths in found.values() if len(paths) > 1]
    if problems is not None:
        problems += others
        problems += [f"{p[0]} and {p[1].name} are of one frame; keep one" for p in twice]
    return {number: paths[0] for number, paths in found.items() if len(paths) == 1}
