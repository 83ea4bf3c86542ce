"""Accounts for the disk space of a budget: reserved before a file arrives, never exceeded."""

import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

BLOCK_BYTES = 4096
"""The allocation unit of most file systems."""


@dataclass
class Ledger:
    """Bytes on disk, including those about to be written; never above `total_bytes`."""

    total_bytes: int
    used_bytes: int
    _reservations: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False

    def reserve(self, amount: int) -> bool:
        """Wait until `amount` fits and count it; False where it never will."""
        with self._changed:
            while self.used_bytes + amount > self.total_bytes:
                # Without a reservation nobody will release anything: waiting would never end.
                if self._closed or not self._reservations:
                    return False
                self._changed.wait()
            # Counted before the first byte arrives: two takes must not grow into the same space.
            self.used_bytes += amount
            self._reservations += 1
            return not self._closed

    def release(self, amount: int) -> None:
        """End a reservation; `amount` bytes of it are free again."""
        with self._changed:
            self.used_bytes -= amount
            self._reservations -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Make the threads that wait in `reserve` return False."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def occupied_bytes(folders: Iterable[Path]) -> int:
    """Bytes that folders occupy on disk, in whole blocks."""
    total = 0
    for folder in folders:
        for path in list(folder.rglob("*")):
            with suppress(FileNotFoundError):  # a partial file was renamed after it was listed
                status = path.lstat()
                # Some file systems allocate late and report 0 blocks for what was just written.
                total += max(status.st_blocks * 512, status.st_size)
    return total


def round_to_blocks(size: int) -> int:
    """Bytes that a file of `size` bytes occupies on disk."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
