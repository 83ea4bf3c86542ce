"""Finds the takes in folders that other programs prepared, and everything else in them.

`processed/` of the official script, with split.json and takes.json beside it, and LM-EEC's folder
with one folder per split. Only the names of the takes' files are read here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from egoexo_tools.aliases import Row
from egoexo_tools.errors import DataError
from egoexo_tools.parsing.lenient import list_folder, load_json
from egoexo_tools.parsing.names import NAMES_FILE
from egoexo_tools.release.takes import ShippedTake, read_split_file, read_takes
from egoexo_tools.vocab import Split


@dataclass(frozen=True)
class SourceTake:
    """A take's folder, and what the files around it say of the take."""

    take_uid: str
    split: Split
    folder: Path
    entry: ShippedTake | None = None
    """From takes.json."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Object names that an export changed → the original names."""


def find_processed(folder: Path) -> tuple[list[SourceTake], dict[str, bytes], list[Row]]:
    """The takes of a processed folder, their entries of takes.json, and exclusions (rows)."""
    home = home_of(folder)
    paths = list_folder(home / "processed")
    folders = [path for path in paths if path.is_dir()]
    if not folders:
        raise DataError(f"{home / 'processed'} holds no takes")
    # The official script writes split.json into processed/, forks beside it.
    split_files = [home / "processed" / "split.json", home / "split.json"]
    split_file = next(filter(Path.is_file, split_files), None)
    if split_file is None:
        raise DataError(f"{split_files[0]} is missing; it gives each take's split")
    splits, reasons = read_split_file(split_file)
    exclusions: list[Row] = [{"reason": reason} for reason in reasons]
    shipped: list[ShippedTake] = []
    if (home / "takes.json").is_file():
        try:
            shipped, faults = read_takes(home / "takes.json")
        except DataError as error:
            # Only names and scenarios come from takes.json: a damaged one excludes no take.
            faults = [(None, f"{error}; the takes go without their names and scenarios")]
        exclusions += [{"take_uid": uid, "reason": reason} for uid, reason in faults]
    entries = {take.take_uid: take for take in shipped}
    exclusions += [
        {"reason": f"{path} is not a take's folder; it is not read"}
        for path in paths
        if path.is_file() and path.name != "split.json"
    ]
    takes = []
    for path in folders:
        # A take in two splits would be trained on and tested with.
        take_splits = splits.get(path.name, [])
        if len(take_splits) == 1:
            takes.append(SourceTake(path.name, take_splits[0], path, entries.get(path.name)))
            continue
        count = (
            f"in more than one split: {', '.join(take_splits)}" if take_splits else "in no split"
        )
        exclusions.append({"take_uid": path.name, "reason": f"{count} of processed/split.json"})
    names = {path.name for path in folders}
    exclusions += [
        {"take_uid": uid, "reason": "in split.json, but not in processed/"}
        for uid in splits
        if uid not in names
    ]
    return takes, {uid: take.text for uid, take in entries.items()}, exclusions


def find_lm_eec(folder: Path) -> tuple[list[SourceTake], list[Row]]:
    """The takes of LM-EEC's folder, and exclusions (rows)."""
    takes: dict[str, SourceTake] = {}
    exclusions: list[Row] = []
    for part in list_folder(folder):
        part_name = part.name.strip().lower()
        if not part.is_dir() or part_name not in set(Split):
            if not part.name.startswith(NAMES_FILE):
                reason = f"{part} is not a folder train, val or test; it is not read"
                exclusions.append({"reason": reason})
            continue
        split = Split(part_name)
        names = _original_names(folder / f"{NAMES_FILE}{split}.json", exclusions)
        for path in list_folder(part):
            if not path.is_dir():
                exclusions.append({"reason": f"{path} is not a take's folder; it is not read"})
            elif path.name in takes:
                reason = f"also in {takes[path.name].split}, which is used"
                exclusions.append({"take_uid": path.name, "reason": reason})
            else:
                take_names = names.get(path.name, {})
                takes[path.name] = SourceTake(path.name, split, path, names=take_names)
    if not takes:
        raise DataError(
            f"{folder} holds no takes; it must look like {folder.name}/<train, val, test>/"
            "<take_uid>/annotation.json, see docs/import.md"
        )
    return list(takes.values()), exclusions


def home_of(folder: Path) -> Path:
    """The folder that holds `processed`; `folder` may be either of the two."""
    if (folder / "processed").is_dir():
        return folder
    if folder.name == "processed" and folder.is_dir():
        return folder.parent
    raise DataError(
        f"{folder} has no folder `processed`; give the one that the official script wrote into"
    )


def _original_names(path: Path, exclusions: list[Row]) -> dict[str, dict[str, str]]:
    """take_uid → the object names that an export changed and the original names."""
    try:
        content = load_json(path) if path.is_file() else {}
    except DataError as error:
        exclusions.append({"reason": f"{error}; object names are those of the folders"})
        return {}
    items = content.items() if isinstance(content, dict) else ()
    return {uid: names for uid, names in items if isinstance(names, dict)}
