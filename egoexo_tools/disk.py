"""Free disk space, and sizes as text in decimal units."""

import shutil
from pathlib import Path

_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def size_text(count: float) -> str:
    """`12.3 GB`: the largest unit, up to TB, of which there is at least one."""
    for unit, size in _UNITS:
        # Rounding to one digit must not print "1000.0 kB" for 999,950 bytes.
        if count >= 0.99995 * size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} bytes"


def existing_folder(folder: Path) -> Path:
    """The folder or its nearest existing parent, on whose disk the folder would be created."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def free_bytes(folder: Path) -> int:
    """Bytes that the user may still write to the folder's disk; the folder need not exist."""
    return shutil.disk_usage(existing_folder(folder)).free
