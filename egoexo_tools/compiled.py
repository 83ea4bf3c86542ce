"""`compiled`: the decorator of the few hot loops, compiled by numba and cached on disk.

The first call compiles. The machine code is stored in `__pycache__` next to the source (or in
NUMBA_CACHE_DIR), so later processes start at once. `function.py_func` is the plain Python
version, for stepping through in a test.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import numba

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """`function` as machine code; it releases the GIL, so threads can run it in parallel."""
    try:
        loop: Any = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        # numba finds no folder to write to: a read-only installation and no home directory.
        _warn_uncached()
        return cast(F, numba.njit(nogil=True)(function))
    # numba inlines callees but compares only the file of the function itself, so a change in
    # another file would leave old machine code in use.
    loop.source_digest = _source_digest(function)
    loop._cache._cache_file._source_stamp = loop.source_digest
    return cast(F, loop)


def _source_digest(function: Callable[..., object]) -> str:
    """A digest of the function's file and of the files of all compiled functions it can call."""
    namespace: Mapping[str, Any] = getattr(function, "__globals__", {})
    own_file = Path(str(namespace["__file__"]))
    # A callee is imported, hence decorated, before its caller: its digest covers its own callees.
    callees = sorted(set(_callee_digests(namespace)))
    return hashlib.sha256("\n".join([_file_digest(own_file), *callees]).encode()).hexdigest()


def _callee_digests(namespace: Mapping[str, Any]) -> Iterator[str]:
    for value in namespace.values():
        names = vars(value).values() if isinstance(value, ModuleType) else (value,)
        for name in names:
            digest = getattr(name, "source_digest", None)
            if isinstance(digest, str) and name.py_func.__globals__ is not namespace:
                yield digest


@lru_cache
def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@lru_cache
def _warn_uncached() -> None:
    logger.warning(
        "compiled loops cannot be stored, so every process compiles them again (up to a minute); "
        "set NUMBA_CACHE_DIR to a folder that can be written"
    )
