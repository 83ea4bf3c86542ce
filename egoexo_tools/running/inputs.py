"""Hashes of what a result was made from: small files whole, and files of weights."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def hash_files(paths: Iterable[Path], *, known: dict[Path, bytes] | None = None) -> str:
    """16 hex digits that change with a file's content, and when it comes or goes.

    A file that is not there counts too: proposals that were made since are a reason to start
    anew. `known` keeps digests between calls, for files that many results share.
    """
    digest = hashlib.sha256()
    for path in paths:
        found = None if known is None else known.get(path)
        if found is None:
            found = hashlib.sha256(path.read_bytes() if path.exists() else b"missing").digest()
            if known is not None:
                known[path] = found
        digest.update(found)
    return digest.hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """64 hex digits, read piece by piece: files of weights are large."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
