"""Training, prediction, evaluation and report as stages: done once, skipped after, resumed.

A unit is a run with its default name (`egoexo_tools.runs.run_name`). Its inputs include the status
files of the stages before it, so that new proposals or features lead to new scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import RunOptions, StageSummary, Unit
from egoexo_tools.running.stage import run_stage
from egoexo_tools.runs import FITTED_DECISION, REPORT, SUMMARIES, RunFolder, run_name
from egoexo_tools.vocab import Direction, Split
from omama import methods
from omama.config import Features
from omama.methods import Predictor


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
    """Train one model per direction; an interrupted training continues from its last checkpoint.

    `config` comes from `methods.make_config`; `init` is a checkpoint to start from.
    """
    runs = _runs(root, directions, [Predictor(method)])
    units = [
        Unit(
            (name,),
            inputs=(
                *_previous_statuses(root, method),
                *(root.part("pairs", f"{s}.{each.direction}") for s in (Split.TRAIN, Split.VAL)),
            ),
            outputs=(each.folder.checkpoint_best,),
        )
        for name, each in runs.items()
    ]
    shared = {"features": features, "resume": not run.overwrite, "quiet": run.quiet}
    options = methods.make_options(method, {"init": init}, shared=shared)
    # `init` is a setting only where it is given: finished roots without it stay finished.
    start = {} if init is None else {"init": str(init)}
    return run_stage(
        root,
        "train",
        units,
        partial(_train, root=root, runs=runs, config=config, options=options),
        settings={**features.settings, **methods.plain_settings(config), **start},
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
    """Choose on val how each trained model predicts (`methods.finish_training`)."""
    runs = _runs(root, directions, [Predictor(method)])
    units = [
        Unit(
            (name,),
            # Not the checkpoint itself, which this stage rewrites: it would always look changed.
            inputs=(root.status("train", name), root.part("pairs", f"val.{each.direction}")),
            outputs=(each.folder.checkpoint_best,),
        )
        for name, each in runs.items()
    ]
    shared = {"features": features, "quiet": run.quiet}
    options = methods.make_options(method, {}, shared=shared)
    return run_stage(
        root,
        "fit-decision",
        units,
        partial(_fit_decision, root=root, runs=runs, options=options),
        settings=features.settings,
        options=_in_order(run),
    )


def run_predict(
    root: DatasetRoot,
    directions: Sequence[Direction],
    predictors: Sequence[Predictor],
    split: Split,
    features: Features,
    *,
    run: RunOptions,
) -> StageSummary:
    """Predict the pairs of a split by every predictor, into the runs' files."""
    runs = _runs(root, directions, predictors)
    units = []
    for name, each in runs.items():
        checkpoint = [] if each.checkpoint is None else [each.checkpoint]
        pairs = root.part("pairs", f"{split}.{each.direction}")
        inputs = (*_previous_statuses(root, each.predictor.method), pairs, *checkpoint)
        outputs = (each.folder.predictions_json, each.folder.predictions)
        units.append(Unit((name,), inputs=inputs, outputs=outputs))
    shared = {"features": features, "quiet": run.quiet}
    return run_stage(
        root,
        "predict",
        units,
        partial(_predict, root=root, runs=runs, split=split, shared=shared),
        settings={**features.settings, "split": split.value},
        options=_in_order(run),
    )


def run_evaluate(
    root: DatasetRoot,
    directions: Sequence[Direction],
    predictors: Sequence[Predictor],
    split: Split,
    *,
    run: RunOptions,
) -> StageSummary:
    """Write each run's ground truth, then score its predictions under every protocol."""
    runs = _runs(root, directions, predictors)
    units = [
        Unit(
            (name,),
            # The table is scored; its export, written together with it, is the hashed input.
            inputs=(
                each.folder.predictions_json,
                root.part("pairs", f"{split}.{each.direction}"),
            ),
            outputs=tuple(each.folder.summaries.values()),
        )
        for name, each in runs.items()
    ]
    work = partial(_evaluate, root=root, runs=runs, split=split)
    settings = {"split": split.value}
    return run_stage(root, "evaluate", units, work, settings=settings, options=_in_order(run))


def run_report(
    root: DatasetRoot,
    directions: Sequence[Direction],
    predictors: Sequence[Predictor],
    *,
    run: RunOptions,
) -> StageSummary:
    """Write runs/report.html about all the runs."""
    folders = [each.folder for each in _runs(root, directions, predictors).values()]
    page = root.runs / REPORT
    inputs = tuple(path for folder in folders for path in folder.summaries.values())
    unit = Unit(("report",), inputs=inputs, outputs=(page,))
    work = partial(_report, runs=[folder.path for folder in folders], page=page)
    return run_stage(root, "report", [unit], work, settings={}, options=_in_order(run))


@dataclass(frozen=True)
class _PipelineRun:
    """A run of the pipeline."""

    direction: Direction
    predictor: Predictor
    folder: RunFolder
    checkpoint: Path | None
    """Of the method, whatever the decision; None for a method that is not trained."""


def _runs(
    root: DatasetRoot, directions: Sequence[Direction], predictors: Sequence[Predictor]
) -> dict[str, _PipelineRun]:
    """Every run by its name."""
    runs = {}
    for direction in directions:
        for predictor in predictors:
            trained = RunFolder.of(root, run_name(direction, predictor.method))
            is_trained = methods.get_method(predictor.method).train is not None
            name = run_name(direction, predictor.method, predictor.decision)
            runs[name] = _PipelineRun(
                direction=direction,
                predictor=predictor,
                folder=RunFolder.of(root, name),
                checkpoint=trained.checkpoint_best if is_trained else None,
            )
    return runs


Runs = Mapping[str, _PipelineRun]


def _train(
    unit: Unit, *, root: DatasetRoot, runs: Runs, config: Any, options: Any
) -> Mapping[str, int]:
    run = runs[unit.key[0]]
    method = run.predictor.method
    path = methods.train(method, root, run.direction, config, run.folder, options=options)
    if path != run.checkpoint:
        # The next steps, and a second run, have to find it without having trained.
        raise DataError(f"{method} saved its checkpoint as {path}; `run` expects {run.checkpoint}")
    return {"models": 1}


def _fit_decision(unit: Unit, *, root: DatasetRoot, runs: Runs, options: Any) -> Mapping[str, int]:
    run = runs[unit.key[0]]
    methods.finish_training(run.predictor.method, root, run.direction, run.folder, options=options)
    return {"models": 1}


def _predict(
    unit: Unit, *, root: DatasetRoot, runs: Runs, split: Split, shared: Mapping[str, Any]
) -> Mapping[str, int]:
    from omama.writing import predict_run

    run = runs[unit.key[0]]
    method, decision = run.predictor.method, run.predictor.decision
    # None stands for the decision that val chose.
    decision_option = None if decision == FITTED_DECISION else decision
    options = methods.make_options(method, {}, shared={**shared, "decision": decision_option})
    predict_run(
        method, root, run.direction, split, run.folder, checkpoint=run.checkpoint, options=options
    )
    return {"runs": 1}


def _evaluate(unit: Unit, *, root: DatasetRoot, runs: Runs, split: Split) -> Mapping[str, int]:
    from egoexo_tools.evaluation.evaluate import evaluate_run

    run = runs[unit.key[0]]
    samples = evaluate_run(
        root, run.folder.path, direction=run.direction, split=split, protocols=SUMMARIES
    )
    return {"samples_scored": samples}


def _report(unit: Unit, *, runs: Sequence[Path], page: Path) -> Mapping[str, int]:
    from egoexo_tools.report.page import write_report

    write_report(runs, page)
    return {"pages": 1}


def _previous_statuses(root: DatasetRoot, method: str) -> list[Path]:
    """Status files of the last stage that a method builds on.

    New proposals lead to new features, so the features stand for both.
    """
    stages = ("features", "propose") if methods.get_method(method).needs else ("frames",)
    for stage in stages:
        if paths := sorted(root.status_dir(stage).glob("*.json")):
            return paths
    return []


def _in_order(run: RunOptions) -> RunOptions:
    """One run after the other in this process: each uses all cores and shows its own progress."""
    return replace(run, executor="inline", workers=None, quiet=True, time_limit_seconds=None)
