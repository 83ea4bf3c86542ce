"""Writes the files of a synthetic release in the layout of the real one.

synthetic.json (the options) is written first. Then come the takes, each with a part file that
marks it as complete, then annotations/, and takes.json last. A folder without takes.json does not
count as a release, and a folder with takes.json is complete.
"""

import json
import shutil
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict
from functools import partial
from pathlib import Path

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import Release, write_atomic
from egoexo_tools.running.executors import available_cores, open_executor
from egoexo_tools.running.progress import open_progress
from egoexo_tools.synthetic.options import SyntheticOptions
from egoexo_tools.synthetic.takes import TakePlan, plan_takes, redacted_take, render_take
from egoexo_tools.vocab import Split

_REDACTED_TAKES = 2


def synthesize(
    path: Path,
    options: SyntheticOptions = SyntheticOptions(),
    *,
    quiet: bool = False,
    workers: int | None = None,
) -> Release:
    """Write a release to `path`; does nothing if it exists with the same options.

    After an interruption, complete takes are kept. Raises SettingsError if the folder contains a
    synthetic release with other options, DataError if it contains anything else.
    """
    release = Release(path)
    _check_folder(release, options)
    if release.takes_json.is_file():
        return release
    plans = plan_takes(options)
    pending = [plan for plan in plans if not _part(release, plan).is_file()]
    _render_takes(pending, release, options, quiet=quiet, workers=workers)
    _write_annotations(release, plans, options)
    takes = [plan.takes_json_entry(options) for plan in plans]
    write_atomic(release.takes_json, json.dumps(takes, indent=1, ensure_ascii=False))
    shutil.rmtree(release.path / ".parts", ignore_errors=True)
    return release


def _check_folder(release: Release, options: SyntheticOptions) -> None:
    """Check that the folder is empty or has a release with the same options; write the options."""
    path = release.path / "synthetic.json"
    if path.is_file():
        old, new = asdict(SyntheticOptions(**json.loads(path.read_bytes()))), asdict(options)
        changes = [f"{n}={old[n]}, now {new[n]}" for n in new if old[n] != new[n]]
        if changes:
            raise SettingsError(
                f"{release.path} was synthesized with {', '.join(changes)}; use the same options "
                "or another folder, or delete this one"
            )
    elif release.path.exists() and (not release.path.is_dir() or any(release.path.iterdir())):
        raise DataError(
            f"{release.path} exists and is not a synthetic release; give a new or empty folder"
        )
    else:
        write_atomic(path, json.dumps(options.to_json(), indent=1))


def _render_takes(
    plans: list[TakePlan],
    release: Release,
    options: SyntheticOptions,
    *,
    quiet: bool,
    workers: int | None,
) -> None:
    workers = min(workers or available_cores(), len(plans))
    executor = "process" if workers > 1 else "inline"
    most_running = workers + 1 if executor == "process" else 1
    task = partial(_render_part, release, options)
    bar = open_progress(total=len(plans), desc="synthesize", unit="take", quiet=quiet or not plans)
    with bar, open_executor(executor, workers=max(workers, 1)) as submit:
        running: set[Future[None]] = set()
        queue = list(plans)
        while queue or running:
            while queue and len(running) < most_running:
                running.add(submit(task, queue.pop(0)))
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                future.result()
                bar.update()


def _render_part(release: Release, options: SyntheticOptions, plan: TakePlan) -> None:
    """Runs in a worker."""
    try:
        relations = render_take(plan, release, options)
    except Exception as error:
        error.add_note(f"take {plan.take_name}")
        raise
    write_atomic(_part(release, plan), json.dumps(relations, ensure_ascii=False))


def _part(release: Release, plan: TakePlan) -> Path:
    return release.path / ".parts" / f"{plan.take_uid}.json"


def _write_annotations(release: Release, plans: list[TakePlan], options: SyntheticOptions) -> None:
    """relations_<split>.json and splits.json, with takes that are missing from takes.json."""
    redacted = [redacted_take(options, plans[0].split, n) for n in range(_REDACTED_TAKES)]
    all_takes = [*plans, *redacted]
    for split in Split:
        relations = {
            plan.take_uid: json.loads(_part(release, plan).read_bytes())
            for plan in plans
            if plan.split is split
        }
        if split is plans[0].split:
            # As in the real file, the annotation of a redacted take is still there.
            first = relations[plans[0].take_uid]
            relations[redacted[0].take_uid] = {**first, "take_name": redacted[0].take_name}
        text = json.dumps({"annotations": relations}, ensure_ascii=False)
        write_atomic(release.relations_json(split), text)
    splits = {
        "take_uid_to_split": {plan.take_uid: plan.split for plan in all_takes},
        "split_to_take_uids": {
            split: [plan.take_uid for plan in all_takes if plan.split is split] for split in Split
        },
        "take_uid_to_benchmark": {plan.take_uid: ["relations"] for plan in all_takes},
    }
    write_atomic(release.splits_json, json.dumps(splits, indent=1))
