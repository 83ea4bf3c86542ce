"""Folders of predictions in LM-EEC's layout: `<take_uid>/<source>__<dest>/<object>/<frame>.json`.

An object's name may hold `/`: it is everything between the pair's folder and the frame's file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from egoexo_tools.errors import DataError
from egoexo_tools.parsing.lenient import list_folder
from egoexo_tools.vocab import Direction, view_of


@dataclass(frozen=True)
class PairFolder:
    """The predictions for a pair of cameras in a take."""

    path: Path
    source: str
    dest: str
    direction: Direction


def pair_folders(take: Path, notes: list[str]) -> list[PairFolder]:
    """The camera pairs in a take's folder; `notes` gets a line for everything else in it."""
    pairs = []
    for path in list_folder(take):
        source, separator, dest = path.name.partition("__")
        if not separator or not path.is_dir():
            notes.append(f"{path} is not a <source>__<dest> folder; it is not read")
            continue
        try:
            pairs.append(PairFolder(path, source, dest, direction_of(source, dest)))
        except DataError as error:
            notes.append(f"{path}: {error}")
    for pair in pairs:
        notes += [
            f"{path} is not a JSON file; it is not read"
            for path in _walk_files(pair.path)
            if not _is_json(path)
        ]
    return pairs


def json_files(pair: Path) -> list[Path]:
    """The JSON files below a pair's folder, by name."""
    return [path for path in _walk_files(pair) if _is_json(path)]


def direction_of(source: str, dest: str) -> Direction:
    """The direction of a pair of cameras; DataError for two cameras of one view."""
    for direction in Direction:
        if (view_of(source), view_of(dest)) == (direction.source, direction.dest):
            return direction
    raise DataError(f"{source} and {dest} are cameras of one view; a pair has one of each")


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json" and path.is_file()


def _walk_files(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """The files below a folder, also through links to folders; `above`: its parents' targets."""
    resolved = folder.resolve()
    for path in list_folder(folder):
        if not path.is_dir():
            yield path
            continue
        # A link to a folder above would never end.
        target = path.resolve()
        if target not in above and target not in {resolved, *resolved.parents}:
            yield from _walk_files(path, above | {resolved})
