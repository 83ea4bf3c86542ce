"""A bucket's manifest.json: which files lie where, and how large they are.

A list of entries, each with a `uid` and `paths` of `{relative_path, source_path, size}`. One entry
that makes no sense costs itself; what it lacks is missed, and named, where the file is wanted.
"""

import logging
from collections.abc import Callable, Iterator

from egoexo_tools.aliases import Row
from egoexo_tools.errors import DataError
from egoexo_tools.parsing.json_text import REPEATED, parse_json
from egoexo_tools.parsing.lenient import posix_path, whole_number, without_mark

logger = logging.getLogger(__name__)


def read_manifest_files(text: bytes, where: str, wanted: Callable[[str], bool]) -> dict[str, Row]:
    """relative_path → `{relative_path, source_path, size, uid}` of the wanted files.

    `size` is None where the manifest gives none that can be one. A file that is listed twice in
    different ways is left out with a warning, as is one without a source. Raises DataError where
    the text is no manifest at all.
    """
    try:
        entries = parse_json(without_mark(text))
    except (DataError, ValueError, RecursionError) as error:
        raise DataError(f"{where} is no manifest ({error})") from error
    good = [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else None
    if good is None or (entries and not good):
        raise DataError(f"{where} is no manifest: it must hold a list of entries with paths")
    if len(good) < len(entries):
        logger.warning("%s: %d entries are none and left out", where, len(entries) - len(good))
    found: dict[str, Row] = {}
    refused: set[str] = set()
    for row in _rows(good):
        name = row["relative_path"]
        if name in refused or not wanted(name):
            continue
        # Faults of files that nobody asks for harm nobody, and are not judged.
        why = _fault(row, found.setdefault(name, row))
        if why is not None:
            logger.warning("%s: %s %s; it is left out", where, name, why)
            refused.add(name)
    return {name: row for name, row in found.items() if name not in refused}


def _rows(entries: list[Row]) -> Iterator[Row]:
    for entry in entries:
        paths = entry.get("paths")
        for path in paths if isinstance(paths, list) else ():
            name = path.get("relative_path") if isinstance(path, dict) else None
            if not isinstance(name, str):
                continue
            size = whole_number(path.get("size"))
            yield {
                "relative_path": posix_path(name).as_posix(),
                "source_path": path.get("source_path"),
                "size": size if size is not None and size >= 0 else None,
                "is_repeated": REPEATED in path.values(),
                "uid": str(entry.get("uid") or ""),
            }


def _fault(row: Row, first: Row) -> str | None:
    keys = ("source_path", "size")
    if row["is_repeated"] or any(row[key] != first[key] for key in keys):
        return "is listed twice, and not the same"
    source = row["source_path"]
    if not isinstance(source, str) or not source:
        return "has no source_path"
    return None
