"""Folders of predictions as LM-EEC has them: `<take_uid>/<source>__<dest>/<object>/<frame>.json`.

An object's name may hold `/`: what lies between the pair and the frame is the name.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from egoexo_tools.errors import DataError
from egoexo_tools.parsing.lenient import list_folder
from egoexo_tools.vocab import Direction, view_of


@dataclass(frozen=True)
class PairFolder:
    """What was predicted for a pair of cameras in a take."""

    path: Path
    source: str
    dest: str
    direction: Direction


def pair_folders(take: Path, notes: list[str]) -> list[PairFolder]:
    """The camera pairs of a take; what else lies there, and what is none, goes to `notes`."""
    found = []
    for path in list_folder(take):
        source, mark, dest = path.name.partition("__")
        if not mark or not path.is_dir():
            notes.append(f"{path} is no <source>__<dest> folder; it is not read")
            continue
        try:
            found.append(PairFolder(path, source, dest, direction_of(source, dest)))
        except DataError as error:
            notes.append(f"{path}: {error}")
    for pair in found:
        notes += [f"{other} is no JSON; it is not read" for other in _files(pair.path, False)]
    return found


def json_files(pair: Path) -> list[Path]:
    """The JSON files below a pair's folder, in name order."""
    return list(_files(pair, True))


def direction_of(source: str, dest: str) -> Direction:
    """The direction of a pair of cameras; DataError for two of one view."""
    for direction in Direction:
        if (view_of(source), view_of(dest)) == (direction.source, direction.dest):
            return direction
    raise DataError(f"{source} and {dest} are cameras of one view; a pair has one of each")


def _files(folder: Path, wants_json: bool, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """The files below a folder that are JSON, or those that are not; through links as well."""
    here = folder.resolve()
    for path in list_folder(folder):
        if path.is_dir():
            # A link to a folder above would lead round for ever.
            if (target := path.resolve()) not in above and target not in {here, *here.parents}:
                yield from _files(path, wants_json, above | {here})
        elif (path.suffix.lower() == ".json" and path.is_file()) is wants_json:
            yield path
