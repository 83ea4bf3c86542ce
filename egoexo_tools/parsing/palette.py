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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoexo_tools.errors import DataError
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.parsing.json_text import REPEATED
from egoexo_tools.parsing.lenient import (
    frame_number,
    is_text,
    list_folder,
    load_json,
    whole_number,
)
from egoexo_tools.parsing.names import NAMES_FILE
from egoexo_tools.parsing.pictures import read_labels, read_mask

_LEVELS_UP = 3
"""So far above the PNGs the export is looked for: results lie in folders of their own."""
_VOID = 255
"""In VOS data a pixel that is of no object; in a mask picture a pixel that is."""
_KNOWN = frozenset({"objects", "videos.txt"})
"""What an export writes beside."""


@dataclass(frozen=True)
class PaletteVideo:
    """One video's folder."""

    path: Path
    take_uid: str
    camera: str


def find_videos(folder: Path, problems: list[str]) -> list[PaletteVideo]:
    """The folders in `folder` that are named `<take_uid>.<camera>` and hold PNGs.

    Where there are any, whatever else lies there is added to `problems`.
    """
    found, others = [], []
    for path in list_folder(folder):
        if path.name in _KNOWN or path.name.startswith(NAMES_FILE):
            continue
        take_uid, dot, camera = path.name.rpartition(".")
        if not (path.is_dir() and dot and take_uid and camera):
            others.append(f"{path} is no <take>.<camera> folder; it is not read")
        elif _holds_pngs(path):
            found.append(PaletteVideo(path, take_uid, camera))
        else:
            others.append(f"{path} holds no PNG with a frame number; it is not read")
    if found:
        problems += others
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
    taken: dict[int, Path] = {}
    for path in (path for path in list_folder(video.path) if path.is_dir()):
        number = whole_number(path.name)
        name = None if number is None else objects.get(number)
        if number is None or name is None:
            problems.append(f"{path}: {path.name} is no object's number")
            continue
        if taken.setdefault(number, path) != path:
            problems.append(f"{path} and {taken[number].name} are of one object; the first is read")
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
        present = set(np.unique(labels).tolist()) - {0}
        if present == {_VOID} and _VOID not in objects:
            problems.append(
                f"{file} can be read in two ways: its {_VOID}s may be one object's mask, or pixels "
                "of none as in VOS data; write the objects' numbers, or a folder for each object"
            )
            continue
        for number in sorted(present - {_VOID} - set(objects)):
            problems.append(f"{file}: {number} is no object's number")
        for number, name in objects.items():
            yield frame_idx, name, _mask(labels, number)


def _mask(labels: NDArray[np.integer[Any]], number: int) -> MaskRle:
    return MaskRle.encode(labels == number)


def _holds_pngs(folder: Path) -> bool:
    return any(
        (path.suffix.lower() == ".png" and path.is_file())
        or (path.is_dir() and whole_number(path.name) is not None and _numbered(path))
        for path in list_folder(folder)
    )


def _in_splits(place: Path, take_uid: str) -> Iterator[Path]:
    for split in ("train", "val", "test"):
        yield place / split / "objects" / f"{take_uid}.json"


def _objects(path: Path) -> dict[int, str]:
    content = load_json(path)
    found: dict[int, str] = {}
    for key, name in content.items() if isinstance(content, dict) else ():
        number = whole_number(key)
        if number is None or not isinstance(name, str) or number in found or not is_text(name):
            why = "there twice" if number in found or name is REPEATED else "no number with a name"
            raise DataError(f'{path} must hold {{"1": object name, ...}}; {key!r} is {why}')
        found[number] = name
    if not found or len(set(found.values())) < len(found):
        why = "; two numbers have one name" if found else ""
        raise DataError(f'{path} must hold {{"1": object name, ...}}{why}')
    return found


def _numbered(folder: Path, problems: list[str] | None = None) -> dict[int, Path]:
    """frame_idx → PNG; others, and two of one number, go to `problems`."""
    found: dict[int, list[Path]] = {}
    others = []
    for path in list_folder(folder):
        is_png = path.suffix.lower() == ".png" and path.is_file()
        number = frame_number(path.stem) if is_png else None
        if number is not None:
            found.setdefault(number, []).append(path)
        elif not path.is_dir():
            others.append(f"{path} is no PNG with a frame number; it is not read")
    twice = [paths for paths in found.values() if len(paths) > 1]
    if problems is not None:
        problems += others
        problems += [f"{p[0]} and {p[1].name} are of one frame; keep one" for p in twice]
    return {number: paths[0] for number, paths in found.items() if len(paths) == 1}
