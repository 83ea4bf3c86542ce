"""Hashes of what a result was made from: small files whole, and files of weights."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

MISSING = hashlib.sha256(b"missing").digest()
"""In place of a file that is not there."""


class FileDigests:
    """SHA-256 of files, each read once; with `memory`, not even again in the next process.

    `memory` is a JSON file of what was known before: a file whose size, time of change and inode
    are as they were has the digest that it had. Files are replaced by renaming here, so that a
    changed one has another inode.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known: dict[str, tuple[list[int], bytes]] = {}
        self._changed = False
        if memory is not None:
            with suppress(OSError, ValueError, TypeError, AttributeError):
                for name, (stamp, text) in json.loads(memory.read_bytes()).items():
                    self._known[name] = (stamp, bytes.fromhex(text))

    def of(self, path: Path) -> bytes:
        """The digest of a file's content, MISSING where there is none."""
        name = self._name(path)
        try:
            stat = path.stat()
        except OSError:
            return MISSING
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._known.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        digest = hashlib.sha256(path.read_bytes()).digest()
        self._known[name] = (stamp, digest)
        self._changed = True
        return digest

    def save(self) -> None:
        """Remember for the next process; where that cannot be written, it reads them again."""
        if self._memory is None or not self._changed:
            return
        kept = {name: [stamp, digest.hex()] for name, (stamp, digest) in self._known.items()}
        partial = self._memory.with_name(f"{self._memory.name}.{uuid.uuid4().hex}")
        with suppress(OSError):
            try:
                partial.write_text(json.dumps(kept))
                os.replace(partial, self._memory)  # whole, whoever else does the same
            finally:
                partial.unlink(missing_ok=True)
        self._changed = False

    def _name(self, path: Path) -> str:
        # Relative, so that a root that was moved as a whole remembers what it can.
        return str(path) if self._memory is None else os.path.relpath(path, self._memory.parent)


def hash_files(paths: Iterable[Path], *, digests: FileDigests | None = None) -> str:
    """16 hex digits that change with a file's content, and when it comes or goes.

    A file that is not there counts too: proposals that were made since are a reason to start
    anew. `digests` keeps digests between calls, for files that many results share.
    """
    digest = hashlib.sha256()
    digests = digests or FileDigests()
    for path in paths:
        digest.update(digests.of(path))
    return digest.hexdigest()[:16]


def hash_texts(texts: Iterable[str]) -> str:
    """16 hex digits of texts in order."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """64 hex digits, read piece by piece: files of weights are large."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
