"""Keeps two runs of a stage apart, and a run from workers that outlived the one before it.

Two files in the stage's status folder. `.lock` is locked by the run and holds the run's id
while it lasts; `.working` is locked, shared, by each worker while it does a unit. A run writes
its id, then waits until no worker holds `.working`; a worker takes `.working`, then checks that
the id is still its own run's. So whichever comes first, a worker of a killed run (a Dask worker
that did not hear of it, a process that had not ended yet) never writes beside a new run.
"""

import errno
import fcntl
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from egoexo_tools.errors import DataError

logger = logging.getLogger(__name__)

LOCK, WORKING = ".lock", ".working"
WAIT_SECONDS = 10.0
"""For workers of an earlier run. Local ones end with their run; this covers a loaded machine."""
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}


@contextmanager
def only_run(folder: Path, stage: str, *, wait_seconds: float = WAIT_SECONDS) -> Iterator[str]:
    """Hold the stage; yields the run's id. DataError while another run or its workers are on."""
    folder.mkdir(parents=True, exist_ok=True)
    # "a" makes the file and leaves what is in it: the id of a run that holds the lock. The lock
    # itself is the kernel's, so a run that was killed leaves none behind.
    with (folder / LOCK).open("a") as lock:
        if not _locked(lock, fcntl.LOCK_EX):
            raise DataError(f"another {stage} is running on this root ({folder}); wait for its end")
        run_id = uuid.uuid4().hex
        lock.truncate(0)
        lock.write(run_id)
        lock.flush()
        _wait_for_workers(folder, stage, wait_seconds)
        try:
            yield run_id
        finally:
            lock.truncate(0)  # a worker that only begins now finds no run to work for


@contextmanager
def working(folder: Path, run_id: str) -> Iterator[None]:
    """Hold while a unit of that run is done; DataError where the run has ended meanwhile."""
    with (folder / WORKING).open("a") as file:
        _locked(file, fcntl.LOCK_SH)
        if (folder / LOCK).read_text() != run_id:
            raise DataError("its run has ended; run the stage again")
        yield


@contextmanager
def waiting_for(path: Path, what: str) -> Iterator[None]:
    """Hold a file's lock, after whoever holds it now; it goes with the process that has it."""
    with path.open("a") as file:
        if not _locked(file, fcntl.LOCK_EX):
            logger.info("another process makes %s (%s); waiting for it", what, path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _wait_for_workers(folder: Path, stage: str, wait_seconds: float) -> None:
    give_up = time.monotonic() + wait_seconds
    with (folder / WORKING).open("a") as file:
        while not _locked(file, fcntl.LOCK_EX):
            if time.monotonic() > give_up:
                raise DataError(
                    f"workers of an earlier {stage} still write to this root ({folder}); "
                    "wait until they are done, or end them (on Dask: restart the workers)"
                )
            time.sleep(0.05)


def _locked(file: IO[str], kind: int) -> bool:
    """Whether the lock was had; it goes when the file is closed."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some cluster file systems are mounted without locks; refusing them would help nobody.
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning("%s: no locks on this file system; take care to run once", file.name)
    return True
