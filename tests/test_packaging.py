"""What is shipped works without the checkout: sdist, the wheel built from it, and the demo."""

import os
import shlex
import subprocess
import sys
import sysconfig
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
PROGRAMS = ("egoexo-tools ", "omama ")
SHIPPED = ("egoexo_tools", "omama", "pyproject.toml", "README.md", "LICENSE")
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, "build_" + sys.argv[1])(sys.argv[2]))
"""

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """What a command printed; it sees nothing of this process's PYTHONPATH."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, not from the checkout, by the build system's own two functions."""
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
    built = run(sys.executable, "-c", BUILD, "wheel", folder, cwd=source).split()[-1]
    return folder / built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; what it needs comes from this one, nothing is fetched."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    install = ["-m", "pip", "--quiet", "--python", python, "install", "--no-deps", "--no-index"]
    run(sys.executable, *install, wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth is only searched: an editable install beside it stays unseen.
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_is_what_runs(environment: Path) -> None:
    where = "import egoexo_tools, omama; print(egoexo_tools.__file__, omama.__file__)"
    found = run(environment / "bin" / "python", "-c", where, cwd=environment).split()
    assert all(Path(path).is_relative_to(environment) for path in found), found


def test_the_wheel_has_the_pages_files(environment: Path) -> None:
    files = {path.name for path in environment.rglob("egoexo_tools/report/page.*")}
    assert {"page.css", "page.html.jinja", "page.js"} <= files


def test_the_tiny_demo_runs_outside_the_checkout(environment: Path, tmp_path: Path) -> None:
    program = environment / "bin" / "egoexo-tools"
    printed = run(program, "demo", "--tiny", "--quiet", cwd=tmp_path)
    table = printed.partition("\n\n")[2]
    assert table.count("k-NN, no training") == 2, printed
    assert "Report: demo-tiny/root/runs/report.html" in table
    assert (tmp_path / "demo-tiny" / "root" / "runs" / "report.html").stat().st_size > 100_000
    again = run(program, "demo", "--tiny", "--quiet", cwd=tmp_path)
    assert again.partition("\n\n")[2] == table, "nothing was left to do"

    # What README proposes for demo/root, copied from there and run one after the other.
    (tmp_path / "demo-tiny").rename(tmp_path / "demo")
    lines = (REPOSITORY / "README.md").read_text().splitlines()
    mine = [shlex.split(line) for line in lines if line.startswith(PROGRAMS) and " demo/" in line]
    assert len(mine) >= 7
    for name, *words in mine:
        run(environment / "bin" / name, *words, cwd=tmp_path)
