"""`compiled`: the decorator of the few hot loops, compiled by numba and cached on disk.

The first call compiles. The machine code is stored in `__pycache__` next to the source (or in
NUMBA_CACHE_DIR), so later processes start at once. `function.py_func` is the plain Python
version, for stepping through in a test.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """`function` as machine code; it releases the GIL, so threads can run it in parallel."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))
