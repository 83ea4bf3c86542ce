"""Runs a stage: pending units → executor → a status file per unit → a summary.

A unit is done when its outputs lie in place and its status file, written last, says so. Run
again: done with the same settings and inputs = skipped, inputs changed or an output gone = done
anew, failed = retried, other settings = refused by name unless `overwrite`. Outputs are written
through `layout.atomic_path`, and a unit that is redone loses its status first, so a kill at any
moment leaves nothing that a second run cannot finish; `run_lock` keeps two runs apart.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.executors import TaskSubmitter
from egoexo_tools.running.inputs import hash_files
from egoexo_tools.running.lock import stage_lock
from egoexo_tools.running.records import (
    RunOptions,
    Settings,
    StageSummary,
    Unit,
    UnitResult,
    read_status,
)
from egoexo_tools.running.units import Job, record_failure, run_unit, run_units


def run_stage(
    root: DatasetRoot,
    stage: str,
    units: Sequence[Unit],
    work: Callable[[Unit], Mapping[str, int]],
    *,
    settings: Settings,
    options: RunOptions = RunOptions(),
    prepare: Callable[[Sequence[Unit], TaskSubmitter], None] | None = None,
) -> StageSummary:
    """Do every unit (of the shard) that is not done yet; `work(unit)` returns counts or raises.

    `prepare` sees the pending units before the first of them, and may try something out where
    they will run; what it raises ends the stage.

    `work` must be picklable (a module's function, or functools.partial of one). A unit that
    raises is recorded as failed and the others go on. Raises SettingsError where a done unit
    has other settings and `overwrite` is off.
    """
    started = time.monotonic()
    with stage_lock(root.status_dir(stage), stage, shard=options.shard) as run_id:
        settings = _as_stored(settings)
        jobs, results = _jobs(root, stage, units, settings, options)
        skipped = len(results)
        task = partial(run_unit, root, stage, run_id, work, settings)
        for result in run_units(task, jobs, stage, options, prepare):
            if result.status == "failed":
                record_failure(root, stage, result)
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
    jobs, _ = _jobs(root, stage, units, _as_stored(settings), options)
    return [unit for unit, _ in jobs]


def _as_stored(settings: Settings) -> Settings:
    """As a status file gives them back: a tuple would differ from its own list on the next run."""
    found: Settings = json.loads(json.dumps(dict(settings)))
    return found


def _jobs(
    root: DatasetRoot,
    stage: str,
    units: Sequence[Unit],
    settings: Settings,
    options: RunOptions,
) -> tuple[list[Job], dict[str, UnitResult]]:
    """The pending units, and by name the results of the others, in the order of `units`."""
    jobs: list[Job] = []
    done: dict[str, UnitResult] = {}
    for unit in options.in_shard(units):
        # Before the work: an input that changes while a unit runs makes it pending next time.
        inputs = unit.fingerprint + hash_files(unit.inputs)
        status = read_status(root, stage, unit.name)
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
    if status.status == "done" and (changed := setting_changes(status.settings, settings)):
        raise SettingsError(
            f"{stage} was done with {changed} "
            f"(unit {unit.name}); use the same settings, or --overwrite to redo it"
        )
    moved = status.inputs != inputs or not all(path.exists() for path in unit.outputs)
    moved = moved or unit.is_incomplete
    return status.status == "failed" or moved


def setting_changes(old: Settings, new: Settings) -> str:
    """`name=old, now new` for every setting that differs, in name order; "" where none does.

    A name that one side lacks counts as None there.
    """
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return ", ".join(f"{name}={old.get(name)!r}, now {new.get(name)!r}" for name in names)
