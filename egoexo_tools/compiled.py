"""`compiled`: the decorator of the few hot loops, compiled by numba and cached on disk.

Compilation happens at the first call; the machine code lies in `__pycache__` beside the source
(or in NUMBA_CACHE_DIR), so that the next process starts at once. `function.py_func` is the plain
Python version, which tests can step through.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """`function` as machine code; releases the GIL, so that threads can share the work."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))
