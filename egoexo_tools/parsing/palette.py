"""Palette PNGs of videos as SAM 2 and SAM 3 write them: a pixel's number is its object.

```
<folder>/<take_uid>.<camera>/<frame>.png                 one PNG per frame, numbers as colours
<folder>/<take_uid>.<camera>/<number>/<frame>.png        one PNG per object and frame
```

`objects/<take_uid>.json` ({number: object name}) gives the meaning of a number. It belongs to the
`sam2` export that the videos came from; it is searched for in the folder and in those above it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from egoexo_tools.errors import DataError
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.parsing.json_text import REPEATED
from egoexo_tools.parsing.lenient import frame_number, is_text, list_folder, load_json, whole_number
from egoexo_tools.parsing.names import NAMES_FILE
from egoexo_tools.parsing.pictures import read_labels, read_mask
from egoexo_tools.vocab import Split

_LEVELS_UP = 3
"""How far above the PNGs the export is searched for: people move results into other folders."""
_VOID = 255
"""VOS data marks pixels without an object with it; mask pictures mark the object with it."""
_EXPORT_FILES = frozenset({"objects", "videos.txt"})
"""Files of an export beside its videos."""


@dataclass(frozen=True)
class PaletteVideo:
    """The folder of one video."""

    path: Path
    take_uid: str
    camera: str


def find_videos(folder: Path, problems: list[str]) -> list[PaletteVideo]:
    """The folders in `folder` that are named `<take_uid>.<camera>` and hold PNGs.

    Where there are any, `problems` gets a line for everything else in the folder.
    """
    videos, notes = [], []
    for path in list_folder(folder):
        if path.name in _EXPORT_FILES or path.name.startswith(NAMES_FILE):
            continue
        take_uid, dot, camera = path.name.rpartition(".")
        if not (path.is_dir() and dot and take_uid and camera):
            notes.append(f"{path} is not a <take>.<camera> folder; it is not read")
        elif any(
            (file.suffix.lower() == ".png" and file.is_file())
            or (file.is_dir() and whole_number(file.name) is not None and _pngs_by_frame(file, []))
            for file in list_folder(path)
        ):
            videos.append(PaletteVideo(path, take_uid, camera))
        else:
            notes.append(f"{path} holds no PNG with a frame number; it is not read")
    if videos:
        problems += notes
    return videos


def read_objects(folder: Path, take_uid: str) -> dict[int, str] | None:
    """Number → object name, from the nearest export; or None."""
    paths = (
        place / split / "objects" / f"{take_uid}.json"
        for place in (folder, *folder.resolve().parents[:_LEVELS_UP])
        for split in ("", *Split)
    )
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        return None
    content = load_json(path)
    names: dict[int, str] = {}
    for key, name in content.items() if isinstance(content, dict) else ():
        number = whole_number(key)
        if number is None or not isinstance(name, str) or number in names or not is_text(name):
            is_repeated = number in names or name is REPEATED
            fault = "there twice" if is_repeated else "not a number with a name"
            raise DataError(f'{path} must hold {{"1": object name, ...}}; {key!r} is {fault}')
        names[number] = name
    if not names or len(set(names.values())) < len(names):
        fault = "; two numbers have one name" if names else ""
        raise DataError(f'{path} must hold {{"1": object name, ...}}{fault}')
    return names


def read_video(
    video: PaletteVideo, objects: Mapping[int, str], problems: list[str]
) -> Iterator[tuple[int, str, MaskRle]]:
    """(frame_idx, object_name, mask) of every PNG; an absent object has an empty mask.

    `problems` gets a line for unreadable files and unknown numbers.
    """
    folders: dict[int, Path] = {}
    # Both layouts may be in one folder: folders of objects first, then the frames' own PNGs.
    for path in filter(Path.is_dir, list_folder(video.path)):
        number = whole_number(path.name)
        name = None if number is None else objects.get(number)
        if number is None or name is None:
            problems.append(f"{path}: {path.name} is not an object's number")
            continue
        first = folders.setdefault(number, path)
        if first != path:  # 1 and 001
            problems.append(f"{path} and {first.name} are of one object; the first is read")
            continue
        for frame_idx, file in _pngs_by_frame(path, problems).items():
            try:
                yield frame_idx, name, read_mask(file)
            except DataError as error:
                problems.append(str(error))
    for frame_idx, file in _pngs_by_frame(video.path, problems).items():
        try:
            labels = read_labels(file)
        except DataError as error:
            problems.append(str(error))
            continue
        numbers = set(np.unique(labels).tolist()) - {0}
        if numbers == {_VOID} and _VOID not in objects:
            problems.append(
                f"{file} is ambiguous: its {_VOID}s may be one object's mask, or pixels without "
                "an object as in VOS data; write the objects' numbers, or a folder for each object"
            )
            continue
        for number in sorted(numbers - {_VOID} - set(objects)):
            problems.append(f"{file}: {number} is not an object's number")
        for number, name in objects.items():
            yield frame_idx, name, MaskRle.encode(labels == number)


def _pngs_by_frame(folder: Path, problems: list[str]) -> dict[int, Path]:
    """frame_idx → PNG; `problems` gets other files, and two files of one frame."""
    files: dict[int, list[Path]] = {}
    for path in list_folder(folder):
        is_png = path.suffix.lower() == ".png" and path.is_file()
        number = frame_number(path.stem) if is_png else None
        if number is not None:
            files.setdefault(number, []).append(path)
        elif not path.is_dir():
            problems.append(f"{path} is not a PNG with a frame number; it is not read")
    for first, *duplicates in files.values():
        if duplicates:
            problems.append(f"{first} and {duplicates[0].name} are of one frame; keep one")
    return {number: paths[0] for number, paths in files.items() if len(paths) == 1}
