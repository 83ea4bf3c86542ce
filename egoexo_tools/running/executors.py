"""Where units of work run: name → an Executor whose futures are concurrent.futures'.

`inline` runs in this process, `process` in local processes that a hang or a crash cannot take
down with it (pebble kills the one worker and the rest go on), `dask` on a cluster through
dask.distributed. Only `process` can end a unit that outlasts its time limit; on Dask the
scheduler's own limits apply.
"""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

from egoexo_tools.errors import SettingsError

EXECUTORS = ("inline", "process", "dask")
CONNECT_SECONDS = 30
NO_WORKER_SECONDS = "EGOEXO_TOOLS_NO_WORKER_SECONDS"
"""Environment variable: how long a run goes on waiting after its last Dask worker has gone."""
_NO_WORKER_SECONDS = 300.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskSubmitter:
    """Schedules function(argument) and returns its future."""

    schedule: "Callable[[Callable[[Any], Any], Any], Future[Any]]"
    trouble: Callable[[], str | None] = lambda: None
    """Why what was scheduled will not end, or None; asked now and then while somebody waits."""

    def __call__(self, function: Callable[[Any], Any], argument: Any, /) -> "Future[Any]":
        return self.schedule(function, argument)


@contextmanager
def open_executor(
    name: str,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    time_limit_seconds: float | None = None,
    resources: dict[str, float] | None = None,
) -> Iterator[TaskSubmitter]:
    """Yield a submit function; leaving the block by an exception stops what is running.

    `workers` defaults to the cores that this process may use; `scheduler` is a Dask scheduler's
    address (without it, a local cluster of `workers` processes is started); `resources` are
    Dask worker resources that each unit needs, such as {"GPU": 1}.
    """
    if name not in EXECUTORS:
        raise SettingsError(f"{name!r} is no executor; use {', '.join(EXECUTORS)}")
    if name == "inline":
        yield TaskSubmitter(_submit_inline)
    elif name == "process":
        with _processes(workers or available_cores(), time_limit_seconds) as submit:
            yield submit
    else:
        with _dask(workers or available_cores(), scheduler, resources) as submit:
            yield submit


def available_cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _submit_inline(function: Callable[[Any], Any], argument: Any, /) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(function(argument))
    return future


@contextmanager
def _processes(workers: int, time_limit_seconds: float | None) -> Iterator[TaskSubmitter]:
    from pebble import ProcessPool

    # spawn: forking a process that already runs OpenCV, Arrow or torch threads can hang it.
    context = multiprocessing.get_context("spawn")
    # Otherwise the first worker starts it, and that lets go of interrupts that were held.
    resource_tracker.ensure_running()
    pool = ProcessPool(max_workers=workers, context=context, initializer=_end_with_parent)

    def submit(function: Callable[[Any], Any], argument: Any, /) -> "Future[Any]":
        with _interrupts_held():
            future: Future[Any] = pool.schedule(
                _in_worker, args=(function, argument), timeout=time_limit_seconds
            )
        return future

    others = set(multiprocessing.active_children())
    try:
        yield TaskSubmitter(submit)
    except BaseException:  # Ctrl-C too: `close` would do all that is scheduled first
        # The pool first takes away its locks, then ends one worker after the other: one that begins
        # meanwhile would look for them and end with a traceback. So all are told at once, before.
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        pool.stop()
        raise
    else:
        pool.close()
    finally:
        pool.join()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C reaches the whole process group; the parent alone decides what it means.

    The pool's threads, and through them its workers, begin with the signals that are held when
    the first unit is scheduled: a worker cannot be interrupted while it still imports.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """A worker whose parent was killed ends too, in the middle of its unit."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    # By itself it would notice only when it asks for the next unit, and until then write beside a
    # new run. SIGKILL, because no handler runs in the middle of compiled code.
    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


class _Stopped(BaseException):
    """The pool wants this worker to end: its run was interrupted, or its time is up."""


def _in_worker(function: Callable[[Any], Any], argument: Any) -> Any:
    """function(argument); when the worker is told to end, half-written files are removed first."""

    # Raised where the unit is, so that `atomic_path` takes its partial file away on the way out;
    # a BaseException, which no `except Exception` of a unit can swallow.
    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # told twice, it is not disturbed in this
        raise _Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        return function(argument)
    except _Stopped:
        os._exit(1)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _dask(
    workers: int, scheduler: str | None, resources: dict[str, float] | None
) -> Iterator[TaskSubmitter]:
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise SettingsError(
            "the dask executor needs the cluster group: pip install 'egoexo-tools[cluster]'"
        ) from error
    # Its status page at any free port: without an address it wants 8787, which the run beside this
    # one has.
    cluster = scheduler is None and LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        resources=resources,
    )
    try:
        client = Client(scheduler or cluster, timeout=f"{CONNECT_SECONDS}s")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"no Dask scheduler answers at {scheduler} ({error}); give the address that "
            "`dask scheduler` prints, such as tcp://node7:8786"
        ) from error
    _warn_without(client, resources)
    # Units write files: each runs once, where it was sent, and is not run again on a guess.
    executor = client.get_executor(pure=False, retries=0, resources=resources)

    def submit(function: Callable[[Any], Any], argument: Any, /) -> "Future[Any]":
        future: Future[Any] = executor.submit(function, argument)
        return future

    try:
        yield TaskSubmitter(submit, _Workers(client).trouble)
    finally:
        client.close()
        if cluster:
            cluster.close()


class _Workers:
    """Notices that a cluster's workers have all gone."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._limit = float(os.environ.get(NO_WORKER_SECONDS, _NO_WORKER_SECONDS))
        self._seen = False
        self._last_seen = time.monotonic()

    def trouble(self) -> str | None:
        """A sentence if there were workers and none has come back for some minutes."""
        try:
            count = len(self._client.sync(self._client.scheduler.identity)["workers"])
        except (OSError, TimeoutError) as error:
            return f"the Dask scheduler does not answer ({error}); start it and run again"
        if count or not self._seen:
            self._seen = self._seen or bool(count)
            self._last_seen = time.monotonic()
            return None
        gone = time.monotonic() - self._last_seen
        if gone < self._limit:
            return None
        return (
            f"no Dask worker is left since {gone:.0f} s; start new ones and run the same command "
            "again, what was finished is kept"
        )


def _warn_without(client: Any, resources: dict[str, float] | None) -> None:
    """Units wait for a worker that has what they need; a queue may start it later."""
    offers = [
        worker.get("resources") or {}
        for worker in client.sync(client.scheduler.identity)["workers"].values()
    ]
    needed = resources or {}
    if not any(all(offer.get(n, 0) >= v for n, v in needed.items()) for offer in offers):
        wanted = " ".join(f"{name}={value:g}" for name, value in needed.items())
        how = f" --resources {wanted}" if wanted else ""
        logger.warning("no worker can take these units yet; waiting for a `dask worker%s`", how)
