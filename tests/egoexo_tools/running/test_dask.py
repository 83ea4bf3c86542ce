"""Stages on a Dask cluster of real processes: a scheduler and two workers, one with a GPU."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from test_resume import beat, command, file_size, finish, partials, start, tree, until

from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import DatasetRoot, Release, write_atomic
from egoexo_tools.running.executors import open_executor
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
    # Workers import the functions of this module by name.
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
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


def sign(unit: Unit, *, folder: Path) -> dict[str, int]:
    """Writes the name of the worker that it runs on."""
    from distributed import get_worker

    time.sleep(0.05)  # long enough that an idle worker would get its share
    write_atomic(folder / unit.name, str(get_worker().name))
    return {"files": 1}


def die_on(unit: Unit, *, folder: Path) -> dict[str, int]:
    """`once` kills its worker the first time, `always` each time."""
    again = (folder / unit.name).exists()
    with (folder / unit.name).open("a") as file:
        file.write("x")
    if unit.name == "always" or (unit.name == "once" and not again):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"files": 1}


def test_a_stage_on_dask_equals_the_inline_run(
    scheduler: str, tiny_release: Release, tmp_path: Path
) -> None:
    roots = {name: tmp_path / name for name in ("inline", "dask")}
    for root in roots.values():
        finish(command("ingest", root, tiny_release, executor="inline"))
    inline = finish(command("frames", roots["inline"], tiny_release, executor="inline"))
    told = finish(
        command("frames", roots["dask"], tiny_release, "--scheduler", scheduler, executor="dask")
    )
    counts = re.search(r"9 done, \d+ frames", inline)
    assert counts is not None and counts[0] in told
    assert tree(roots["dask"]) == tree(roots["inline"])


def test_a_stage_that_needs_a_gpu_runs_on_its_worker_only(scheduler: str, tmp_path: Path) -> None:
    units = [Unit((f"unit{number}",)) for number in range(8)]
    ran_on = {}
    for resources in (None, {"GPU": 1.0}):
        folder = tmp_path / str(resources)
        summary = run_stage(
            DatasetRoot(folder),
            "sign",
            units,
            partial(sign, folder=folder),
            settings={},
            options=on_dask(scheduler, resources=resources),
        )
        assert (summary.done, summary.failed) == (8, ())
        ran_on[str(resources)] = {(folder / unit.name).read_text() for unit in units}
    assert ran_on == {"None": {"cpu", "gpu"}, "{'GPU': 1.0}": {"gpu"}}


def test_a_worker_killed_in_a_unit_costs_that_unit_at_most(scheduler: str, tmp_path: Path) -> None:
    names = ("fine", "once", "always", "also fine")
    summary = run_stage(
        DatasetRoot(tmp_path),
        "die",
        [Unit((name,)) for name in names],
        partial(die_on, folder=tmp_path),
        settings={},
        options=on_dask(scheduler),
    )
    errors = {result.unit: result.error or "" for result in summary.failed}
    assert {"fine", "also fine"}.isdisjoint(errors)
    assert errors["always"].startswith("its worker died")
    wait_for_workers(scheduler, 2)  # their nannies start them anew


def beat_on_dask(folder: Path, address: str) -> None:
    """A unit that writes for some seconds, on a Dask worker."""
    work = partial(beat, folder=folder, seconds=4)
    unit = Unit(("long",))
    run_stage(DatasetRoot(folder), "beat", [unit], work, settings={}, options=on_dask(address))


def test_a_unit_that_outlives_its_killed_run_keeps_the_next_one_waiting(
    scheduler: str, tmp_path: Path
) -> None:
    code = (
        "import pathlib, sys; sys.path.insert(0, sys.argv[1]); import test_dask; "
        "test_dask.beat_on_dask(pathlib.Path(sys.argv[2]), sys.argv[3])"
    )
    tests = str(Path(__file__).parents[2])
    process = start([sys.executable, "-c", code, tests, str(tmp_path), scheduler])
    until(lambda: partials(tmp_path) and file_size(tmp_path / "long.partial"), process=process)
    process.kill()
    process.communicate()
    assert partials(tmp_path) == ["long.partial"]

    def look(unit: Unit) -> dict[str, int]:
        assert (tmp_path / "long").exists()
        assert partials(tmp_path) == []
        return {}

    inline = RunOptions(executor="inline", quiet=True)
    summary = run_stage(
        DatasetRoot(tmp_path), "beat", [Unit(("next",))], look, settings={}, options=inline
    )
    assert (summary.done, summary.failed) == (1, ())


def test_no_scheduler_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egoexo_tools.running.executors.CONNECT_SECONDS", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with (
            pytest.raises(SettingsError, match=f"no Dask scheduler answers at {address}"),
            open_executor("dask", scheduler=address),
        ):
            pass


SBATCH = """#!/bin/sh
cp "$1" "$0.job"  # the caller deletes it as soon as this ends
setsid bash "$0.job" > /dev/null 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/cancelled"
for job in "$@"; do kill -- -"$job" 2> /dev/null; done
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for Slurm's two commands: a job runs at once, here, in a session of its own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


SLURM = str(Path(__file__).parents[3] / "scripts" / "slurm.py")


def test_slurm_runs_a_stage_on_its_jobs(queue: Path, tiny_release: Release, tmp_path: Path) -> None:
    root = tmp_path / "root"
    finish(command("ingest", root, tiny_release, executor="inline"))
    stage = command("frames", root, tiny_release, executor="dask")
    cluster = ["--gpu", "--interface", "lo", "--memory", "2GB", "--"]
    told = finish([sys.executable, SLURM, *cluster, *stage])
    assert "9 done" in told
    assert len((queue / "cancelled").read_text().split()) == 1


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (
            [
                "--workers",
                "16",
                "--memory",
                "64GB",
                "--queue",
                "long",
                "--prologue",
                "module load x",
            ],
            ["#SBATCH -p long", "#SBATCH --cpus-per-task=16", "#SBATCH --mem=60G"]
            + ["#SBATCH -t 08:00:00", "module load x"],
        ),
        (
            ["--gpu", "--cpus", "8", "--walltime", "02:00:00", "--directive=--exclusive"],
            ["#SBATCH --gres=gpu:1", "#SBATCH --cpus-per-task=8", "#SBATCH -t 02:00:00"]
            + ["#SBATCH --exclusive"],
        ),
    ],
)
def test_slurm_job_scripts(options: list[str], lines: list[str]) -> None:
    script = finish([sys.executable, SLURM, "--dry-run", *options]).splitlines()
    assert set(lines) <= set(script)
    worker = next(line for line in script if "distributed.cli.dask_worker" in line)
    assert "--nthreads 1 " in worker
    assert ("--nworkers 16" in worker) == ("--workers" in options)
    assert worker.endswith("--resources GPU=1") == ("--gpu" in options)


def test_slurm_gives_a_gpu_job_one_worker() -> None:
    process = start([sys.executable, SLURM, "--gpu", "--workers", "2"])
    assert "a GPU job holds one worker" in process.communicate()[1]
    assert process.returncode == 2


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [("08:00:00", 28_200), ("00:10:00", 480), ("30", 1440), ("1-12", 129_000), ("2:30", 120)],
)
def test_a_slurm_worker_ends_before_its_job(walltime: str, seconds: int) -> None:
    script = finish([sys.executable, SLURM, "--dry-run", "--walltime", walltime])
    assert f"--lifetime {seconds}s --lifetime-stagger" in script


def test_a_run_without_workers_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from egoexo_tools.running.executors import NO_WORKER_SECONDS, _WorkerMonitor

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
    told = monitor.problem()
    assert told is not None and "there has been no Dask worker" in told


ENDING = """#!/bin/sh
cp "$1" "$0.job.$$"  # the caller deletes it as soon as this ends
echo "$$" >> "$(dirname "$0")/submitted"
setsid timeout 25 bash "$0.job.$$" > /dev/null 2>&1 &
echo "$!" >> "$(dirname "$0")/jobs"
echo "Submitted batch job $!"
"""


SQUEUE = """#!/bin/sh
for job in $(cat "$(dirname "$0")/jobs"); do kill -0 "$job" 2> /dev/null && echo "$job"; done
true
"""


def nap(unit: Unit) -> dict[str, int]:
    time.sleep(8)
    return {}


def naps(folder: str, scheduler: str) -> None:
    import test_dask

    options = RunOptions(executor="dask", scheduler=scheduler, quiet=True)
    units = [Unit((str(number),)) for number in range(4)]
    root = DatasetRoot(Path(folder))
    summary = run_stage(root, "nap", units, test_dask.nap, settings={}, options=options)
    sys.stdout.write(summary.text())


@pytest.mark.slow
def test_slurm_jobs_that_end_are_replaced(
    queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four units of eight seconds on jobs that are killed after 25 seconds."""
    tests = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, *filter(None, sys.path)]))
    (queue / "sbatch").write_text(ENDING)
    (queue / "squeue").write_text(SQUEUE)
    (queue / "squeue").chmod(0o755)
    code = f"import sys, test_dask; test_dask.naps({str(tmp_path / 'root')!r}, sys.argv[-1])"
    cluster = ["--jobs", "1", "--interface", "lo", "--memory", "1GB", "--"]
    told = finish([sys.executable, SLURM, *cluster, sys.executable, "-c", code])
    assert "nap: 4 done" in told
    assert len((queue / "submitted").read_text().split()) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "sbatch",
    [
        "#!/bin/sh\necho 'sbatch: error: Invalid account' >&2; exit 1\n",
        "#!/bin/sh\necho 'Submitted batch job 77'\n",  # somebody cancels it in the queue
    ],
)
def test_slurm_without_a_job_is_an_error(
    sbatch: str, queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, *filter(None, sys.path)]))
    (queue / "sbatch").write_text(sbatch)
    (queue / "squeue").write_text("#!/bin/sh\n")
    (queue / "squeue").chmod(0o755)
    code = f"import sys, test_dask; test_dask.naps({str(tmp_path / 'root')!r}, sys.argv[-1])"
    cluster = ["--patience", "6", "--interface", "lo", "--memory", "1GB", "--"]
    process = start([sys.executable, SLURM, *cluster, sys.executable, "-c", code])
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Error: there is no worker, and Slurm accepted no job for 6 s" in err
