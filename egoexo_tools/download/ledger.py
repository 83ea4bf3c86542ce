"""What is on a disk that has a budget: counted before it comes, so that it never holds more."""

import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

BLOCK_BYTES = 4096
"""What a file system gives out at a time, as a rule."""


@dataclass
class Ledger:
    """What is on disk, or is about to be; never above the total."""

    total_bytes: int
    used_bytes: int
    _lent: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False

    def reserve(self, amount: int) -> bool:
        """Wait until `amount` fits and count it; False where it never will."""
        with self._changed:
            while self.used_bytes + amount > self.total_bytes:
                # With nothing on loan nobody will give anything back: waiting would never end.
                if self._closed or not self._lent:
                    return False
                self._changed.wait()
            # Before the first byte comes: files of two takes may never grow into the same room.
            self.used_bytes += amount
            self._lent += 1
            return not self._closed

    def release(self, amount: int) -> None:
        """A load is over: this much of the disk is free again."""
        with self._changed:
            self.used_bytes -= amount
            self._lent -= 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def occupied_bytes(folders: Iterable[Path]) -> int:
    """Bytes that folders take on disk, whole blocks."""
    return sum(
        _on_disk(path)
        for folder in folders
        for path in ([*folder.rglob("*")] if folder.exists() else [])
    )


def round_to_blocks(size: int) -> int:
    """Bytes that a file of `size` bytes takes on disk."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _on_disk(path: Path) -> int:
    with suppress(FileNotFoundError):  # a partial file got its name meanwhile
        found = path.lstat()
        # Some file systems give blocks out late and say 0 for what was just written.
        return max(found.st_blocks * 512, found.st_size)
    return 0
