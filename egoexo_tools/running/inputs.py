"""Digests of a result's inputs: small files as a whole, videos, and the pictures of a root.

All of them are remembered by the stamp of the file, so that an unchanged file is not read again.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from egoexo_tools.layout import DatasetRoot, write_atomic

MISSING = hashlib.sha256(b"missing").digest()
"""Digest of a file that does not exist."""
DIGESTS = ".digests"
"""Name of the file that remembers the digests of a stage's inputs."""


class FileDigests:
    """SHA-256 digests of files; each file is read once.

    `store` is a JSON file that keeps the digests for later processes. A file whose size,
    modification time and inode are unchanged keeps its digest. The toolkit replaces files by
    renaming, so a changed file has another inode.
    """

    def __init__(self, store: Path | None = None) -> None:
        self._store = store
        self._entries: dict[str, tuple[list[int], bytes]] = {}
        """Name → stamp (of a file: size, mtime in ns, inode), digest."""
        self._changed = False
        if store is not None:
            with suppress(OSError, ValueError, TypeError, AttributeError):
                for name, (stamp, text) in json.loads(store.read_bytes()).items():
                    self._entries[name] = (stamp, bytes.fromhex(text))

    def of(self, path: Path, read: Callable[[Path], bytes] | None = None) -> bytes:
        """The digest of a file's content, or MISSING if there is no such file.

        `read` returns what stands for the content, for files too large to be read as a whole.
        """
        # Relative to the store, so that a root that was moved as a whole keeps its digests.
        name = str(path) if self._store is None else os.path.relpath(path, self._store.parent)
        try:
            stat = path.stat()
        except OSError:
            return MISSING

        def compute() -> bytes:
            if read is not None:
                return hashlib.sha256(read(path)).digest()
            return bytes.fromhex(file_sha256(path))

        return self.recall(name, file_stamp(stat), compute)

    def recall(self, name: str, stamp: list[int], compute: Callable[[], bytes]) -> bytes:
        """The digest that was remembered for this name and stamp, or a computed one."""
        entry = self._entries.get(name)
        if entry is None or entry[0] != stamp:
            entry = (stamp, compute())
            self._entries[name] = entry
            self._changed = True
        return entry[1]

    def save(self) -> None:
        """Write the digests for the next process; if that fails, it reads the files again."""
        if self._store is None or not self._changed:
            return
        texts = {name: [stamp, digest.hex()] for name, (stamp, digest) in self._entries.items()}
        with suppress(OSError):
            write_atomic(self._store, json.dumps(texts))
        self._changed = False


def stage_digests(root: DatasetRoot, stage: str) -> FileDigests:
    """The digests of a stage's inputs."""
    return FileDigests(root.status_dir(stage) / DIGESTS)


def file_stamp(stat: os.stat_result) -> list[int]:
    """Size, modification time in ns and inode: equal while the content is."""
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def hash_files(paths: Iterable[Path], *, digests: FileDigests | None = None) -> str:
    """16 hex digits that change when a file's content changes, or a file appears or disappears.

    A missing file counts too: proposals that were made later are a reason to redo a unit.
    `digests` keeps digests between calls, for files that many results share.
    """
    digests = digests or FileDigests()
    return hashlib.sha256(b"".join(digests.of(path) for path in paths)).hexdigest()[:16]


def hash_texts(texts: Iterable[str]) -> str:
    """16 hex digits of texts in order, which may be file names that are not valid UTF-8."""
    data = "\n".join(texts).encode(errors="surrogateescape")
    return hashlib.sha256(data).hexdigest()[:16]


def hash_stamps(folder: Path, *, without: Sequence[Path] = ()) -> str:
    """16 hex digits of the names and stamps of all files below a folder.

    For folders of other programs with too many bytes to read. Links are followed; a link to a
    missing file counts by its name.
    """
    lines = []
    for path in walk_files(folder):
        if path not in without:
            try:
                stamp = file_stamp(path.stat())
            except OSError:
                stamp = []
            lines.append(f"{path.relative_to(folder)} {stamp}")
    return hash_texts(sorted(lines))


def walk_files(folder: Path) -> Iterator[Path]:
    """All files below a folder, also in folders that are links; a loop of links is entered once."""
    for place, folders, names in os.walk(folder, followlinks=True):
        parents = {os.path.realpath(parent) for parent in (Path(place), *Path(place).parents)}
        folders[:] = [f for f in folders if os.path.realpath(os.path.join(place, f)) not in parents]
        yield from (Path(place, name) for name in names)


def file_sha256(path: Path) -> str:
    """64 hex digits; reads in blocks, because weights files are large."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
