"""The files of a synthetic release, in the shipped layout.

synthetic.json (the options) comes first, then the takes, each with a part file that says it is
whole, then annotations/, and takes.json last: without takes.json nothing takes a folder for a
release, and with it nothing is missing.
"""

import json
import shutil
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from pathlib import Path

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import Release, write_atomic
from egoexo_tools.running.executors import available_cores, open_executor
from egoexo_tools.running.progress import Progress, open_progress
from egoexo_tools.synthetic.options import SyntheticOptions
from egoexo_tools.synthetic.takes import TakePlan, plan_takes, redacted_take, render_take
from egoexo_tools.vocab import Split

_REDACTED = 2


def synthesize(
    path: Path,
    options: SyntheticOptions = SyntheticOptions(),
    *,
    quiet: bool = False,
    workers: int | None = None,
) -> Release:
    """Write a release under `path`; returns at once if it is there with the same options.

    A run that was killed is taken up: finished takes are kept. Raises SettingsError if the
    folder holds a synthetic release with other options, DataError if it holds anything else.
    """
    release = Release(path)
    _claim(release, options)
    if release.takes_json.is_file():
        return release
    plans = plan_takes(options)
    pending = [plan for plan in plans if not _part(release, plan).is_file()]
    _render_all(pending, release, options, quiet=quiet, workers=workers)
    _write_annotations(release, plans, options)
    takes = [plan.takes_json_entry(options) for plan in plans]
    write_atomic(release.takes_json, json.dumps(takes, indent=1, ensure_ascii=False))
    shutil.rmtree(release.path / ".parts", ignore_errors=True)
    return release


def _claim(release: Release, options: SyntheticOptions) -> None:
    """Make sure that `release.path` is empty or ours with the same options, and mark it."""
    marker = release.path / "synthetic.json"
    if marker.is_file():
        # An option that came later had its default before.
        motion = {"motion": SyntheticOptions().motion}
        before = SyntheticOptions().to_json() | motion | json.loads(marker.read_bytes())
        now = motion | options.to_json()
        if changed := [name for name in now if before.get(name) != now[name]]:
            told = ", ".join(f"{name}={before.get(name)}, now {now[name]}" for name in changed)
            raise SettingsError(
                f"{release.path} was synthesized with {told}; use the same options or another "
                "folder, or delete this one"
            )
    elif release.path.exists() and (not release.path.is_dir() or any(release.path.iterdir())):
        raise DataError(
            f"{release.path} exists and is not a synthetic release; give a new or empty folder"
        )
    else:
        write_atomic(marker, json.dumps(options.to_json(), indent=1))


def _render_all(
    plans: list[TakePlan],
    release: Release,
    options: SyntheticOptions,
    *,
    quiet: bool,
    workers: int | None,
) -> None:
    workers = min(workers or available_cores(), len(plans))
    bar = open_progress(total=len(plans), desc="synthesize", unit="take", quiet=quiet or not plans)
    executor = "process" if workers > 1 else "inline"
    task = partial(_render_one, release, options)
    with bar, open_executor(executor, workers=max(workers, 1)) as submit:
        running: set[Future[None]] = set()
        for plan in plans:
            running.add(submit(task, plan))
            if len(running) > workers or executor == "inline":
                running = _wait_for_one(running, bar)
        while running:
            running = _wait_for_one(running, bar)


def _wait_for_one(running: "set[Future[None]]", bar: Progress) -> "set[Future[None]]":
    ended, rest = wait(running, return_when=FIRST_COMPLETED)
    for future in ended:
        future.result()
        bar.update()
    return rest


def _render_one(release: Release, options: SyntheticOptions, plan: TakePlan) -> None:
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
    """relations_<split>.json and splits.json, with takes that takes.json will not hold."""
    redacted = [redacted_take(options, plans[0].split, number) for number in range(_REDACTED)]
    listed = [*plans, *redacted]
    for split in Split:
        relations = {
            plan.take_uid: json.loads(_part(release, plan).read_bytes())
            for plan in plans
            if plan.split is split
        }
        if split is plans[0].split:
            # The annotation of a redacted take is still in the file.
            first = relations[plans[0].take_uid]
            relations[redacted[0].take_uid] = {**first, "take_name": redacted[0].take_name}
        text = json.dumps({"annotations": relations}, ensure_ascii=False)
        write_atomic(release.relations_json(split), text)
    splits = {
        "take_uid_to_split": {plan.take_uid: plan.split for plan in listed},
        "split_to_take_uids": {
            split: [plan.take_uid for plan in listed if plan.split is split] for split in Split
        },
        "take_uid_to_benchmark": {plan.take_uid: ["relations"] for plan in listed},
    }
    write_atomic(release.splits_json, json.dumps(splits, indent=1))
