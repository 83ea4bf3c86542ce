"""The cameras of a take of own pictures: their folders, views and frames.

Every file that is not a picture of a camera gets a note with the reason why it is not read, here
or in `masks.py`.
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
"""File with the cameras' views, `{"wrist": "ego", "front": "exo"}`."""
NAME = r"[\w-]+"
"""Pattern for the names of takes and cameras."""
_DIGITS = r"[0-9]{1,8}"
"""Pattern for the names of pictures that are frame numbers."""


@dataclass(frozen=True)
class CameraFolder:
    """A camera's folder: its name in the root, and its pictures by frame."""

    name: str
    pictures: Mapping[int, Path]
    folder: Path = Path()


def read_views(*folders: Path) -> dict[str, View]:
    """Camera → view, from cameras.json in these folders; a later folder overrides an earlier one.

    Raises DataError for a file that holds anything else.
    """
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
    """Why a file or folder is not read, and what to do about it."""
    suffix = path.suffix.lower()
    if path.is_symlink() and not path.exists():
        return f"{path} is a link to a file that does not exist"
    if suffix in HEIF:
        return heif_advice(path)
    if path.is_dir():
        return f"{path} is a folder that belongs to no picture; it is not read"
    if suffix in PICTURES:
        return f"{path} is a picture that is not used here"
    return f"{path} is neither a picture nor a mask file; it is not read"


def find_cameras(folder: Path, views: Mapping[str, View], notes: list[str]) -> list[CameraFolder]:
    """The cameras of a take, the ego one first; DataError unless it has one ego and an exo camera.

    `views` is what cameras.json says; `notes` gets a line for everything that is not read.
    """
    folders = [path for path in list_folder(folder) if path.is_dir()]
    names = {plain_name(path.name) for path in folders}
    notes += [
        f"{CAMERAS_JSON} gives a view to `{name}`, but {folder} has no such folder"
        for name in views
        if name not in names
    ]
    pictures: dict[Path, dict[str, Path]] = {}
    for path in folders:
        if files := _find_pictures(path, notes):
            pictures[path] = files
        else:
            notes.append(f"{path} holds no usable pictures")
            notes += [not_read(file) for file in list_folder(path) if file.is_file()]
    cameras = {path: _camera_name(path.name, views) for path in pictures}
    ego = [path for path, name in cameras.items() if view_of(name) is View.EGO]
    if len(ego) != 1 or len(cameras) < 2:
        folder_list = ", ".join(path.name for path in pictures) or "none"
        reasons = "".join(f"; {note}" for note in notes[:5])
        raise DataError(
            f"{folder} must hold one folder `ego` and at least one other with pictures, or "
            f"{CAMERAS_JSON} must give the views; it has {folder_list}{reasons}"
        )
    stems = sorted({stem for files in pictures.values() for stem in files})
    # A name means one instant in every camera. Numbers are frame_idxs; if a single name is not a
    # number, the frames are counted in name order.
    if all(re.fullmatch(_DIGITS, stem) for stem in stems):
        frame_idxs = {stem: int(stem) for stem in stems}
    else:
        frame_idxs = {stem: place for place, stem in enumerate(stems)}
    return [
        CameraFolder(
            cameras[path],
            {frame_idxs[stem]: file for stem, file in sorted(pictures[path].items())},
            path,
        )
        for path in sorted(pictures, key=lambda path: (path not in ego, path.name))
    ]


def _camera_name(folder: str, views: Mapping[str, View]) -> str:
    """A camera's name in the root; the rest of the toolkit takes the view from the name."""
    folder = plain_name(folder)
    guess = View.EGO if folder.lower().startswith("ego") else view_of(folder)
    view = views.get(folder, guess)
    name = folder
    if view is View.EGO and view_of(folder) is not View.EGO:
        name = f"aria_{folder}"
    if not re.fullmatch(NAME, name):
        raise DataError(f"{folder!r} cannot be a camera's name; use letters, digits, - and _ only")
    if view_of(name) is not view:
        raise DataError(
            f"{folder!r} cannot be an exo camera, because `aria` in a name means ego; rename it"
        )
    return name


def _find_pictures(folder: Path, notes: list[str]) -> dict[str, Path]:
    """Stem → picture; pictures of one camera with the same name or number are left out."""
    files: dict[str | int, list[Path]] = {}
    for path in list_folder(folder):
        if path.suffix.lower() in PICTURES and path.is_file():
            stem = plain_name(path.stem)
            number = frame_number(stem) if re.fullmatch(_DIGITS, stem) else None
            files.setdefault(stem if number is None else number, []).append(path)
    for paths in files.values():
        if len(paths) > 1:
            kind = "name" if len({path.stem for path in paths}) == 1 else "number"
            file_list = " and ".join(path.name for path in paths)
            notes.append(f"{folder}: {file_list} have one {kind}; keep one")
    return {plain_name(paths[0].stem): paths[0] for paths in files.values() if len(paths) == 1}
