"""Names that are imported when they are used, so that importing a package costs nothing.

Two kinds: what a package gives to its users (`exports`), and what a table names as text
(`resolve`). Both keep numpy, av and torch out of a program that has not asked for them.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def exports(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package; `modules`: module in it → its names.

    A name may not be that of a module beside it: Python sets that one as soon as it is imported.
    """
    home = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{home[name]}"), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return get, names, sorted(home)


def resolve(dotted: str) -> Any:
    """What `package.module:name` names; ImportError or AttributeError if there is no such thing."""
    module, _, name = dotted.partition(":")
    return getattr(import_module(module), name)
