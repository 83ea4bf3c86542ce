"""Runs a stage: pending units → executor → one status file per unit → a summary.

A unit is done when its outputs are in place and its status file, written last, says so. On the
next run, a unit that was done with the same settings and inputs is skipped. A unit with changed
inputs, a missing output or an earlier failure is redone. Other settings are rejected by name
unless `overwrite` is set.

Outputs are written through `layout.atomic_path`, and a unit loses its status before it is redone.
So after a kill at any moment the next run can finish the stage. `lock` excludes concurrent runs.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.executors import TaskSubmitter
from egoexo_tools.running.inputs import hash_files, stage_digests
from egoexo_tools.running.lock import stage_lock
from egoexo_tools.running.owned_files import Ownership, remove_gone_units, remove_stale_files
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
    owned: Ownership | None = None,
) -> StageSummary:
    """Process all pending units (of the shard); `work(unit)` returns counts or raises.

    `work` must be picklable: a module-level function, or functools.partial of one. A unit whose
    work raises is recorded as failed, and the others continue.

    `prepare` gets the pending units before the first one starts, and may submit a trial task to
    the executor. An exception that it raises ends the stage.

    With `owned`, files that a unit wrote in an earlier run and not in this one are removed, and so
    are the files of units that no longer exist. All files must be written in each run of `work`.

    Raises SettingsError if a unit is done with other settings and `overwrite` is off.
    """
    start = time.monotonic()
    with stage_lock(root.status_dir(stage), stage, shard=options.shard) as run_id:
        settings = _as_stored(settings)
        if owned is not None:
            remove_gone_units(root, stage, owned)
        jobs, results = _jobs(root, stage, units, settings, options)
        skipped = len(results)
        folder = None if owned is None else owned.folder
        task = partial(run_unit, root, stage, run_id, work, settings, folder)
        for result in run_units(task, jobs, stage, options, prepare):
            if result.status == "failed":
                record_failure(root, stage, result)
            results[result.unit] = result
        if owned is not None and any(result.stale for result in results.values()):
            remove_stale_files(root, stage, owned)
    failed = tuple(result for result in results.values() if result.status == "failed")
    counts: Counter[str] = Counter()
    for result in results.values():
        counts.update(result.counts)
    return StageSummary(
        stage,
        done=len(results) - skipped - len(failed),
        skipped=skipped,
        failed=failed,
        counts=dict(counts),
        seconds=time.monotonic() - start,
        shard=options.shard,
    )


def pending_units(
    root: DatasetRoot,
    stage: str,
    units: Sequence[Unit],
    *,
    settings: Settings,
    options: RunOptions = RunOptions(),
) -> list[Unit]:
    """The units that `run_stage` would process now; raises the same errors."""
    jobs, _ = _jobs(root, stage, units, _as_stored(settings), options)
    return [unit for unit, _ in jobs]


def setting_changes(old: Settings, new: Settings) -> str:
    """`name=old, now new` for every setting that differs, in name order; "" if none does.

    A name that one side lacks counts as None.
    """
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return ", ".join(f"{name}={old.get(name)!r}, now {new.get(name)!r}" for name in names)


def _as_stored(settings: Settings) -> Settings:
    """As a status file stores them: a tuple would differ from its own list on the next run."""
    json_settings: Settings = json.loads(json.dumps(dict(settings)))
    return json_settings


def _jobs(
    root: DatasetRoot, stage: str, units: Sequence[Unit], settings: Settings, options: RunOptions
) -> tuple[list[Job], dict[str, UnitResult]]:
    """The pending units, and by name the results of the others, in the order of `units`."""
    jobs: list[Job] = []
    results: dict[str, UnitResult] = {}
    digests = stage_digests(root, stage)
    for unit in options.in_shard(units):
        # Before the work: a unit whose input changes while it runs is pending on the next run.
        inputs = unit.fingerprint + hash_files(unit.inputs, digests=digests)
        status = read_status(root, stage, unit.name)
        if status is None or _is_pending(status, unit, settings, inputs, stage, options):
            jobs.append((unit, inputs))
        else:
            results[unit.name] = status
    digests.save()
    return jobs, results


def _is_pending(
    status: UnitResult, unit: Unit, settings: Settings, inputs: str, stage: str, options: RunOptions
) -> bool:
    if options.overwrite or status.status == "failed":
        # The settings of a failed unit do not matter: it has no result to mix with new ones.
        return True
    if changes := setting_changes(status.settings, settings):
        raise SettingsError(
            f"{stage} was done with {changes} "
            f"(unit {unit.name}); use the same settings, or --overwrite to redo it"
        )
    outputs_exist = all(path.exists() for path in unit.outputs)
    return status.inputs != inputs or not outputs_exist or unit.is_incomplete
