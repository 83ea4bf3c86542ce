"""Fixtures of several test modules."""

import fcntl
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from egoexo_tools.layout import DatasetRoot, Release

SHARED = Path(__file__).parents[2] / "shared"
# The time of an example depends on the load of the machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

SLOW_FIXTURES = {"browser", "featured_root", "finished_demo", "s3_server", "tiny_release"}
"""Tests that use one of them are marked `slow`, because they take seconds to set up."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without a CUDA device, skip tests marked `gpu`; with `-m gpu` they fail instead.

    A job on a GPU machine must not pass by skipping.
    """
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        must_run = item.config.getoption("markexpr") == "gpu"
        (pytest.fail if must_run else pytest.skip)("no CUDA device")


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Exact outputs of the reference systems; not part of the repository."""
    folder = SHARED / "goldens"
    if not folder.is_dir():
        pytest.skip(f"no goldens at {folder}")
    return folder


@pytest.fixture(scope="session")
def home_pairs() -> Path:
    """32 real pairs with their published scores; not part of the repository."""
    folder = SHARED / "fixtures" / "home_pairs"
    if not folder.is_dir():
        pytest.skip(f"no fixture at {folder}")
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, shared by all tests of HTML pages."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def tiny_release(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Release:
    """A synthetic release, a tenth of the size: one take per split with three annotated frames.

    Do not write to it: the tests of all xdist workers share it.
    """
    from egoexo_tools.synthetic import SyntheticOptions, synthesize

    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    options = SyntheticOptions(
        scale=0.1, train_takes=1, val_takes=1, test_takes=1, objects_per_take=8, annotated_frames=3
    )
    with (shared / "tiny_release.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return synthesize(shared / "tiny_release", options, quiet=True, workers=1)


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of a finished `egoexo-tools demo --tiny`; copy it before changing it.

    Built once: all xdist workers share it.
    """
    from egoexo_tools.running.records import RunOptions
    from omama.demo import TINY, run_demo

    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    run = RunOptions(workers=1, quiet=True, executor="inline")
    with (shared / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run_demo(shared / "demo", TINY, seed=0, run=run, say=lambda line: None)
    return shared / "demo"


@pytest.fixture(scope="session")
def featured_root(tmp_path_factory: pytest.TempPathFactory) -> DatasetRoot:
    """The tiny root of squares with cached `rgb_grid` features; copy it before changing it."""
    import torch
    from tiny_root import make_tiny_root

    from egoexo_tools.running.records import RunOptions
    from omama.features.cache import run_features

    torch.set_num_threads(1)  # the pictures are tiny: several threads would wait for each other
    root = make_tiny_root(tmp_path_factory.mktemp("featured") / "root")
    run_features(root, backbone="rgb_grid", run=RunOptions(executor="inline", quiet=True)).check()
    return root


@pytest.fixture
def own_root(featured_root: DatasetRoot, tmp_path: Path) -> DatasetRoot:
    """A copy of `featured_root` that a test may change, without tables mapped by others."""
    shutil.copytree(featured_root.path, tmp_path / "root", ignore=shutil.ignore_patterns("tables"))
    return type(featured_root)(tmp_path / "root")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 400 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root; the file-size limit is tested without it")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
