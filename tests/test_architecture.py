"""Imports go one way, folders stay small, and importing a command line is light."""

import ast
import subprocess
import sys
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
"""Package → its rooms (folders) and flat modules, lowest floor first. A file imports from its own
floor and from below. `omama` as a whole stands above `egoexo_tools`, which never looks up."""

TORCH_ALONE = ("features/descriptors", "features/descriptor_part", "features/backbones") + tuple(
    f"matching/{name}" for name in ("layers", "losses", "model")
)
"""Files of omama that need nothing but torch and timm, nor does what they import at once, so that
they can be lent."""
LENT_WITH_THEM = ("omama",) + tuple(
    f"egoexo_tools.{name}" for name in ("errors", "layout", "lazy", "runs", "vocab")
)
"""Of our own: importing them loads nothing foreign either."""


def files(package: str) -> list[Path]:
    return sorted((PROJECT / package).rglob("*.py"))


def room(path: Path) -> str:
    """`egoexo_tools/video/frames.py` → `video`; a flat module is its own room."""
    return path.relative_to(PROJECT).parts[1].removesuffix(".py")


def imports(path: Path, *, at_once: bool = False) -> set[str]:
    """The dotted modules that a file imports; inside functions too, if not only those that it needs
    `at_once`; not under TYPE_CHECKING."""
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
    """Dotted name → file, of both packages; a folder is its `__init__`."""
    found = {}
    for package in PACKAGES:
        for path in files(package):
            parts = path.relative_to(PROJECT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def floor(package: str, name: str) -> int:
    for number, rooms in enumerate(FLOORS[package]):
        if name in rooms:
            return number
    raise AssertionError(f"{package}/{name} has no floor: give it one in FLOORS")


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_downwards(package: str) -> None:
    rooms = {room(path) for path in files(package)} - {"__init__"}
    wrong = [
        f"{path.relative_to(PROJECT)} imports {name}"
        for path in files(package)
        if room(path) != "__init__"
        for name in imports(path)
        if name.startswith(f"{package}.") and (other := name.split(".")[1]) in rooms
        if floor(package, other) > floor(package, room(path))
    ]
    assert wrong == []


def test_egoexo_tools_never_looks_up_into_omama() -> None:
    wrong = [
        str(path.relative_to(PROJECT))
        for path in files("egoexo_tools")
        if any(name.split(".")[0] == "omama" for name in imports(path))
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    known = modules()
    graph = {
        name: {other for other in imports(path) if other in known and other != name}
        for name, path in known.items()
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
"""Of a function; beyond that its arguments belong together in a record. Click commands have one
for each option, compiled loops cannot take records."""


def parameters(function: ast.FunctionDef) -> int:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return len([name for name in named if name.arg not in {"self", "cls"}])


def test_no_function_takes_a_heap_of_parameters() -> None:
    wrong = [
        f"{path.relative_to(PROJECT)}: {node.name} takes {parameters(node)}"
        for package in PACKAGES
        for path in files(package)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        if not {"compiled", "_compiled", "command"}
        & {
            word
            for one in node.decorator_list
            for word in ast.unparse(one).split("(")[0].split(".")
        }
        if parameters(node) > MOST_PARAMETERS
    ]
    assert wrong == []


STAGES = {"ingest", "frames", "pairs", "propose", "export"}


def test_stages_do_not_import_each_other() -> None:
    wrong = [
        f"{name} imports {other}"
        for name in STAGES
        for other in imports(PROJECT / "egoexo_tools" / "stages" / f"{name}.py")
        if other.startswith("egoexo_tools.stages.")
        and not other.startswith("egoexo_tools.stages.settings")  # what users choose; no stage
    ]
    assert wrong == []


def test_the_network_modules_reach_torch_and_timm_alone() -> None:
    known, allowed = modules(), {"torch", "timm"} | set(sys.stdlib_module_names)
    todo = [f"omama.{name.replace('/', '.')}" for name in TORCH_ALONE]
    seen, wrong = set(todo), []
    while todo:
        name = todo.pop()
        for imported in imports(known[name], at_once=True):
            module = imported if imported in known else imported.rpartition(".")[0]
            if imported.split(".")[0] in allowed or module in PACKAGES:
                continue
            if module not in known or not module.startswith(LENT_WITH_THEM):
                wrong.append(f"{name} imports {imported}")
            elif module not in seen:
                seen.add(module)
                todo.append(module)
    assert wrong == []


@pytest.mark.parametrize("module", ["egoexo_tools", "egoexo_tools.cli", "omama", "omama.cli"])
def test_importing_a_command_line_loads_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module}; "
        "print(sorted({'torch', 'pandas', 'pyarrow', 'cv2', 'numpy', 'numba'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


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
