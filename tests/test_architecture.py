"""Imports go one way, functions have few parameters, and importing a command line is fast."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGES = ("egoexo_tools", "omama")

FLOORS = {
    "egoexo_tools": (
        {"aliases", "arrays", "errors", "lazy", "compiled", "text_table", "disk"},
        {"vocab"},
        {"layout", "sampling"},
        {"masks", "manifests"},
        {"running", "runs", "needed_frames"},
        {"video"},
        {"parsing", "proposers"},
        {"formats"},
        {"release"},
        {"download"},
        {"doctor", "viewing", "checks", "synthetic"},
        {"evaluation"},
        {"stages", "importing", "report"},
        {"commands"},
        {"cli"},
    ),
    "omama": (
        {"checkpoint", "confidence", "config", "dataset", "run_log", "stopping", "task"},
        {"tables"},
        {"features", "loop"},
        {"matching", "deciding", "lm_eec"},
        {"prediction", "methods", "writing"},
        {"steps", "pipeline", "demo"},
        {"commands"},
        {"cli"},
    ),
}
"""Package → layers of rooms (folders, and modules beside them), lowest first.

A file imports from its own layer and the layers below. `omama` is above `egoexo_tools`.
"""

TORCH_ALONE = ("features/descriptors", "features/descriptor_part", "features/backbones") + tuple(
    f"matching/{name}" for name in ("layers", "losses", "model")
)
"""Files of omama that other projects can use: with their imports they need only torch and timm."""
IMPORTED_BY_THEM = ("omama",) + tuple(
    f"egoexo_tools.{name}" for name in ("errors", "layout", "lazy", "runs", "vocab")
)
"""Our modules that they import; these import only the standard library."""


def files(package: str) -> list[Path]:
    return sorted((PROJECT / package).rglob("*.py"))


def room(path: Path) -> str:
    """`egoexo_tools/video/frames.py` → `video`; a module beside the folders is its own room."""
    return path.relative_to(PROJECT).parts[1].removesuffix(".py")


@cache
def imports(path: Path, *, at_once: bool = False) -> set[str]:
    """The dotted names that a file imports, without those under TYPE_CHECKING.

    With `at_once`, without those that functions import when called.
    """
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        or (at_once and isinstance(node, ast.FunctionDef))
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def modules() -> dict[str, Path]:
    """Dotted name → file, of both packages; the file of a folder is its `__init__`."""
    paths = {}
    for package in PACKAGES:
        for path in files(package):
            parts = path.relative_to(PROJECT).with_suffix("").parts
            paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


def floor(package: str, name: str) -> int:
    for number, rooms in enumerate(FLOORS[package]):
        if name in rooms:
            return number
    raise AssertionError(f"{package}/{name} is not in FLOORS; add it to a layer")


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_downwards(package: str) -> None:
    rooms = {room(path) for path in files(package)} - {"__init__"}
    violations = [
        f"{path.relative_to(PROJECT)} imports {name}"
        for path in files(package)
        if room(path) != "__init__"
        for name in imports(path)
        if name.startswith(f"{package}.") and (other := name.split(".")[1]) in rooms
        if floor(package, other) > floor(package, room(path))
    ]
    assert violations == []


def test_egoexo_tools_does_not_import_omama() -> None:
    violations = [
        str(path.relative_to(PROJECT))
        for path in files("egoexo_tools")
        if any(name.split(".")[0] == "omama" for name in imports(path))
    ]
    assert violations == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    paths = modules()
    graph = {
        name: {other for other in imports(path) if other in paths and other != name}
        for name, path in paths.items()
        if path.name != "__init__.py"
    }
    while free := [name for name, others in graph.items() if not others & set(graph)]:
        for name in free:
            del graph[name]
    assert sorted(graph) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folders_import_each_other(package: str) -> None:
    graph: dict[str, set[str]] = {room(path): set() for path in files(package)}
    for path in files(package):
        names = {name.split(".")[1] for name in imports(path) if name.startswith(f"{package}.")}
        graph[room(path)] |= names & set(graph) - {room(path), "__init__"}
    while free := [name for name, others in graph.items() if not others & set(graph)]:
        for name in free:
            del graph[name]
    assert sorted(graph) == []


MOST_PARAMETERS = 8
"""Per function; more arguments belong in a dataclass. Exceptions: Click commands, which have one
per option, and compiled loops, which cannot take dataclasses."""


def parameters(function: ast.FunctionDef) -> int:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return len([name for name in named if name.arg not in {"self", "cls"}])


def test_functions_have_few_parameters() -> None:
    violations = [
        f"{path.relative_to(PROJECT)}: {node.name} takes {parameters(node)}"
        for package in PACKAGES
        for path in files(package)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        if not {"compiled", "_compiled", "command"}
        & {
            word
            for decorator in node.decorator_list
            for word in ast.unparse(decorator).split("(")[0].split(".")
        }
        if parameters(node) > MOST_PARAMETERS
    ]
    assert violations == []


STAGES = {"ingest", "frames", "pairs", "propose", "export"}


def test_stages_do_not_import_each_other() -> None:
    violations = [
        f"{name} imports {other}"
        for name in STAGES
        for other in imports(PROJECT / "egoexo_tools" / "stages" / f"{name}.py")
        if other.startswith("egoexo_tools.stages.")
        and not other.startswith("egoexo_tools.stages.settings")  # settings of users, not a stage
    ]
    assert violations == []


def test_the_network_modules_need_only_torch_and_timm() -> None:
    paths, allowed = modules(), {"torch", "timm"} | set(sys.stdlib_module_names)
    pending = [f"omama.{name.replace('/', '.')}" for name in TORCH_ALONE]
    visited, violations = set(pending), []
    while pending:
        name = pending.pop()
        for imported in imports(paths[name], at_once=True):
            module = imported if imported in paths else imported.rpartition(".")[0]
            if imported.split(".")[0] in allowed or module in PACKAGES:
                continue
            if module not in paths or not module.startswith(IMPORTED_BY_THEM):
                violations.append(f"{name} imports {imported}")
            elif module not in visited:
                visited.add(module)
                pending.append(module)
    assert violations == []


@pytest.mark.parametrize("module", ["egoexo_tools", "egoexo_tools.cli", "omama", "omama.cli"])
def test_importing_a_command_line_loads_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module}; "
        "print(sorted({'torch', 'pandas', 'pyarrow', 'cv2', 'numpy', 'numba'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("program", ["egoexo-tools", "omama"])
def test_help_comes_within_a_third_of_a_second(program: str) -> None:
    code = (
        "import time; start = time.process_time(); "
        f"from {program.replace('-', '_')}.cli import main; "
        "main(['--help'], standalone_mode=False); print(time.process_time() - start)"
    )
    seconds = min(
        float(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            ).stdout.split()[-1]
        )
        for _ in range(5)
    )
    assert seconds < 0.3
