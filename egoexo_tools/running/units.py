"""Runs units on an executor and collects what became of them.

`run_unit` is what happens in a worker, `run_units` what happens in the process that started it.
"""

import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import replace

from egoexo_tools.errors import DEBUG, DataError, StageFailed, describe_unexpected, disk_full_text
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.executors import TaskSubmitter, available_cores, open_executor
from egoexo_tools.running.lock import RunId, worker_lock
from egoexo_tools.running.progress import Progress, open_progress
from egoexo_tools.running.records import RunOptions, Settings, Unit, UnitResult, write_status

logger = logging.getLogger(__name__)

_LOOK_AFTER_SECONDS = 5.0
"""How often a run that waits asks whether anybody works for it."""

Job = tuple[Unit, str]
"""A unit and the hash of its inputs."""


def run_unit(
    root: DatasetRoot,
    stage: str,
    run_id: RunId,
    work: Callable[[Unit], Mapping[str, int]],
    settings: Settings,
    job: Job,
) -> UnitResult:
    """Runs in the worker. Never raises: a failure is a result like another."""
    started = time.monotonic()
    unit, inputs_hash = job

    def result(status: str, counts: Mapping[str, int], error: str | None = None) -> UnitResult:
        seconds = round(time.monotonic() - started, 3)
        return UnitResult(unit.name, status, error, seconds, counts, settings, inputs_hash)

    try:
        with worker_lock(root.status_dir(stage), run_id):
            # From here until the end the unit is not done, whatever an earlier run has left.
            root.status(stage, unit.name).unlink(missing_ok=True)
            done = result("done", dict(work(unit)))
            # Here and not in the parent, which may be killed with hundreds of results on their way.
            write_status(root, stage, done)
            return done
    except DataError as caught:
        error = str(caught)
    except OSError as caught:
        error = disk_full_text(caught) or str(caught)
    except Exception as caught:  # one bad take must not end the others
        if os.environ.get(DEBUG):
            logger.error("%s %s: %s", stage, unit.name, traceback.format_exc())
        trace = root.status_dir(stage) / f"{unit.name}.trace.txt"
        describe_unexpected(caught, f"{stage} of {unit.name}", trace=trace)
        error = f"{type(caught).__name__}: {caught}"
        return replace(result("failed", {}, error), trace=str(trace))
    return result("failed", {}, error)


def record_failure(root: DatasetRoot, stage: str, result: UnitResult) -> None:
    """A unit without a status is tried again as a failed one is, so a full disk does no harm."""
    try:
        write_status(root, stage, result)
    except OSError as error:
        reason = disk_full_text(error) or error
        logger.warning("%s %s: its failure is not recorded: %s", stage, result.unit, reason)


def run_units(
    task: Callable[[Job], UnitResult],
    jobs: Sequence[Job],
    stage: str,
    options: RunOptions,
    prepare: Callable[[Sequence[Unit], TaskSubmitter], None] | None,
) -> Iterator[UnitResult]:
    """The results as they come, with a bar; a worker that died is a failed unit."""
    if not jobs:
        return
    workers = options.workers or min(available_cores(), len(jobs))
    # A few units ahead of the workers is enough; thousands of futures only cost memory.
    ahead = 1 if options.executor == "inline" else 4 * workers
    with ExitStack() as opened:
        submit = opened.enter_context(
            open_executor(
                options.executor,
                workers=workers,
                scheduler=options.scheduler,
                time_limit_seconds=options.time_limit_seconds,
                resources=options.resources,
            )
        )
        if prepare is not None:
            prepare([unit for unit, _ in jobs], submit)
        bar = open_progress(total=len(jobs), desc=stage, unit="unit", quiet=options.quiet)
        opened.enter_context(bar)
        running: dict[Future[UnitResult], Unit] = {}
        for job in jobs:
            running[submit(task, job)] = job[0]
            if len(running) >= ahead:
                yield from _collect(running, bar, options, submit)
        while running:
            yield from _collect(running, bar, options, submit)


def _collect(
    running: "dict[Future[UnitResult], Unit]",
    bar: Progress,
    options: RunOptions,
    submit: TaskSubmitter,
) -> Iterator[UnitResult]:
    """Those that have ended; StageFailed where nobody is left who could end them."""
    ended, _ = wait(running, return_when=FIRST_COMPLETED, timeout=_LOOK_AFTER_SECONDS)
    # A future on a cluster whose workers have all gone never ends, and never fails either.
    while not ended:
        if (trouble := submit.trouble()) is not None:
            raise StageFailed(f"{len(running)} units are not done: {trouble}")
        ended, _ = wait(running, return_when=FIRST_COMPLETED, timeout=_LOOK_AFTER_SECONDS)
    for future in ended:
        unit = running.pop(future)
        bar.update()
        yield _result_of(future, unit, options)


def _result_of(future: "Future[UnitResult]", unit: Unit, options: RunOptions) -> UnitResult:
    try:
        return future.result()
    except TimeoutError:
        error = f"took longer than {options.time_limit_seconds:g} s and was stopped"
    except Exception as caught:  # the worker died: out of memory, a crash in a decoder
        error = f"its worker died ({caught}); run again, with fewer --workers if memory was short"
    return UnitResult(unit=unit.name, status="failed", error=error, seconds=0.0)
