"""Whether the pictures of a root are those of its frames manifest.

A row of the manifest has the digest of its picture. Every command that reads pictures checks them
first. `<root>/.digests/<take_uid>.<camera>.json` remembers the sizes, times and inodes of a
camera's pictures when they were last compared, so that unchanged pictures are not read.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from egoexo_tools.aliases import Row
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, path_component
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.inputs import FileDigests, file_stamp, hash_texts

_EXAMPLES = 3


def picture_digest(data: bytes | memoryview) -> str:
    """`digest` of the frames manifest for a picture file's content."""
    return hashlib.sha256(data).hexdigest()[:16]


def check_pictures(root: DatasetRoot, *units: str) -> None:
    """DataError if a picture is missing or not that of the manifest; `units`: `<take>.<camera>`."""
    changed = [path for paths in changed_pictures(root, units or None).values() for path in paths]
    if changed:
        more = f" and {len(changed) - _EXAMPLES:,} more" if len(changed) > _EXAMPLES else ""
        raise DataError(
            f"{', '.join(changed[:_EXAMPLES])}{more} of {root.path} changed or disappeared "
            "since the frames manifest was written; run `egoexo-tools frames` (in an imported "
            "root, `egoexo-tools import`) again, which writes them anew"
        )


def changed_pictures(root: DatasetRoot, units: Iterable[str] | None = None) -> dict[str, list[str]]:
    """Unit of the frames manifest → its pictures that are missing or changed, if any.

    `units` are the names of parts, of which some may not exist; None stands for all.
    """
    if units is not None:
        units = [unit for unit in units if root.part("frames", unit).exists()]
    if units == [] or not root.table("frames").is_dir():
        return {}
    columns = ["take_uid", "camera", "path", "digest"]
    table = read_manifest(root, "frames", columns=columns, units=units)
    changed = {
        unit: _changed_of_camera(root, unit, paths, digests)
        for unit, paths, digests in _by_camera(table)
    }
    return {unit: paths for unit, paths in changed.items() if paths}


def remember_pictures(root: DatasetRoot, unit: str, rows: Sequence[Row]) -> None:
    """Note that the pictures of these rows of the manifest have just been written."""
    store = _store(root, unit)
    paths = [row["path"] for row in rows]
    store.recall(unit, _stamp(root, paths), lambda: _summary([row["digest"] for row in rows]))
    store.save()


def _changed_of_camera(
    root: DatasetRoot, unit: str, paths: Sequence[str], digests: Sequence[str | None]
) -> list[str]:
    store = _store(root, unit)
    current: list[str] = []

    def read() -> bytes:
        current.extend(_read_digest(root.path / path) for path in paths)
        return _summary(current)

    summary = store.recall(unit, _stamp(root, paths), read)
    # Rows of other programs have no digest: their pictures are only compared with the last time.
    if None in digests or summary == _summary(digests):
        store.save()
        return []
    current = current or [_read_digest(root.path / path) for path in paths]
    pairs = zip(paths, digests, current, strict=True)
    return [path for path, digest, now in pairs if digest != now]


def _by_camera(table: pa.Table) -> Iterator[tuple[str, list[str], list[str | None]]]:
    """Unit, paths and digests of each camera, in the order of the table."""
    start = 0
    takes, cameras = table["take_uid"].to_pylist(), table["camera"].to_pylist()
    paths, digests = table["path"].to_pylist(), table["digest"].to_pylist()
    names = list(zip(takes, cameras, strict=True))
    for end in range(1, len(names) + 1):
        if end == len(names) or names[end] != names[start]:
            yield ".".join(names[start]), paths[start:end], digests[start:end]
            start = end


def _store(root: DatasetRoot, unit: str) -> FileDigests:
    return FileDigests(root.path / ".digests" / f"{path_component(unit)}.json")


def _stamp(root: DatasetRoot, paths: Sequence[str]) -> list[int]:
    """Number of pictures, and a hash of their names and stamps."""
    lines = []
    for path in paths:
        try:
            lines.append(f"{path} {file_stamp(os.stat(f'{root.path}/{path}'))}")
        except OSError:
            lines.append(path)
    return [len(paths), int(hash_texts(lines), 16)]


def _read_digest(path: Path) -> str:
    """The digest of a picture; "" if it cannot be read."""
    try:
        return picture_digest(path.read_bytes())
    except OSError:
        return ""


def _summary(digests: Sequence[str | None]) -> bytes:
    return hashlib.sha256("\n".join(map(str, digests)).encode()).digest()
