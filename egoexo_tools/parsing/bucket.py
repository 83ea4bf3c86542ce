"""A bucket's manifest.json: the files' locations and sizes.

The manifest is a list of entries, each with a `uid` and `paths` of `{relative_path, source_path,
size}`. An invalid entry is left out; a file that is missing for that reason is named by the code
that needs it.
"""

import logging
from collections.abc import Callable, Iterator

from egoexo_tools.aliases import Row
from egoexo_tools.errors import DataError
from egoexo_tools.parsing.json_text import REPEATED, parse_json
from egoexo_tools.parsing.lenient import posix_path, whole_number, without_mark

logger = logging.getLogger(__name__)


def read_manifest_files(
    text: bytes, where: str, is_needed: Callable[[str], bool]
) -> dict[str, Row]:
    """relative_path → `{relative_path, source_path, size, uid}` of the needed files.

    `size` is None where the manifest gives no valid size. A file with two different entries, or
    without a source, is left out with a warning. Raises DataError, with `where` as the name of the
    text, where it is not a manifest.
    """
    try:
        content = parse_json(without_mark(text))
    except (DataError, ValueError, RecursionError) as error:
        raise DataError(f"{where} is not a manifest ({error})") from error
    is_list = isinstance(content, list)
    entries = [entry for entry in content if isinstance(entry, dict)] if is_list else []
    if not is_list or (content and not entries):
        raise DataError(f"{where} is not a manifest: it must hold a list of entries with paths")
    if len(entries) < len(content):
        logger.warning("%s: %d invalid entries are left out", where, len(content) - len(entries))
    rows: dict[str, Row] = {}
    refused: set[str] = set()
    for row in _rows(entries):
        name = row["relative_path"]
        # Faults of files that are not needed are not reported.
        if name in refused or not is_needed(name):
            continue
        first = rows.setdefault(name, row)
        if row["is_repeated"] or any(row[key] != first[key] for key in ("source_path", "size")):
            fault = "is listed twice with different values"
        elif not isinstance(row["source_path"], str) or not row["source_path"]:
            fault = "has no source_path"
        else:
            continue
        logger.warning("%s: %s %s; it is left out", where, name, fault)
        refused.add(name)
    return {name: row for name, row in rows.items() if name not in refused}


def _rows(entries: list[Row]) -> Iterator[Row]:
    """A row per path of the entries; `is_repeated`: two different values under one key."""
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
