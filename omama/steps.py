"""Training, prediction, evaluation and report as stages: done once, skipped after, resumed.

A unit is a run, called by its usual name: `<direction>` for O-MaMa, `<direction>-<method>` for
every other. A run depends on the status files of the stages before it, so that new proposals or
features lead to new scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import RunOptions, StageSummary, Unit
from egoexo_tools.running.stage import run_stage
from egoexo_tools.runs import (
    DECIDED,
    DEFAULT_DECISION,
    DEFAULT_METHOD,
    REPORT,
    SUMMARIES,
    RunFolder,
    parse_run_name,
    run_name,
)
from egoexo_tools.vocab import Direction, Split
from omama import methods
from omama.config import Features


def run_train(
    root: DatasetRoot,
    directions: Sequence[Direction],
    config: Any,
    features: Features,
    *,
    method: str = methods.DEFAULT_METHOD,
    init: Path | None = None,
    run: RunOptions,
) -> StageSummary:
    """Train one model a direction; goes on from the last checkpoint where one was cut short.

    `config` is what `methods.make_config` made of the method's training settings, `init` the
    weights that it starts from.
    """
    units = [
        Unit(
            (run_name(direction, method),),
            inputs=(
                *_made_before(root, method),
                *(root.part("pairs", f"{split}.{direction}") for split in (Split.TRAIN, Split.VAL)),
            ),
            outputs=(_run(root, direction, method).checkpoint_best,),
        )
        for direction in directions
    ]
    choices = {"features": features, "resume": not run.overwrite, "quiet": run.quiet}
    options = methods.make_options(method, {"init": init}, where_known=choices)
    work = partial(_train, root=root, config=config, options=options)
    # Only where it was given: roots that were made before have no such setting.
    start = {} if init is None else {"init": str(init)}
    settings = {**features.settings, **methods.plain(config), **start}
    return run_stage(
        root,
        "train",
        units,
        work,
        settings=settings,
        options=_in_order(run),
    )


def run_fit_decision(
    root: DatasetRoot,
    directions: Sequence[Direction],
    features: Features,
    *,
    method: str = methods.DEFAULT_METHOD,
    run: RunOptions,
) -> StageSummary:
    """Choose on val how the trained models predict; `methods.finish_training` of each direction."""
    units = []
    for direction in directions:
        folder = _run(root, direction, method)
        # The checkpoint is read and rewritten, so it cannot be an input: it would look changed.
        inputs = (
            root.status("train", folder.name),
            root.part("pairs", f"{Split.VAL}.{direction}"),
        )
        units.append(Unit((folder.name,), inputs=inputs, outputs=(folder.checkpoint_best,)))
    options = methods.make_options(
        method, {}, where_known={"features": features, "quiet": run.quiet}
    )
    work = partial(_fit_decision, root=root, options=options)
    return run_stage(
        root, "fit-decision", units, work, settings=features.settings, options=_in_order(run)
    )


def run_predict(
    root: DatasetRoot,
    directions: Sequence[Direction],
    names: Sequence[str],
    split: Split,
    features: Features,
    *,
    run: RunOptions,
) -> StageSummary:
    """Predict the pairs of a split by every method of `names`, into the runs' files.

    All choose the most similar candidate, as published numbers do; `decided` among the names is
    the default method again, choosing as val did.
    """
    units = []
    for direction in directions:
        for name in names:
            folder = _run(root, direction, name)
            pairs = root.part("pairs", f"{split}.{direction}")
            checkpoint = _checkpoint(root, direction, name)
            inputs = [*_made_before(root, name), pairs, *([checkpoint] if checkpoint else [])]
            outputs = (folder.predictions_json, folder.predictions)
            units.append(Unit((folder.name,), inputs=tuple(inputs), outputs=outputs))
    work = partial(_predict, root=root, split=split, features=features, quiet=run.quiet)
    settings = {**features.settings, "split": split.value}
    return run_stage(root, "predict", units, work, settings=settings, options=_in_order(run))


def run_evaluate(
    root: DatasetRoot,
    directions: Sequence[Direction],
    names: Sequence[str],
    split: Split,
    *,
    run: RunOptions,
) -> StageSummary:
    """Write each run's ground truth, then score its predictions under every protocol."""
    units = []
    for direction in directions:
        for name in names:
            folder = _run(root, direction, name)
            # The table is what is scored; its export, always written beside it, is what the
            # status files of all roots so far have hashed.
            inputs = (folder.predictions_json, root.part("pairs", f"{split}.{direction}"))
            outputs = tuple(folder.summaries.values())
            units.append(Unit((folder.name,), inputs=inputs, outputs=outputs))
    work = partial(_evaluate, root=root, split=split)
    return run_stage(
        root, "evaluate", units, work, settings={"split": split.value}, options=_in_order(run)
    )


def run_report(
    root: DatasetRoot, directions: Sequence[Direction], names: Sequence[str], *, run: RunOptions
) -> StageSummary:
    """Write runs/report.html about all the runs."""
    folders = [_run(root, direction, name) for direction in directions for name in names]
    page = root.runs / REPORT
    inputs = tuple(path for folder in folders for path in folder.summaries.values())
    unit = Unit(("report",), inputs=inputs, outputs=(page,))
    work = partial(_report, runs=[folder.path for folder in folders], page=page)
    return run_stage(root, "report", [unit], work, settings={}, options=_in_order(run))


def _train(unit: Unit, *, root: DatasetRoot, config: Any, options: Any) -> Mapping[str, int]:
    direction, method, folder = _parse(root, unit)
    path = methods.train(method, root, direction, config, folder, options=options)
    if path != folder.checkpoint_best:
        # The steps that follow, and a second run, have to find it without having trained.
        raise DataError(
            f"{method} kept its checkpoint as {path}; `run` looks for {folder.checkpoint_best}"
        )
    return {"models": 1}


def _fit_decision(unit: Unit, *, root: DatasetRoot, options: Any) -> Mapping[str, int]:
    direction, method, folder = _parse(root, unit)
    methods.finish_training(method, root, direction, folder, options=options)
    return {"models": 1}


def _predict(
    unit: Unit, *, root: DatasetRoot, split: Split, features: Features, quiet: bool
) -> Mapping[str, int]:
    from omama.writing import predict_run

    direction, name, folder = _parse(root, unit)
    known = {
        "features": features,
        "quiet": quiet,
        "decision": None if name == DECIDED else DEFAULT_DECISION,
    }
    method = _method(name)
    options = methods.make_options(method, {}, where_known=known)
    predict_run(
        method,
        root,
        direction,
        split,
        folder,
        checkpoint=_checkpoint(root, direction, name),
        options=options,
    )
    return {"runs": 1}


def _evaluate(unit: Unit, *, root: DatasetRoot, split: Split) -> Mapping[str, int]:
    from egoexo_tools.evaluation.evaluate import evaluate_run

    direction, _, folder = _parse(root, unit)
    samples = evaluate_run(root, folder.path, direction=direction, split=split, protocols=SUMMARIES)
    return {"samples_scored": samples}


def _report(unit: Unit, *, runs: Sequence[Path], page: Path) -> Mapping[str, int]:
    from egoexo_tools.report.page import write_report

    write_report(runs, page)
    return {"pages": 1}


def _run(root: DatasetRoot, direction: Direction, method: str) -> RunFolder:
    return RunFolder.of(root, run_name(direction, method))


def _parse(root: DatasetRoot, unit: Unit) -> tuple[Direction, str, RunFolder]:
    (name,) = unit.key
    found = parse_run_name(name)
    if found is None:
        raise DataError(f"{name!r} is no run's usual name; see egoexo_tools.runs")
    return *found, RunFolder.of(root, name)


def _method(name: str) -> str:
    return DEFAULT_METHOD if name == DECIDED else name


def _checkpoint(root: DatasetRoot, direction: Direction, name: str) -> Path | None:
    method = _method(name)
    learns = methods.method(method).train is not None
    return _run(root, direction, method).checkpoint_best if learns else None


def _made_before(root: DatasetRoot, method: str) -> list[Path]:
    """Status files of the last stage that a method builds on.

    Features are made again when proposals are, so they stand for both; a baseline that looks at
    no features has them too, because the status of every root made so far says so.
    """
    entry = methods.method(_method(method))
    if entry.needs:
        return _status_files(root, "features") or _status_files(root, "propose")
    return _status_files(root, "frames")


def _status_files(root: DatasetRoot, stage: str) -> list[Path]:
    return sorted(root.status_dir(stage).glob("*.json"))


def _in_order(run: RunOptions) -> RunOptions:
    """One after the other in this process: each run uses all cores and shows its own bar."""
    return replace(run, executor="inline", workers=None, quiet=True, time_limit_seconds=None)
