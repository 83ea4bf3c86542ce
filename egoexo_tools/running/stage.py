"""Runs a stage: pending units → executor → a status file per unit → a summary.

A unit is done when its outputs lie in place and its status file, written last, says so. Run
again: done with the same settings and inputs = skipped, inputs changed or an output gone = done
anew, failed = retried, other settings = refused by name unless `overwrite`. Outputs are written
through `layout.atomic_path`, and a unit that is redone loses its status first, so a kill at any
moment leaves nothing that a second run cannot finish; `run_lock` keeps two runs apart.
"""

import json
import logging
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from egoexo_tools import __version__
from egoexo_tools.errors import (
    DEBUG,
    DataError,
    SettingsError,
    StageFailed,
    no_space,
    unexpected,
)
from egoexo_tools.layout import DatasetRoot, write_atomic
from egoexo_tools.running.executors import Submit, available_cores, open_executor
from egoexo_tools.running.inputs import hash_files
from egoexo_tools.running.lock import RunId, only_run, working
from egoexo_tools.running.progress import Progress, open_progress
from egoexo_tools.running.shard import Shard

logger = logging.getLogger(__name__)

_LOOK_AFTER_SECONDS = 5.0
"""How often a run that waits asks whether anybody works for it."""

Settings = Mapping[str, Any]
"""What the result depends on besides the inputs; JSON values."""


@dataclass(frozen=True)
class Unit:
    """One piece of work that succeeds or fails as a whole."""

    key: tuple[str, ...]
    """Such as (take_uid,), (take_uid, camera) or (split, direction)."""
    inputs: tuple[Path, ...] = ()
    """Manifest parts and other small files whose content the result depends on."""
    outputs: tuple[Path, ...] = ()
    """Files without which "done" does not hold (the unit's manifest part, usually)."""
    fingerprint: str = ""
    """Hash of what the result depends on that is no small file (a part of a large one)."""
    shard_key: str = ""
    """What decides its shard, for units that must go where others went; else its name does."""
    frames: tuple[int, ...] = ()
    """frame_idxs of its camera that are wanted, for stages that do not do all."""
    lacks: bool = False
    """Its outputs are there, but without some of `frames`."""

    @property
    def name(self) -> str:
        return ".".join(self.key)


Job = tuple[Unit, str]
"""A unit and the hash of its inputs."""


@dataclass(frozen=True)
class UnitResult:
    """What became of a unit; also the content of its status file."""

    unit: str
    status: str
    """`done` or `failed`."""
    error: str | None
    seconds: float
    counts: Mapping[str, int] = field(default_factory=dict)
    settings: Settings = field(default_factory=dict)
    inputs: str = ""
    """Hash of the inputs' content."""
    code_version: str = __version__
    trace: str = ""
    """Where the trace of an error lies that nobody foresaw."""


@dataclass(frozen=True)
class RunOptions:
    """How to run a stage; none of it changes the result."""

    executor: str = "process"
    workers: int | None = None
    scheduler: str | None = None
    overwrite: bool = False
    quiet: bool = False
    time_limit_seconds: float | None = None
    resources: dict[str, float] | None = None
    shard: Shard | None = None
    """Do these units only, beside other shards; None does all."""

    def mine(self, units: Sequence[Unit]) -> list[Unit]:
        """Those of the units that are in the shard."""
        shard = self.shard
        return [u for u in units if shard is None or shard.holds(u.shard_key or u.name)]


@dataclass(frozen=True)
class StageSummary:
    """What a stage did: units done now, done before, failed; counts added up over all."""

    stage: str
    done: int
    skipped: int
    failed: tuple[UnitResult, ...]
    counts: Mapping[str, int]
    seconds: float
    shard: Shard | None = None

    def text(self) -> str:
        """One line, and one more for each reason for a failure, with its units."""
        shard = "" if self.shard is None else f" {self.shard}"
        parts = [f"{self.stage}{shard}: {self.done} done"]
        if self.skipped:
            parts.append(f"{self.skipped} already done")
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        parts.extend(f"{value:,} {name.replace('_', ' ')}" for name, value in self.counts.items())
        lines = [", ".join(parts) + f" ({self.seconds:.1f} s)"]
        for reason, results in _by_reason(self.failed).items():
            names = ", ".join(result.unit for result in results[:3])
            more = f" and {len(results) - 3} more" if len(results) > 3 else ""
            lines.append(f"  {len(results)} failed: {reason} [{names}{more}]")
            if trace := next((result.trace for result in results if result.trace), None):
                lines.append(f"    an error of the toolkit's own: please report it with {trace}")
        return "\n".join(lines)

    def check(self) -> "StageSummary":
        """self if nothing failed; else raise StageFailed with the text."""
        if self.failed:
            raise StageFailed(self.text())
        return self


def run_stage(
    root: DatasetRoot,
    stage: str,
    units: Sequence[Unit],
    work: Callable[[Unit], Mapping[str, int]],
    *,
    settings: Settings,
    defaults: Settings = MappingProxyType({}),
    options: RunOptions = RunOptions(),
    price: Callable[[Sequence[Unit], Submit], None] | None = None,
) -> StageSummary:
    """Do every unit (of the shard) that is not done yet; `work(unit)` returns counts or raises.

    `price` sees the pending units before the first of them, and may try something out where
    they will run; what it raises ends the stage.

    `work` must be picklable (a module's function, or functools.partial of one). A unit that
    raises is recorded as failed and the others go on. Raises SettingsError where a done unit
    has other settings and `overwrite` is off; one that its status file lacks, because it came
    later, counts as that of `defaults`.
    """
    started = time.monotonic()
    with only_run(root.status_dir(stage), stage, shard=options.shard) as run_id:
        settings = _as_stored(settings)
        jobs, results = _jobs(root, stage, units, settings, _as_stored(defaults), options)
        skipped = len(results)
        task = partial(_run_unit, root, stage, run_id, work, settings)
        for result in _results(task, jobs, stage, options, price):
            if result.status == "failed":
                _record_failure(root, stage, result)
            results[result.unit] = result
    summary = _summary(stage, results, skipped=skipped, seconds=time.monotonic() - started)
    return replace(summary, shard=options.shard)


def pending_units(
    root: DatasetRoot,
    stage: str,
    units: Sequence[Unit],
    *,
    settings: Settings,
    options: RunOptions = RunOptions(),
) -> list[Unit]:
    """Those of the units that `run_stage` would do now; raises as it does."""
    jobs, _ = _jobs(root, stage, units, _as_stored(settings), {}, options)
    return [unit for unit, _ in jobs]


def read_status(root: DatasetRoot, stage: str, unit: str) -> UnitResult | None:
    """A unit's status, or None where it never ended."""
    try:
        return UnitResult(**json.loads(root.status(stage, unit).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{root.status(stage, unit)} is damaged ({error}); delete it and run {stage} again"
        ) from error


def read_statuses(root: DatasetRoot, stage: str) -> list[UnitResult]:
    """The status of every unit that a stage has ended, in name order."""
    names = sorted(path.stem for path in root.status_dir(stage).glob("*.json"))
    return [status for name in names if (status := read_status(root, stage, name)) is not None]


def write_status(root: DatasetRoot, stage: str, result: UnitResult) -> None:
    text = json.dumps(asdict(result), indent=1, sort_keys=True)
    write_atomic(root.status(stage, result.unit), text + "\n")


def _as_stored(settings: Settings) -> Settings:
    """As a status file gives them back: a tuple would differ from its own list on the next run."""
    found: Settings = json.loads(json.dumps(dict(settings)))
    return found


def _jobs(
    root: DatasetRoot,
    stage: str,
    units: Sequence[Unit],
    settings: Settings,
    defaults: Settings,
    options: RunOptions,
) -> tuple[list[Job], dict[str, UnitResult]]:
    """The pending units, and by name the results of the others, in the order of `units`.

    A status file of before counts as one of now: settings that it lacks are at their defaults.
    """
    jobs: list[Job] = []
    done: dict[str, UnitResult] = {}
    for unit in options.mine(units):
        # Before the work: an input that changes while a unit runs makes it pending next time.
        inputs = unit.fingerprint + hash_files(unit.inputs)
        status = read_status(root, stage, unit.name)
        if status is not None:
            status = replace(status, settings={**defaults, **status.settings})
        if status is None or _is_pending(status, unit, settings, inputs, stage, options):
            jobs.append((unit, inputs))
        else:
            done[unit.name] = status
    return jobs, done


def _summary(
    stage: str, results: Mapping[str, UnitResult], *, skipped: int, seconds: float
) -> StageSummary:
    failed = tuple(result for result in results.values() if result.status == "failed")
    counts: Counter[str] = Counter()
    for result in results.values():
        counts.update(result.counts)
    done = len(results) - skipped - len(failed)
    return StageSummary(stage, done, skipped, failed, dict(counts), seconds)


def _is_pending(
    status: UnitResult,
    unit: Unit,
    settings: Settings,
    inputs: str,
    stage: str,
    options: RunOptions,
) -> bool:
    if options.overwrite:
        return True
    # A failed unit has no result that other settings could mix with.
    if status.status == "done" and (changed := differences(status.settings, settings)):
        raise SettingsError(
            f"{stage} was done with {changed} "
            f"(unit {unit.name}); use the same settings, or --overwrite to redo it"
        )
    moved = status.inputs != inputs or not all(path.exists() for path in unit.outputs)
    moved = moved or unit.lacks
    return status.status == "failed" or moved


def differences(old: Settings, new: Settings) -> str:
    """`name=old, now new` for every setting that differs, in name order; "" where none does.

    A name that one side lacks is None there; callers first fill in what an older file lacks.
    """
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return ", ".join(f"{name}={old.get(name)!r}, now {new.get(name)!r}" for name in names)


def _run_unit(
    root: DatasetRoot,
    stage: str,
    run_id: RunId,
    work: Callable[[Unit], Mapping[str, int]],
    settings: Settings,
    job: "Job",
) -> UnitResult:
    """Runs in the worker. Never raises: a failure is a result like another."""
    started = time.monotonic()
    unit, inputs_hash = job

    def result(status: str, counts: Mapping[str, int], error: str | None = None) -> UnitResult:
        seconds = round(time.monotonic() - started, 3)
        return UnitResult(unit.name, status, error, seconds, counts, settings, inputs_hash)

    try:
        with working(root.status_dir(stage), run_id):
            # From here until the end the unit is not done, whatever an earlier run has left.
            root.status(stage, unit.name).unlink(missing_ok=True)
            done = result("done", dict(work(unit)))
            # Here and not in the parent, which may be killed with hundreds of results on their way.
            write_status(root, stage, done)
            return done
    except DataError as caught:
        error = str(caught)
    except OSError as caught:
        error = no_space(caught) or str(caught)
    except Exception as caught:  # one bad take must not end the others
        if os.environ.get(DEBUG):
            logger.error("%s %s: %s", stage, unit.name, traceback.format_exc())
        trace = root.status_dir(stage) / f"{unit.name}.trace.txt"
        unexpected(caught, f"{stage} of {unit.name}", trace=trace)
        error = f"{type(caught).__name__}: {caught}"
        return replace(result("failed", {}, error), trace=str(trace))
    return result("failed", {}, error)


def _record_failure(root: DatasetRoot, stage: str, result: UnitResult) -> None:
    """A unit without a status is tried again as a failed one is, so a full disk does no harm."""
    try:
        write_status(root, stage, result)
    except OSError as error:
        reason = no_space(error) or error
        logger.warning("%s %s: its failure is not recorded: %s", stage, result.unit, reason)


def _results(
    task: Callable[[Job], UnitResult],
    jobs: Sequence[Job],
    stage: str,
    options: RunOptions,
    price: Callable[[Sequence[Unit], Submit], None] | None,
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
        if price is not None:
            price([unit for unit, _ in jobs], submit)
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
    running: "dict[Future[UnitResult], Unit]", bar: Progress, options: RunOptions, submit: Submit
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


def _by_reason(results: Sequence[UnitResult]) -> dict[str, list[UnitResult]]:
    groups: dict[str, list[UnitResult]] = {}
    for result in results:
        groups.setdefault(result.error or "unknown", []).append(result)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))
