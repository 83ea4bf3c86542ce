"""Files that belong to a unit: what it no longer writes is removed.

For stages whose units write all their files anew. The status of a unit lists its files, so that
only files are removed that the stage wrote itself.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import UnitResult, read_statuses, write_status

FileLists = Mapping[str, list[str]]
"""Folder → names of files in it, as in UnitResult."""


@dataclass(frozen=True)
class Ownership:
    """Where the units of a stage own their files, and which units no longer exist."""

    folder: Path
    """The folder of all outputs; nothing outside it is removed."""
    is_gone: Callable[[UnitResult], bool] = lambda status: False
    """Whether the input of a unit that was done before has disappeared."""


def is_of_takes(unit: str, takes: Collection[str]) -> bool:
    """Whether a unit such as `<take_uid>.<camera>` is of one of the takes; both may hold dots."""
    parts = unit.split(".")
    return any(".".join(parts[:count]) in takes for count in range(1, len(parts) + 1))


def list_files(folder: Path, paths: Iterable[Path]) -> FileLists:
    """Paths as UnitResult stores them; those outside `folder` are left out."""
    lists: dict[str, list[str]] = {}
    for path in sorted(paths):
        place = os.path.relpath(path.parent, folder)
        if not place.startswith(".."):
            lists.setdefault(place, []).append(path.name)
    return lists


def merge_files(*lists: Mapping[str, Iterable[str]]) -> FileLists:
    """All files of several lists."""
    merged: dict[str, set[str]] = {}
    for files in lists:
        for place, names in files.items():
            merged.setdefault(place, set()).update(names)
    return {place: sorted(names) for place, names in sorted(merged.items())}


def subtract_files(
    files: Mapping[str, Iterable[str]], without: Mapping[str, Iterable[str]]
) -> FileLists:
    """The files of a list that another one does not have."""
    rest = {place: sorted(set(names) - {*without.get(place, ())}) for place, names in files.items()}
    return {place: names for place, names in rest.items() if names}


def remove_files(
    folder: Path, files: Mapping[str, Iterable[str]], *, keep: Mapping[str, Iterable[str]] = {}
) -> None:
    """Remove listed files but those of `keep`, and the folders that become empty."""
    for place, names in subtract_files(files, keep).items():
        # A status file could come from elsewhere: no path of it may leave the folder.
        if os.path.isabs(place) or ".." in Path(place).parts:
            continue
        for name in names:
            (folder / place / Path(name).name).unlink(missing_ok=True)
        path = folder / place
        while path != folder:
            try:
                path.rmdir()
            except OSError:  # not empty, or another shard was faster
                break
            path = path.parent


def remove_gone_units(root: DatasetRoot, stage: str, owned: Ownership) -> None:
    """Remove the files and the status of every unit whose input has disappeared.

    Files that a remaining unit owns too stay.
    """
    statuses = read_statuses(root, stage)
    gone = [status for status in statuses if owned.is_gone(status)]
    if not gone:
        return
    remaining = merge_files(*(status.files for status in statuses if status not in gone))
    for status in gone:
        files = merge_files(status.files, status.stale)
        remove_files(owned.folder, files, keep=remaining)
        root.status(stage, status.unit).unlink(missing_ok=True)


def remove_stale_files(root: DatasetRoot, stage: str, owned: Ownership) -> None:
    """Remove what units wrote in earlier runs and no unit owns any more.

    At the end of a run, because a file may pass from one unit to another.
    """
    statuses = read_statuses(root, stage)
    current = merge_files(*(status.files for status in statuses))
    for status in statuses:
        if status.stale:
            remove_files(owned.folder, status.stale, keep=current)
            write_status(root, stage, replace(status, stale={}))
