"""Which takes other people's prepared folders hold, and what in them is none.

`processed/` of the official script, with split.json and takes.json beside it, and LM-EEC's folder
of one folder a split. Nothing of a take is read here but its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from egoexo_tools.errors import DataError
from egoexo_tools.parsing.lenient import list_folder, load_json
from egoexo_tools.parsing.names import NAMES_FILE
from egoexo_tools.release.takes import ShippedTake, read_split_file, read_takes
from egoexo_tools.vocab import Split


@dataclass(frozen=True)
class SourceTake:
    """A take's folder, and what is known of the take."""

    take_uid: str
    split: Split
    folder: Path
    entry: ShippedTake | None = None
    """Of takes.json, without its text."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Object names that an export changed → what they were."""


def find_processed(folder: Path) -> tuple[list[SourceTake], dict[str, bytes], list[dict[str, Any]]]:
    """The takes of a processed folder, their entries of takes.json, and what is left out."""
    home = home_of(folder)
    found = [path for path in list_folder(home / "processed") if path.is_dir()]
    if not found:
        raise DataError(f"{home / 'processed'} holds no takes")
    splits, notes = _splits(home)
    known: dict[str, ShippedTake] = {}
    if (home / "takes.json").is_file():
        listed, faults = _listed_takes(home / "takes.json")
        known = {take.take_uid: take for take in listed}
        notes += [{"take_uid": uid, "reason": why} for uid, why in faults]
    notes += [
        {"reason": f"{path} is no take's folder; it is not read"}
        for path in list_folder(home / "processed")
        if path.is_file() and path.name != "split.json"
    ]
    takes = []
    for path in found:
        of_take = splits.get(path.name, [])
        if len(of_take) != 1:
            why = f"in more than one split: {', '.join(of_take)}" if of_take else "in no split"
            notes.append({"take_uid": path.name, "reason": f"{why} of processed/split.json"})
            continue
        takes.append(SourceTake(path.name, of_take[0], path, known.get(path.name)))
    here = {path.name for path in found}
    notes += [
        {"take_uid": uid, "reason": "in split.json, but not in processed/"}
        for uid in splits
        if uid not in here
    ]
    return takes, {uid: take.text for uid, take in known.items()}, notes


def _listed_takes(path: Path) -> tuple[list[ShippedTake], list[tuple[str | None, str]]]:
    """Only names and scenarios come from there: a damaged takes.json costs no take."""
    try:
        return read_takes(path)
    except DataError as error:
        return [], [(None, f"{error}; the takes go without their names and scenarios")]


def find_lm_eec(folder: Path) -> tuple[list[SourceTake], list[dict[str, Any]]]:
    """The takes of LM-EEC's folder, and what is left out."""
    takes: dict[str, SourceTake] = {}
    notes: list[dict[str, Any]] = []
    for part in list_folder(folder):
        split = _split_of(part)
        if split is None:
            if not part.name.startswith(NAMES_FILE):
                notes.append({"reason": f"{part} is no folder train, val or test; not read"})
            continue
        names = _replaced(folder, split, notes)
        for path in list_folder(part):
            if not path.is_dir():
                notes.append({"reason": f"{path} is no take's folder; it is not read"})
                continue
            if path.name in takes:
                reason = f"also in {takes[path.name].split}, which is used"
                notes.append({"take_uid": path.name, "reason": reason})
                continue
            takes[path.name] = SourceTake(path.name, split, path, names=names.get(path.name, {}))
    if not takes:
        raise DataError(
            f"{folder} holds no takes; it must look like {folder.name}/<train, val, test>/"
            "<take_uid>/annotation.json, see docs/import.md"
        )
    return list(takes.values()), notes


def home_of(folder: Path) -> Path:
    """The folder that holds `processed`, whichever of the two was given."""
    if (folder / "processed").is_dir():
        return folder
    if folder.name == "processed" and folder.is_dir():
        return folder.parent
    raise DataError(
        f"{folder} has no folder `processed`; give the one that the official script wrote into"
    )


def _splits(home: Path) -> tuple[dict[str, list[Split]], list[dict[str, Any]]]:
    for path in (home / "processed" / "split.json", home / "split.json"):
        if path.is_file():
            splits, faults = read_split_file(path)
            return splits, [{"reason": reason} for reason in faults]
    raise DataError(f"{home / 'processed' / 'split.json'} is missing; it says which take is which")


def _split_of(folder: Path) -> Split | None:
    name = folder.name.strip().lower()
    return Split(name) if folder.is_dir() and name in set(Split) else None


def _replaced(folder: Path, split: Split, notes: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    path = folder / f"{NAMES_FILE}{split}.json"
    try:
        content = load_json(path) if path.is_file() else {}
    except DataError as error:
        notes.append({"reason": f"{error}; object names are those of the folders"})
        return {}
    found = content.items() if isinstance(content, dict) else ()
    return {uid: names for uid, names in found if isinstance(names, dict)}
