"""Names that are imported on first use, so that importing a package is fast.

`exports` is for the public names of a package, `resolve` for entries of tables that name their
implementation as text. Both keep numpy, av and torch out of programs that do not need them.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def exports(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package; `modules`: its module → public names.

    A public name must differ from the package's modules: Python sets a module's name as an
    attribute of the package as soon as the module is imported.
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return get, names, sorted(module_of)


def resolve(dotted: str) -> Any:
    """The object named `package.module:name`; raises ImportError or AttributeError."""
    module, _, name = dotted.partition(":")
    return getattr(import_module(module), name)
