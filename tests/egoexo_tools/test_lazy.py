"""Exported names of packages exist and are imported on first use."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from egoexo_tools import lazy

PROJECT = Path(__file__).parents[2]


def packages() -> list[str]:
    """Packages with lazily exported names."""
    files = [*PROJECT.glob("egoexo_tools/**/__init__.py"), *PROJECT.glob("omama/**/__init__.py")]
    return sorted(
        ".".join(path.parent.relative_to(PROJECT).parts)
        for path in files
        if "lazy.exports(" in path.read_text()
    )


def modules_after(code: str) -> set[str]:
    """The top-level modules that a new interpreter has imported after `code`."""
    code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(process.stdout.split())


def test_a_package_imports_its_modules_on_first_use() -> None:
    heavy = {"numpy", "pandas", "pyarrow", "av", "cv2", "torch", "numba"}
    assert not heavy & modules_after("import egoexo_tools")
    assert not heavy & modules_after("from egoexo_tools import DatasetRoot, Release")
    modules = modules_after(
        "from egoexo_tools import MaskRle, read_frames, read_manifest, run_stage"
    )
    assert {"numpy", "av", "pyarrow"} <= modules and "torch" not in modules


@pytest.mark.parametrize("package", packages())
def test_exported_names_exist(package: str) -> None:
    module = import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize("package", packages())
def test_type_checkers_see_the_exported_names(package: str) -> None:
    module = import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname for node in typed.body for alias in getattr(node, "names", []) if alias.asname
    }
    assert sorted(imported) == module.__all__


@pytest.mark.parametrize("package", packages())
def test_no_exported_name_is_a_module_of_the_package(package: str) -> None:
    module = import_module(package)
    modules = {path.stem for path in Path(str(module.__file__)).parent.glob("*")}
    assert not modules & set(module.__all__)


def test_resolve_imports_dotted_names() -> None:
    assert lazy.resolve("egoexo_tools.lazy:resolve") is lazy.resolve
    with pytest.raises(AttributeError):
        lazy.resolve("egoexo_tools.lazy:nothing")
