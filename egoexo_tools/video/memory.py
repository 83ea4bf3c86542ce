"""Memory of pictures goes back to the system when they are freed."""

import ctypes
from functools import cache

_M_MMAP_THRESHOLD = -3
"""mallopt's name for it, in glibc's malloc.h."""
_LARGE_BLOCK = 1 << 20


@cache
def give_back_pictures() -> bool:
    """Have glibc map every large block for itself; False where there is no glibc.

    Left alone, it raises what it calls large to the largest block that was freed, up to 32 MB. A
    picture of 12 or 25 MB then lies in the arena of the thread that made it and leaves a hole
    there: 65 MB of the 487 that a process of `frames` came to at 4K with two threads.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK))
    except (AttributeError, OSError, TypeError):
        return False
