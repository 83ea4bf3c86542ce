"""The cameras of somebody's own take: which folders they are, which view, which frames.

Everything in a folder that is no picture is named with its reason by whoever reads the rest.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from egoexo_tools.errors import DataError
from egoexo_tools.parsing.lenient import frame_number, list_folder, load_json, plain_name
from egoexo_tools.parsing.pictures import HEIF, PICTURES, heif_advice
from egoexo_tools.vocab import View, view_of

CAMERAS_JSON = "cameras.json"
"""Says which camera is which view, `{"wrist": "ego", "front": "exo"}`."""
NAME = r"[\w-]+"
"""Of takes and cameras."""


@dataclass(frozen=True)
class CameraFolder:
    """A camera's folder: its name in the root, and its pictures by frame."""

    name: str
    pictures: Mapping[int, Path]
    folder: Path = Path()


def read_views(*folders: Path) -> dict[str, View]:
    """What cameras.json says in these folders, the last one's word counts; DataError if nothing."""
    views: dict[str, View] = {}
    for folder in folders:
        for path in list_folder(folder):
            if path.name.lower() != CAMERAS_JSON:
                continue
            content = load_json(path)
            if not isinstance(content, dict) or not all(
                isinstance(view, str) and view.strip().lower() in set(View)
                for view in content.values()
            ):
                raise DataError(f'{path} must hold a view for each camera: {{"wrist": "ego"}}')
            views |= {plain_name(name): View(v.strip().lower()) for name, v in content.items()}
    return views


def not_read(path: Path) -> str:
    """Why a file or folder is passed over, and what to do."""
    suffix = path.suffix.lower()
    if path.is_symlink() and not path.exists():
        return f"{path} is a link that leads nowhere"
    if suffix in HEIF:
        return heif_advice(path)
    if path.is_dir():
        return f"{path} is a folder that belongs to no picture; it is not read"
    if suffix in PICTURES:
        return f"{path} is a picture that is not used here"
    return f"{path} is no picture and no mask file; it is not read"


def find_cameras(folder: Path, views: Mapping[str, View], notes: list[str]) -> list[CameraFolder]:
    """The cameras of a take, the ego one first; DataError unless there is one ego and an exo.

    `views` (camera → view) is what cameras.json says; what is not read is added to `notes`.
    """
    folders = [path for path in list_folder(folder) if path.is_dir()]
    named = {plain_name(path.name) for path in folders}
    notes += [
        f"{CAMERAS_JSON} says what `{name}` is, but {folder} has no such folder"
        for name in views
        if name not in named
    ]
    pictures = {}
    for path in folders:
        found = _pictures(path, notes)
        if found:
            pictures[path] = found
        else:
            notes.append(f"{path} holds no pictures that can be used")
            notes += [not_read(file) for file in list_folder(path) if file.is_file()]
    names = {path: _camera_name(path.name, views) for path in pictures}
    ego = [path for path, name in names.items() if view_of(name) is View.EGO]
    if len(ego) != 1 or len(names) < 2:
        listed = ", ".join(path.name for path in pictures) or "none"
        why = "".join(f"; {note}" for note in notes[:5])
        raise DataError(
            f"{folder} must hold one folder `ego` and at least one other with pictures, or "
            f"{CAMERAS_JSON} must say which is which; it has {listed}{why}"
        )
    idxs = _frame_idxs({stem for found in pictures.values() for stem in found})
    return [
        CameraFolder(
            names[path],
            {idxs[stem]: file for stem, file in sorted(pictures[path].items())},
            path,
        )
        for path in sorted(pictures, key=lambda path: (path not in ego, path.name))
    ]


def _camera_name(folder: str, views: Mapping[str, View]) -> str:
    """A camera's name in the root, where the name says the view."""
    folder = plain_name(folder)
    guess = View.EGO if folder.lower().startswith("ego") else view_of(folder)
    view = views.get(folder, guess)
    name = folder
    if view is View.EGO and view_of(folder) is not View.EGO:
        name = f"aria_{folder}"
    if not re.fullmatch(NAME, name):
        raise DataError(f"{folder!r} cannot be a camera's name; use letters, digits, - and _ only")
    if view_of(name) is not view:
        raise DataError(f"{folder!r} cannot be an exo camera: `aria` in a name says ego; rename it")
    return name


def _pictures(folder: Path, notes: list[str]) -> dict[str, Path]:
    """Stem → picture; pictures of one camera with one name or number are noted and left out."""
    found: dict[str | int, list[Path]] = {}
    for path in list_folder(folder):
        if path.suffix.lower() in PICTURES and path.is_file():
            stem = plain_name(path.stem)
            number = frame_number(stem) if re.fullmatch(r"[0-9]{1,8}", stem) else None
            found.setdefault(stem if number is None else number, []).append(path)
    for paths in found.values():
        if len(paths) > 1:
            same = "name" if len({path.stem for path in paths}) == 1 else "number"
            listed = " and ".join(path.name for path in paths)
            notes.append(f"{folder}: {listed} have one {same}; keep one")
    return {plain_name(paths[0].stem): paths[0] for paths in found.values() if len(paths) == 1}


def _frame_idxs(stems: set[str]) -> dict[str, int]:
    """Stem → frame_idx: the number if all are numbers, else the place in name order."""
    if all(re.fullmatch(r"[0-9]{1,8}", stem) for stem in stems):
        return {stem: int(stem) for stem in stems}
    return {stem: place for place, stem in enumerate(sorted(stems))}
