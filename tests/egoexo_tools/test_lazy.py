"""The faces of packages: what they promise is there, and comes only when it is used."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from egoexo_tools import lazy

PROJECT = Path(__file__).parents[2]


def packages() -> list[str]:
    """Packages whose `__init__` is a face."""
    files = [*PROJECT.glob("egoexo_tools/**/__init__.py"), *PROJECT.glob("omama/**/__init__.py")]
    return sorted(
        ".".join(path.parent.relative_to(PROJECT).parts)
        for path in files
        if "lazy.exports(" in path.read_text()
    )


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh Python holds after `code`."""
    code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(shown.stdout.split())


def test_the_front_door_imports_nothing_until_a_name_is_used() -> None:
    heavy = {"numpy", "pandas", "pyarrow", "av", "cv2", "torch", "numba"}
    assert not heavy & modules_after("import egoexo_tools")
    assert not heavy & modules_after("from egoexo_tools import DatasetRoot, Release")
    used = modules_after("from egoexo_tools import MaskRle, read_frames, read_manifest, run_stage")
    assert {"numpy", "av", "pyarrow"} <= used and "torch" not in used


@pytest.mark.parametrize("package", packages())
def test_a_face_gives_what_it_lists(package: str) -> None:
    module = import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize("package", packages())
def test_type_checkers_see_the_same_names(package: str) -> None:
    module = import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname for node in typed.body for alias in getattr(node, "names", []) if alias.asname
    }
    assert sorted(imported) == module.__all__


@pytest.mark.parametrize("package", packages())
def test_no_name_of_a_face_is_a_module_beside_it(package: str) -> None:
    module = import_module(package)
    beside = {path.stem for path in Path(str(module.__file__)).parent.glob("*")}
    assert not beside & set(module.__all__)


def test_resolve_reads_dotted_names() -> None:
    assert lazy.resolve("egoexo_tools.lazy:resolve") is lazy.resolve
    with pytest.raises(AttributeError):
        lazy.resolve("egoexo_tools.lazy:nothing")
