"""Imports go one way, and importing a command line is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]

LEVELS = [
    {"errors", "compiled"},
    {"vocab"},
    {"layout", "lzstring", "executors", "run_lock", "byte_source", "video_index", "video_output"}
    | {"read_ahead"},
    {"manifests", "masks", "video"},
    {"stage", "relations", "legacy", "sampling"},
]
"""Modules of egoexo_tools that others build on, lowest first; whatever is not named is above."""

TOP = {"cli", "pipeline", "commands"}

OMAMA_MAY_USE = {
    *("compiled", "errors", "executors", "layout", "manifests", "masks", "stage", "vocab"),
}
TORCH_ONLY = {"layers", "descriptors", "losses", "model", "backbones"}


def modules(package: str) -> dict[str, list[Path]]:
    """Top-level module or sub-package name → its files."""
    found: dict[str, list[Path]] = {}
    for path in sorted((PROJECT / package).rglob("*.py")):
        name = path.relative_to(PROJECT / package).parts[0].removesuffix(".py")
        found.setdefault(name, []).append(path)
    return found


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """The dotted names that a file imports; TYPE_CHECKING blocks do not count."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        or (top_level_only and isinstance(node, ast.FunctionDef))
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


def used(path: Path, package: str) -> set[str]:
    """The top-level modules of a package that a file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith(f"{package}.")} & set(
        modules(package)
    )


def level(name: str) -> int:
    for number, names in enumerate(LEVELS):
        if name in names:
            return number
    return 99 if name in TOP else len(LEVELS)


def test_egoexo_tools_imports_go_downwards() -> None:
    wrong = [
        f"{path.relative_to(PROJECT)} imports {other}"
        for name, paths in modules("egoexo_tools").items()
        for path in paths
        for other in used(path, "egoexo_tools") - {name}
        if level(other) > level(name)
    ]
    assert wrong == []


STAGES = {"download", "ingest", "frames", "pairs", "propose", "export"}


def test_stages_do_not_import_each_other() -> None:
    files = modules("egoexo_tools")
    wrong = [
        f"{path.relative_to(PROJECT)} imports {other}"
        for name in STAGES & set(files)
        for path in files[name]
        for other in used(path, "egoexo_tools") & (STAGES - {name})
    ]
    assert wrong == []


def test_omama_uses_only_the_shared_seams() -> None:
    wrong = [
        f"{path.relative_to(PROJECT)} imports {other}"
        for name, paths in modules("omama").items()
        if name not in {"cli", "commands"}
        for path in paths
        for other in used(path, "egoexo_tools") - OMAMA_MAY_USE
    ]
    assert wrong == []


def test_egoexo_tools_imports_omama_in_pipeline_and_commands_inside_functions() -> None:
    wrong = [
        str(path.relative_to(PROJECT))
        for name, paths in modules("egoexo_tools").items()
        for path in paths
        if any(
            module.startswith("omama")
            for module in imports(path, top_level_only=name in {"pipeline", "commands"})
        )
    ]
    assert wrong == []


def test_the_network_modules_import_torch_alone() -> None:
    allowed = {"torch", "timm", "omama"} | set(sys.stdlib_module_names)
    wrong = [
        f"{name} imports {module}"
        for name in sorted(TORCH_ONLY)
        for path in modules("omama").get(name, [])
        for module in imports(path)
        if module.split(".")[0] not in allowed and not module.startswith("egoexo_tools.errors")
    ]
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
        "import time; start = time.perf_counter(); "
        f"from {program.replace('-', '_')}.cli import main; "
        "main(['--help'], standalone_mode=False); print(time.perf_counter() - start)"
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
