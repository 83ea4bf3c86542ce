"""The distribution works without the checkout: sdist, the wheel built from it, and the demo."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
SHIPPED = ("egoexo_tools", "omama", "pyproject.toml", "README.md", "LICENSE")
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, "build_" + sys.argv[1])(sys.argv[2]))
"""

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without PYTHONPATH; returns its output."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist and not from the checkout."""
    if Version(version("setuptools")) < Version("77"):
        pytest.skip("building needs setuptools 77, which the group `dev` brings")
    folder = tmp_path_factory.mktemp("dist")
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in SHIPPED:  # a copy, so that nothing is built into the checkout
        (checkout / name).symlink_to(REPOSITORY / name)
    sdist = folder / run(sys.executable, "-c", BUILD, "sdist", folder, cwd=checkout).split()[-1]
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / sdist.name.removesuffix(".tar.gz")
    name = run(sys.executable, "-c", BUILD, "wheel", folder, cwd=source).split()[-1]
    return folder / name


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    install = ["-m", "pip", "--quiet", "--python", python, "install", "--no-deps", "--no-index"]
    run(sys.executable, *install, wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    # Paths in a .pth file are searched, but .pth files there are not read, so that an editable
    # installation of the checkout stays invisible.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_modules_come_from_the_wheel(environment: Path) -> None:
    code = "import egoexo_tools, omama; print(egoexo_tools.__file__, omama.__file__)"
    paths = run(environment / "bin" / "python", "-c", code, cwd=environment).split()
    assert all(Path(path).is_relative_to(environment) for path in paths), paths


def test_the_wheel_has_the_pages_files(environment: Path) -> None:
    files = {path.name for path in environment.rglob("egoexo_tools/report/page.*")}
    assert {"page.css", "page.html.jinja", "page.js"} <= files


def test_the_tiny_demo_runs_outside_the_checkout(environment: Path, tmp_path: Path) -> None:
    program = environment / "bin" / "egoexo-tools"
    output = run(program, "demo", "--tiny", "--quiet", cwd=tmp_path)
    table = output.partition("\n\n")[2]
    assert table.count("k-NN, no training") == 2, output
    assert "Report: demo-tiny/root/runs/report.html" in table
    assert (tmp_path / "demo-tiny" / "root" / "runs" / "report.html").stat().st_size > 100_000
    again = run(program, "demo", "--tiny", "--quiet", cwd=tmp_path)
    assert again.partition("\n\n")[2] == table

    # README's commands for demo/root.
    (tmp_path / "demo-tiny").rename(tmp_path / "demo")
    readme = (REPOSITORY / "README.md").read_text()
    (block,) = re.findall(r"^\n```bash\n(.*?)```", readme, re.DOTALL | re.MULTILINE)
    path = f"export PATH={environment / 'bin'}:$PATH\n"
    run("bash", "-euc", path + block, cwd=tmp_path)
