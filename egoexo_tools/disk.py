"""The room of a disk, and sizes as users read them, in units of 1000."""

import shutil
from pathlib import Path

_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def size_text(count: float) -> str:
    """`12.3 GB`; the largest unit of which there is at least one, up to TB."""
    for unit, size in _UNITS:
        # What the one digit would round up to 1000.0 of the next smaller unit is one of this.
        if count >= 0.99995 * size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} bytes"


def existing_folder(folder: Path) -> Path:
    """The folder, or the nearest above it that exists: what is to be made is made on its disk."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def free_bytes(folder: Path) -> int:
    """What a user may still write to the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(existing_folder(folder)).free
