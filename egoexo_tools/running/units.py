"""Runs units on an executor and collects their results.

`run_unit` runs in a worker, `run_units` in the process that started the stage.
"""

import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from egoexo_tools.errors import DEBUG, DataError, StageFailed, describe_unexpected, disk_full_text
from egoexo_tools.layout import DatasetRoot, record_writes
from egoexo_tools.running.executors import TaskSubmitter, available_cores, open_executor
from egoexo_tools.running.lock import RunId, worker_lock
from egoexo_tools.running.owned_files import list_files, merge_files, subtract_files
from egoexo_tools.running.progress import Progress, open_progress
from egoexo_tools.running.records import (
    RunOptions,
    Settings,
    Unit,
    UnitResult,
    read_status,
    write_status,
)

logger = logging.getLogger(__name__)

_POLL_SECONDS = 5.0
"""How often a waiting run checks whether its workers still exist."""

Job = tuple[Unit, str]
"""A unit and the hash of its inputs."""


def run_unit(
    root: DatasetRoot,
    stage: str,
    run_id: RunId,
    work: Callable[[Unit], Mapping[str, int]],
    settings: Settings,
    folder: Path | None,
    job: Job,
) -> UnitResult:
    """Process one unit, in a worker. Never raises: a failure is a result with status `failed`.

    `folder`: where the unit owns the files that it writes, see `owned_files`.
    """
    start = time.monotonic()
    unit, inputs_hash = job
    files: Mapping[str, Sequence[str]] = {}
    stale: Mapping[str, Sequence[str]] = {}
    written: set[Path] = set()
    trace_file = ""

    def make_result(status: str, counts: Mapping[str, int], error: str | None) -> UnitResult:
        seconds = round(time.monotonic() - start, 3)
        return UnitResult(
            unit.name,
            status,
            error,
            seconds,
            counts,
            settings,
            inputs_hash,
            files=files,
            stale=stale,
        )

    try:
        with worker_lock(root.status_dir(stage), run_id), record_writes() as written:
            former = read_status(root, stage, unit.name)
            # Until it has ended, the unit must not count as done because of an earlier run.
            if former is None or not former.files:
                root.status(stage, unit.name).unlink(missing_ok=True)
            else:
                files, stale = former.files, former.stale
                write_status(root, stage, make_result("failed", {}, "it was interrupted"))
                written.clear()
            counts = dict(work(unit))
            if folder is not None:
                files = list_files(folder, written)
                if former is not None:
                    stale = subtract_files(merge_files(former.files, former.stale), files)
            result = make_result("done", counts, None)
            # In the worker, because the parent may be killed with hundreds of results in transit.
            write_status(root, stage, result)
            return result
    except DataError as caught:
        error = str(caught)
    except OSError as caught:
        error = disk_full_text(caught) or str(caught)
    except Exception as caught:  # one bad take must not end the others
        if os.environ.get(DEBUG):
            logger.error("%s %s: %s", stage, unit.name, traceback.format_exc())
        trace = root.status_dir(stage) / f"{unit.name}.trace.txt"
        describe_unexpected(caught, f"{stage} of {unit.name}", trace=trace)
        error, trace_file = f"{type(caught).__name__}: {caught}", str(trace)
    if folder is not None:
        files = merge_files(files, list_files(folder, written))
    return replace(make_result("failed", {}, error), trace=trace_file)


def record_failure(root: DatasetRoot, stage: str, result: UnitResult) -> None:
    """Write a failed unit's status; a full disk only costs the record.

    A unit without a status is retried in the same way as a failed one.
    """
    try:
        former = read_status(root, stage, result.unit)
        if former is not None and not result.files:  # its worker died
            result = replace(result, files=former.files)
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
    """Yield results as units end, with a progress bar; a dead worker is a failed unit."""
    if not jobs:
        return
    workers = options.workers or min(available_cores(), len(jobs))
    # A few units ahead of the workers are enough; thousands of futures only cost memory.
    most_running = 1 if options.executor == "inline" else 4 * workers
    with ExitStack() as stack:
        submit = stack.enter_context(
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
        stack.enter_context(bar)
        running: dict[Future[UnitResult], Unit] = {}
        for job in jobs:
            running[submit(task, job)] = job[0]
            if len(running) >= most_running:
                yield from _collect(running, bar, options, submit)
        while running:
            yield from _collect(running, bar, options, submit)


def _collect(
    running: "dict[Future[UnitResult], Unit]",
    bar: Progress,
    options: RunOptions,
    submit: TaskSubmitter,
) -> Iterator[UnitResult]:
    """Wait for results and yield them; StageFailed if no worker is left to produce any."""
    ended, _ = wait(running, return_when=FIRST_COMPLETED, timeout=_POLL_SECONDS)
    # On a cluster whose workers have all disappeared, a future neither ends nor fails.
    while not ended:
        if (problem := submit.problem()) is not None:
            raise StageFailed(f"{len(running)} units are not done: {problem}")
        ended, _ = wait(running, return_when=FIRST_COMPLETED, timeout=_POLL_SECONDS)
    for future in ended:
        unit = running.pop(future)
        bar.update()
        try:
            result = future.result()
        except TimeoutError:
            error = f"took longer than {options.time_limit_seconds:g} s and was stopped"
            result = UnitResult(unit.name, "failed", error, seconds=0.0)
        except Exception as caught:  # the worker died: out of memory, a crash in a decoder
            error = f"its worker died ({caught}); run again, with fewer --workers if memory was low"
            result = UnitResult(unit.name, "failed", error, seconds=0.0)
        yield result
