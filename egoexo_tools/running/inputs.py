"""Hashes of a result's inputs: of small files as a whole, and of weights files."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

MISSING = hashlib.sha256(b"missing").digest()
"""Digest of a file that does not exist."""


class FileDigests:
    """SHA-256 digests of files; each file is read once.

    `store` is a JSON file that keeps the digests for later processes. A file whose size,
    modification time and inode are unchanged keeps its digest. The toolkit replaces files by
    renaming, so a changed file has another inode.
    """

    def __init__(self, store: Path | None = None) -> None:
        self._store = store
        self._entries: dict[str, tuple[list[int], bytes]] = {}
        """Name → (size, mtime in ns, inode), digest."""
        self._changed = False
        if store is not None:
            with suppress(OSError, ValueError, TypeError, AttributeError):
                for name, (stamp, text) in json.loads(store.read_bytes()).items():
                    self._entries[name] = (stamp, bytes.fromhex(text))

    def of(self, path: Path) -> bytes:
        """The digest of a file's content, or MISSING if there is no such file."""
        # Relative to the store, so that a root that was moved as a whole keeps its digests.
        name = str(path) if self._store is None else os.path.relpath(path, self._store.parent)
        try:
            stat = path.stat()
        except OSError:
            return MISSING
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        entry = self._entries.get(name)
        if entry is not None and entry[0] == stamp:
            return entry[1]
        digest = hashlib.sha256(path.read_bytes()).digest()
        self._entries[name] = (stamp, digest)
        self._changed = True
        return digest

    def save(self) -> None:
        """Write the digests for the next process; if that fails, it reads the files again."""
        if self._store is None or not self._changed:
            return
        texts = {name: [stamp, digest.hex()] for name, (stamp, digest) in self._entries.items()}
        # A name of its own, because other processes may save at the same time.
        partial = self._store.with_name(f"{self._store.name}.{uuid.uuid4().hex}")
        with suppress(OSError):
            try:
                partial.write_text(json.dumps(texts))
                os.replace(partial, self._store)
            finally:
                partial.unlink(missing_ok=True)
        self._changed = False


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


def file_sha256(path: Path) -> str:
    """64 hex digits; reads in blocks, because weights files are large."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
