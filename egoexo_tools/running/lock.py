"""Excludes concurrent runs of a stage, and stops workers that outlive their run from writing.

A stage's status folder has two lock files. The run locks `.lock` and writes its id into it. Each
worker locks `.working` (shared) while it processes a unit. A run first writes its id and then
waits until no worker holds `.working`; a worker first locks `.working` and then checks that the
id is that of its own run. In either order, a worker of a killed run (a Dask worker that was not
notified, or a process that has not ended yet) never writes next to a new run.

A shard has both files for itself (`.lock.3-of-40`) and locks `.lock` shared. So the shards of one
division run at the same time, but not next to an undivided run or another division, whose shards
could contain the same units. Files that all shards write are protected by `shared_files_lock`.
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
"""For workers of an earlier run. Local workers end with their run; a loaded machine needs time."""
_UNSUPPORTED_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}


@dataclass(frozen=True)
class RunId:
    """Identifies a run of a stage or of one of its shards."""

    text: str
    scope: str = ""
    """Suffix of its lock files: empty, or `.3-of-40`."""


@contextmanager
def stage_lock(
    folder: Path, stage: str, *, shard: Shard | None = None, wait_seconds: float = WAIT_SECONDS
) -> Iterator[RunId]:
    """Lock a stage or a shard; DataError while another run or one of its workers is active."""
    folder.mkdir(parents=True, exist_ok=True)
    run = RunId(uuid.uuid4().hex, _scope(shard))
    with ExitStack() as stack:
        lock = _lock_run(stack, folder, stage, shard)
        # Workers of killed runs must not find the id of their run.
        for path in _conflicting_files(folder, LOCK, shard):
            path.write_text("")
        lock.truncate(0)
        lock.write(run.text)
        lock.flush()
        _wait_for_workers(folder, stage, shard, wait_seconds)
        try:
            yield run
        finally:
            lock.truncate(0)  # also stops a worker that starts only now


@contextmanager
def worker_lock(folder: Path, run: RunId) -> Iterator[None]:
    """Lock held while a unit of the run is processed; DataError if the run has ended."""
    with _open(folder / (WORKING + run.scope)) as file:
        _try_lock(file, fcntl.LOCK_SH)
        if (folder / (LOCK + run.scope)).read_text() != run.text:
            raise DataError("its run has ended; run the stage again")
        yield


@contextmanager
def file_lock(path: Path, content: str) -> Iterator[None]:
    """Lock a file, waiting for any other holder; `content` names what is made under the lock.

    The lock disappears with the process that holds it.
    """
    with _open(path) as file:
        if not _try_lock(file, fcntl.LOCK_EX):
            logger.info("another process makes %s (%s); waiting for it", content, path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def shared_files_lock(folder: Path) -> Iterator[None]:
    """Lock held while a file that all shards of a stage write is read and rewritten.

    Waits for other holders, so the last writer reads the entries of all others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / SHARED, "files that all shards share"):
        yield


def _lock_run(stack: ExitStack, folder: Path, stage: str, shard: Shard | None) -> IO[str]:
    """The locked file that stores the run's id.

    The kernel owns the lock, so a killed run leaves none behind.
    """
    stage_file = stack.enter_context(_open(folder / LOCK))
    if not _try_lock(stage_file, fcntl.LOCK_EX if shard is None else fcntl.LOCK_SH):
        raise DataError(f"another {stage} is running on this root ({folder}); wait for its end")
    if shard is None:
        return stage_file
    shard_file = stack.enter_context(_open(folder / (LOCK + _scope(shard))))
    if not _try_lock(shard_file, fcntl.LOCK_EX):
        raise DataError(
            f"another {stage} --shard {shard} is running on this root ({folder}); wait for its end"
        )
    for path in _conflicting_files(folder, LOCK, shard):
        # A shared lock: two shards that check at the same moment must not block each other.
        with _open(path) as file:
            if path.name != LOCK and not _try_lock(file, fcntl.LOCK_SH):
                raise DataError(
                    f"{stage} is running on this root in another number of shards "
                    f"({path.name.removeprefix(LOCK + '.')}); wait for its end, or use that number"
                )
    return shard_file


def _conflicting_files(folder: Path, name: str, shard: Shard | None) -> list[Path]:
    """The stage's other files of that name, of runs that could process the same units."""
    parts = list(folder.glob(f"{name}.*-of-*"))
    if shard is None:
        return parts
    return [
        folder / name,
        *(path for path in parts if not path.name.endswith(f"-of-{shard.count}")),
    ]


def _wait_for_workers(folder: Path, stage: str, shard: Shard | None, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    for path in (folder / (WORKING + _scope(shard)), *_conflicting_files(folder, WORKING, shard)):
        with _open(path) as file:
            while not _try_lock(file, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise DataError(
                        f"workers of an earlier {stage} still write to this root ({folder}); "
                        "wait until they are done, or end them (on Dask: restart the workers)"
                    )
                time.sleep(0.05)


def _scope(shard: Shard | None) -> str:
    return "" if shard is None else f".{shard.number}-of-{shard.count}"


def _open(path: Path) -> IO[str]:
    """Open a lock file and keep its content, which may be the id of a run that holds it."""
    # Readable as well as writable: NFS grants a shared lock only on a readable file.
    return path.open("a+")


def _try_lock(file: IO[str], kind: int) -> bool:
    """Whether the lock was acquired; closing the file releases it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some cluster file systems are mounted without locks; their users must be able to work.
        if error.errno not in _UNSUPPORTED_LOCKS:
            raise
        logger.warning("%s: this file system has no locks; start only one run", file.name)
    return True
