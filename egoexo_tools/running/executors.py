"""Where units of work run. Every executor returns futures like those of concurrent.futures.

`inline` runs units in this process. `process` runs them in local processes and survives a unit
that hangs or crashes: pebble kills that worker and the others continue. `dask` runs them on a
cluster through dask.distributed. Only `process` enforces a time limit per unit; on Dask the
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
"""Environment variable: seconds that a run waits after its last Dask worker has disappeared."""
_NO_WORKER_SECONDS = 300.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskSubmitter:
    """Schedules function(argument) and returns its future."""

    schedule: "Callable[[Callable[[Any], Any], Any], Future[Any]]"
    problem: Callable[[], str | None] = lambda: None
    """Returns why scheduled tasks cannot finish, or None; polled while a caller waits."""

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
    """Yield a submit function; an exception that leaves the block stops the running tasks.

    `workers` defaults to the cores that this process may use. `scheduler` is the address of a
    Dask scheduler; without it, a local cluster of `workers` processes is started. `resources` are
    the Dask worker resources that each task needs, such as {"GPU": 1}.
    """
    if name not in EXECUTORS:
        raise SettingsError(f"{name!r} is not an executor; use {', '.join(EXECUTORS)}")
    if name == "inline":
        yield TaskSubmitter(_submit_inline)
    elif name == "process":
        with _process_pool(workers or available_cores(), time_limit_seconds) as submit:
            yield submit
    else:
        with _dask_client(workers or available_cores(), scheduler, resources) as submit:
            yield submit


def available_cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _submit_inline(function: Callable[[Any], Any], argument: Any, /) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(function(argument))
    return future


@contextmanager
def _process_pool(workers: int, time_limit_seconds: float | None) -> Iterator[TaskSubmitter]:
    from pebble import ProcessPool

    # spawn: forking a process that already runs OpenCV, Arrow or torch threads can hang it.
    context = multiprocessing.get_context("spawn")
    # Otherwise the first worker starts the tracker, which unblocks the signals blocked below.
    resource_tracker.ensure_running()
    pool = ProcessPool(max_workers=workers, context=context, initializer=_end_with_parent)

    def submit(function: Callable[[Any], Any], argument: Any, /) -> "Future[Any]":
        # Ctrl-C reaches the whole process group, but only the parent decides what it means. The
        # pool's threads, and through them its workers, inherit the signals that are blocked when
        # the first task is scheduled: a worker cannot be interrupted during its imports.
        signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            future: Future[Any] = pool.schedule(
                _run_in_worker, args=(function, argument), timeout=time_limit_seconds
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        return future

    other_children = set(multiprocessing.active_children())
    try:
        yield TaskSubmitter(submit)
    except BaseException:  # Ctrl-C too: `close` would first finish all scheduled tasks
        # `stop` removes the pool's locks and then ends one worker after the other. A worker that
        # starts in between looks for the locks and dies with a traceback, so we end all at once.
        for worker in set(multiprocessing.active_children()) - other_children:
            worker.terminate()
        pool.stop()
        raise
    else:
        pool.close()
    finally:
        pool.join()


def _end_with_parent() -> None:
    """Let a worker die, even in the middle of a unit, when its parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    # Without this thread a worker notices only when it asks for its next unit, and until then it
    # would write next to a new run. SIGKILL, because no handler runs inside compiled code.
    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


class _Terminated(BaseException):
    """The pool ends this worker: its run was interrupted, or its time limit has passed."""


def _run_in_worker(function: Callable[[Any], Any], argument: Any) -> Any:
    """function(argument); a worker that is terminated removes half-written files first."""

    # Raised inside the unit, so that `atomic_path` deletes its partial file. A BaseException,
    # because an `except Exception` of a unit must not swallow it.
    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not interrupt this
        raise _Terminated

    handler = signal.signal(signal.SIGTERM, terminate)
    try:
        return function(argument)
    except _Terminated:
        os._exit(1)
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _dask_client(
    workers: int, scheduler: str | None, resources: dict[str, float] | None
) -> Iterator[TaskSubmitter]:
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise SettingsError(
            "the dask executor needs the cluster group: pip install 'egoexo-tools[cluster]'"
        ) from error
    # The status page gets any free port: its default, 8787, may belong to a run next to this one.
    cluster = scheduler is None and LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        resources=resources,
    )
    try:
        client: Any = Client(scheduler or cluster, timeout=f"{CONNECT_SECONDS}s")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"no Dask scheduler answers at {scheduler} ({error}); give the address that "
            "`dask scheduler` prints, such as tcp://node7:8786"
        ) from error
    # Units wait for a worker with the resources that they need; a queue may start one later.
    offers = [
        worker.get("resources") or {}
        for worker in client.sync(client.scheduler.identity)["workers"].values()
    ]
    needs = resources or {}
    if not any(all(offer.get(n, 0) >= v for n, v in needs.items()) for offer in offers):
        words = " ".join(f"{name}={value:g}" for name, value in needs.items())
        option = f" --resources {words}" if words else ""
        logger.warning("no worker can run these units yet; waiting for `dask worker%s`", option)
    # Units write files: Dask must run each exactly once, and not repeat it speculatively.
    executor = client.get_executor(pure=False, retries=0, resources=resources)

    def submit(function: Callable[[Any], Any], argument: Any, /) -> "Future[Any]":
        future: Future[Any] = executor.submit(function, argument)
        return future

    try:
        yield TaskSubmitter(submit, _WorkerMonitor(client).problem)
    finally:
        client.close()
        if cluster:
            cluster.close()


class _WorkerMonitor:
    """Detects that all workers of a cluster have disappeared."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._limit_seconds = float(os.environ.get(NO_WORKER_SECONDS, _NO_WORKER_SECONDS))
        self._had_workers = False
        self._last_worker_time = time.monotonic()

    def problem(self) -> str | None:
        """A sentence if there were workers and none has come back within the limit."""
        try:
            count = len(self._client.sync(self._client.scheduler.identity)["workers"])
        except (OSError, TimeoutError) as error:
            return f"the Dask scheduler does not answer ({error}); start it and run again"
        if count or not self._had_workers:
            self._had_workers = self._had_workers or bool(count)
            self._last_worker_time = time.monotonic()
            return None
        seconds = time.monotonic() - self._last_worker_time
        if seconds < self._limit_seconds:
            return None
        return (
            f"there has been no Dask worker for {seconds:.0f} s; start new workers and run the "
            "same command again, finished units are kept"
        )
