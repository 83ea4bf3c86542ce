"""Units of work that tests run in other processes, which import this module by name."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, atomic_path, write_atomic
from egoexo_tools.running.records import RunOptions, StageSummary, Unit
from egoexo_tools.running.stage import run_stage

BEAT_SECONDS = 0.01


def write_number(unit: Unit, *, folder: Path, number: int = 1) -> dict[str, int]:
    """Writes a number, and counts its calls in a second file."""
    (name,) = unit.key
    with (folder / f"{name}.calls").open("a") as calls:
        calls.write("x")
    if (folder / f"{name}.bad").exists():
        raise DataError(f"{name} cannot be read")
    write_atomic(folder / f"{name}.out", str(number))
    return {"files": 1}


def misbehave(unit: Unit) -> dict[str, int]:
    """Does what the unit's name says."""
    if unit.key[0] == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if unit.key[0] == "hang":
        time.sleep(60)
    if unit.key[0] == "bug":
        raise ZeroDivisionError("oh")
    return {"files": 1}


def beat(unit: Unit, *, folder: Path, seconds: float = 60) -> dict[str, int]:
    """Writes to a file for a long time, as the decoding of a video does."""
    with atomic_path(folder / unit.name) as path, path.open("ab", buffering=0) as file:
        for _ in range(round(seconds / BEAT_SECONDS)):
            file.write(b"x")
            time.sleep(BEAT_SECONDS)
    return {}


def run_beats(folder: Path, *, time_limit_seconds: float | None = None) -> StageSummary:
    """Two units that beat for a minute, in two processes."""
    options = RunOptions(
        executor="process", workers=2, quiet=True, time_limit_seconds=time_limit_seconds
    )
    work = partial(beat, folder=folder)
    units = [Unit(("first",)), Unit(("second",))]
    return run_stage(DatasetRoot(folder), "beat", units, work, settings={}, options=options)


def run_beat_on_dask(folder: Path, scheduler: str) -> None:
    """A unit that beats for some seconds, on a Dask worker."""
    run_stage(
        DatasetRoot(folder),
        "beat",
        [Unit(("long",))],
        partial(beat, folder=folder, seconds=4),
        settings={},
        options=RunOptions(executor="dask", scheduler=scheduler, quiet=True),
    )


def write_worker_name(unit: Unit, *, folder: Path) -> dict[str, int]:
    """Writes the name of the Dask worker that it runs on."""
    from distributed import get_worker

    time.sleep(0.05)  # so that an idle worker gets units, too
    write_atomic(folder / unit.name, str(get_worker().name))
    return {"files": 1}


def kill_worker(unit: Unit, *, folder: Path) -> dict[str, int]:
    """Unit `once` kills its worker on its first run, unit `always` on every run."""
    is_first_run = not (folder / unit.name).exists()
    with (folder / unit.name).open("a") as file:
        file.write("x")
    if unit.name == "always" or (unit.name == "once" and is_first_run):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"files": 1}


def sleep(unit: Unit) -> dict[str, int]:
    time.sleep(8)
    return {}


def run_sleeps(folder: str, scheduler: str) -> None:
    """Four units of eight seconds on Dask; prints the summary."""
    options = RunOptions(executor="dask", scheduler=scheduler, quiet=True)
    units = [Unit((str(number),)) for number in range(4)]
    summary = run_stage(
        DatasetRoot(Path(folder)), "sleep", units, sleep, settings={}, options=options
    )
    sys.stdout.write(summary.text())
