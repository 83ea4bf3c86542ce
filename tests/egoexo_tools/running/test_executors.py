"""Executors, with a Dask cluster of real processes: a scheduler, a worker, and one with a GPU."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from processes import (
    TESTS,
    file_contents,
    file_size,
    finish,
    partial_files,
    python_command,
    stage_command,
    start,
    wait_until,
)
from stage_units import kill_worker, write_worker_name

from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.running.executors import NO_WORKER_SECONDS, _WorkerMonitor, open_executor
from egoexo_tools.running.records import RunOptions, Unit
from egoexo_tools.running.stage import run_stage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with a worker `cpu` and a worker `gpu` that offers GPU=1."""
    logs = tmp_path_factory.mktemp("dask")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    worker = ["worker", address, "--nthreads", "1", "--no-dashboard", "--local-directory", logs]
    commands = {
        "scheduler": ["scheduler", "--host", address, "--no-dashboard", "--no-jupyter"],
        "cpu": [*worker, "--name", "cpu"],
        "gpu": [*worker, "--name", "gpu", "--resources", "GPU=1"],
    }
    # Workers import stage_units by name.
    path = os.pathsep.join([TESTS, *filter(None, sys.path)])
    processes = []
    try:
        for name, arguments in commands.items():
            with (logs / f"{name}.log").open("w") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "dask", *map(str, arguments)],
                        stdout=log,
                        stderr=log,
                        env={**os.environ, "PYTHONPATH": path},
                    )
                )
        wait_for_workers(address, 2)
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in reversed(processes):
            process.wait(timeout=30)


def wait_for_workers(address: str, count: int) -> None:
    from distributed import Client

    with Client(address, timeout="60s") as client:
        client.wait_for_workers(count, timeout=60)


def on_dask(address: str, *, resources: dict[str, float] | None = None) -> RunOptions:
    return RunOptions(executor="dask", scheduler=address, quiet=True, resources=resources)


def test_a_stage_on_dask_equals_the_inline_run(
    scheduler: str, tiny_release: Release, tmp_path: Path
) -> None:
    roots = {name: tmp_path / name for name in ("inline", "dask")}
    for root in roots.values():
        finish(stage_command("ingest", root, tiny_release, executor="inline"))
    inline = finish(stage_command("frames", roots["inline"], tiny_release, executor="inline"))
    dask = finish(
        stage_command(
            "frames", roots["dask"], tiny_release, "--scheduler", scheduler, executor="dask"
        )
    )
    counts = re.search(r"9 done, \d+ frames", inline)
    assert counts is not None and counts[0] in dask
    assert file_contents(roots["dask"]) == file_contents(roots["inline"])


def test_units_that_need_a_gpu_run_only_on_its_worker(scheduler: str, tmp_path: Path) -> None:
    units = [Unit((f"unit{number}",)) for number in range(8)]
    workers = {}
    for resources in (None, {"GPU": 1.0}):
        folder = tmp_path / str(resources)
        summary = run_stage(
            DatasetRoot(folder),
            "write_worker_name",
            units,
            partial(write_worker_name, folder=folder),
            settings={},
            options=on_dask(scheduler, resources=resources),
        )
        assert (summary.done, summary.failed) == (8, ())
        workers[str(resources)] = {(folder / unit.name).read_text() for unit in units}
    assert workers == {"None": {"cpu", "gpu"}, "{'GPU': 1.0}": {"gpu"}}


def test_a_killed_worker_fails_at_most_its_unit(scheduler: str, tmp_path: Path) -> None:
    names = ("fine", "once", "always", "also fine")
    summary = run_stage(
        DatasetRoot(tmp_path),
        "die",
        [Unit((name,)) for name in names],
        partial(kill_worker, folder=tmp_path),
        settings={},
        options=on_dask(scheduler),
    )
    errors = {result.unit: result.error or "" for result in summary.failed}
    assert {"fine", "also fine"}.isdisjoint(errors)
    assert errors["always"].startswith("its worker died")
    wait_for_workers(scheduler, 2)  # their nannies restart them


def test_the_next_run_waits_for_a_unit_of_a_killed_run(scheduler: str, tmp_path: Path) -> None:
    code = (
        "import pathlib, stage_units; "
        "stage_units.run_beat_on_dask(pathlib.Path(sys.argv[2]), sys.argv[3])"
    )
    process = start(python_command(code, tmp_path, scheduler))
    wait_until(
        lambda: any(file_size(tmp_path / name) for name in partial_files(tmp_path)), process=process
    )
    process.kill()
    process.communicate()
    assert [name.split(".")[0] for name in partial_files(tmp_path)] == ["long"]

    def check_files(unit: Unit) -> dict[str, int]:
        assert (tmp_path / "long").exists()
        assert partial_files(tmp_path) == []
        return {}

    inline = RunOptions(executor="inline", quiet=True)
    summary = run_stage(
        DatasetRoot(tmp_path), "beat", [Unit(("next",))], check_files, settings={}, options=inline
    )
    assert (summary.done, summary.failed) == (1, ())


def test_a_missing_scheduler_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egoexo_tools.running.executors.CONNECT_SECONDS", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with (
            pytest.raises(SettingsError, match=f"no Dask scheduler answers at {address}"),
            open_executor("dask", scheduler=address),
        ):
            pass


def test_a_run_whose_workers_disappear_ends_with_an_explanation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Client:
        workers: ClassVar[dict[str, Any]] = {}
        scheduler = SimpleNamespace(identity=None)

        def sync(self, function: Any) -> dict[str, Any]:
            return {"workers": self.workers}

    monkeypatch.setenv(NO_WORKER_SECONDS, "0")
    monitor = _WorkerMonitor(Client())
    assert monitor.problem() is None  # a queue may start the first one later
    Client.workers = {"a": 1}
    assert monitor.problem() is None
    Client.workers = {}
    problem = monitor.problem()
    assert problem is not None and "there has been no Dask worker" in problem


SLOW_START = """
import os, sys, time
from pathlib import Path

folder = Path(sys.argv[1])
if __name__ == "__mp_main__":
    try:
        (folder / "first").mkdir()
    except FileExistsError:
        time.sleep(1.5)  # the others are still importing while the first one ends

def work(number):
    (folder / "works").touch()
    try:
        time.sleep(60)
    finally:
        time.sleep(2.5)
        (folder / "cleaned").touch()

if __name__ == "__main__":
    from egoexo_tools.running.executors import open_executor

    try:
        with open_executor("process", workers=4) as submit:
            for number in range(4):
                submit(work, number)
            while not (folder / "works").exists():
                time.sleep(0.01)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        print("stopped")
"""


def test_a_worker_that_starts_while_another_ends_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_START)
    command = [sys.executable, tmp_path / "slow.py", tmp_path]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stdout, process.stderr) == (0, "stopped\n", "")
    assert (tmp_path / "cleaned").exists()
