"""Keeps two runs of a stage apart, and a run from workers that outlived the one before it.

Two files in the stage's status folder. `.lock` is locked by the run and holds the run's id
while it lasts; `.working` is locked, shared, by each worker while it does a unit. A run writes
its id, then waits until no worker holds `.working`; a worker takes `.working`, then checks that
the id is still its own run's. So whichever comes first, a worker of a killed run (a Dask worker
that did not hear of it, a process that had not ended yet) never writes beside a new run.

A shard has both files for itself (`.lock.3-of-40`) and locks `.lock` shared: shards of one
division run side by side, and neither beside an undivided run nor beside another division, whose
shards would hold the same units. What they all write, they write `shared_files_lock`.
"""

import errno
import fcntl
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from egoexo_tools.errors import DataError
from egoexo_tools.running.shard import Shard

logger = logging.getLogger(__name__)

LOCK, WORKING, SHARED = ".lock", ".working", ".shared"
WAIT_SECONDS = 10.0
"""For workers of an earlier run. Local ones end with their run; this covers a loaded machine."""
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}


@dataclass(frozen=True)
class RunId:
    """Who has a stage, or a shard of it."""

    text: str
    scope: str = ""
    """What the names of its files end in: nothing, or `.3-of-40`."""


@contextmanager
def stage_lock(
    folder: Path, stage: str, *, shard: Shard | None = None, wait_seconds: float = WAIT_SECONDS
) -> Iterator[RunId]:
    """Hold the stage or a shard; DataError while another run of it or its workers are on."""
    folder.mkdir(parents=True, exist_ok=True)
    run = RunId(uuid.uuid4().hex, _scope(shard))
    with ExitStack() as held:
        lock = _take(held, folder, stage, shard)
        # Workers of runs that were killed find no run to work for.
        for path in _others(folder, LOCK, shard):
            path.write_text("")
        lock.truncate(0)
        lock.write(run.text)
        lock.flush()
        _wait_for_workers(folder, stage, shard, wait_seconds)
        try:
            yield run
        finally:
            lock.truncate(0)  # nor does a worker that only begins now


@contextmanager
def worker_lock(folder: Path, run: RunId) -> Iterator[None]:
    """Hold while a unit of that run is done; DataError where the run has ended meanwhile."""
    with _open(folder / (WORKING + run.scope)) as file:
        _locked(file, fcntl.LOCK_SH)
        if (folder / (LOCK + run.scope)).read_text() != run.text:
            raise DataError("its run has ended; run the stage again")
        yield


@contextmanager
def file_lock(path: Path, what: str) -> Iterator[None]:
    """Hold a file's lock, after whoever holds it now; it goes with the process that has it."""
    with _open(path) as file:
        if not _locked(file, fcntl.LOCK_EX):
            logger.info("another process makes %s (%s); waiting for it", what, path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def shared_files_lock(folder: Path) -> Iterator[None]:
    """Hold while a file is read and written anew that all shards of a stage write.

    Waits for its turn: whoever is last reads what all the others have done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / SHARED, "what all shards share"):
        yield


def _take(held: ExitStack, folder: Path, stage: str, shard: Shard | None) -> IO[str]:
    """The locked file that the run's id goes into. The lock is the kernel's: a run that was
    killed leaves none behind."""
    whole = held.enter_context(_open(folder / LOCK))
    if not _locked(whole, fcntl.LOCK_EX if shard is None else fcntl.LOCK_SH):
        raise DataError(f"another {stage} is running on this root ({folder}); wait for its end")
    if shard is None:
        return whole
    own = held.enter_context(_open(folder / (LOCK + _scope(shard))))
    if not _locked(own, fcntl.LOCK_EX):
        raise DataError(
            f"another {stage} --shard {shard} is running on this root ({folder}); wait for its end"
        )
    for path in _others(folder, LOCK, shard):
        # Shared: two shards that look at the same moment must not see each other.
        with _open(path) as other:
            if path.name != LOCK and not _locked(other, fcntl.LOCK_SH):
                raise DataError(
                    f"{stage} is running on this root in another number of shards "
                    f"({path.name.removeprefix(LOCK + '.')}); wait for its end, or use that number"
                )
    return own


def _others(folder: Path, name: str, shard: Shard | None) -> list[Path]:
    """The stage's files of that name, but its own, whose runs could hold the same units."""
    parts = list(folder.glob(f"{name}.*-of-*"))
    if shard is None:
        return parts
    return [
        folder / name,
        *(path for path in parts if not path.name.endswith(f"-of-{shard.count}")),
    ]


def _wait_for_workers(folder: Path, stage: str, shard: Shard | None, wait_seconds: float) -> None:
    give_up = time.monotonic() + wait_seconds
    for path in (folder / (WORKING + _scope(shard)), *_others(folder, WORKING, shard)):
        with _open(path) as file:
            while not _locked(file, fcntl.LOCK_EX):
                if time.monotonic() > give_up:
                    raise DataError(
                        f"workers of an earlier {stage} still write to this root ({folder}); "
                        "wait until they are done, or end them (on Dask: restart the workers)"
                    )
                time.sleep(0.05)


def _scope(shard: Shard | None) -> str:
    return "" if shard is None else f".{shard.number}-of-{shard.count}"


def _open(path: Path) -> IO[str]:
    """Makes the file and leaves what is in it, the id of a run that holds it. Open for reading
    too: NFS gives a shared lock on nothing else."""
    return path.open("a+")


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
