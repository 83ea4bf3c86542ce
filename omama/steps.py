"""Training, prediction, evaluation and report as stages: done once, skipped after, resumed.

A unit is a run with its default name (`egoexo_tools.runs.run_name`). Its inputs are the manifest
parts of the takes and cameras of its own pairs, so that new pictures or proposals of these lead to
new scores. The report also depends on the pictures that it shows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.pair_inputs import input_parts
from egoexo_tools.running.records import RunOptions, StageSummary, Unit
from egoexo_tools.running.stage import run_stage
from egoexo_tools.runs import FITTED_DECISION, REPORT, SUMMARIES, RunFolder, run_name
from egoexo_tools.vocab import Direction, Split
from omama import methods
from omama.config import Features
from omama.methods import Predictor


@dataclass(frozen=True)
class PipelineRun:
    """A run of the pipeline, in one direction."""

    direction: Direction
    predictor: Predictor
    folder: RunFolder
    checkpoint: Path | None
    """Of the method, shared by its decisions; None for a method that is not trained."""


def list_runs(
    root: DatasetRoot, directions: Sequence[Direction], predictors: Sequence[Predictor]
) -> list[PipelineRun]:
    """The run of every predictor in every direction."""
    runs = []
    for direction in directions:
        for predictor in predictors:
            name = run_name(direction, predictor.method, predictor.decision)
            trained = RunFolder.of(root, run_name(direction, predictor.method))
            is_trained = methods.get_method(predictor.method).train is not None
            checkpoint = trained.checkpoint_best if is_trained else None
            runs.append(PipelineRun(direction, predictor, RunFolder.of(root, name), checkpoint))
    return runs


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
    # As in every stage, changed inputs are a reason to repeat the unit.
    training = {"resume": not run.overwrite, "overwrite": True}
    shared = {"features": features, "quiet": run.quiet, **training}
    options = methods.make_options(method, {"init": init}, shared=shared)

    def inputs(each: PipelineRun) -> list[Path]:
        splits = (Split.TRAIN, Split.VAL)
        parts = [part for split in splits for part in input_parts(root, split, each.direction)]
        return [*parts, *_weights(features), *([] if init is None else [init])]

    def work(each: PipelineRun) -> Mapping[str, int]:
        path = methods.train(
            method, root, each.direction, config, each.folder, options=options, overwrite=True
        )
        if path != each.checkpoint:
            # The next steps, and a second run, have to find it without having trained.
            raise DataError(
                f"{method} saved its checkpoint as {path}; `run` expects {each.checkpoint}"
            )
        return {"models": 1}

    return _run_stage(
        root,
        "train",
        list_runs(root, directions, [Predictor(method)]),
        inputs=inputs,
        outputs=lambda each: [each.folder.checkpoint_best],
        work=work,
        settings={
            **features.settings,
            **methods.plain_settings(config),
            **({} if init is None else {"init": str(init)}),
        },
        run=run,
    )


def run_fit_decision(
    root: DatasetRoot,
    directions: Sequence[Direction],
    features: Features,
    *,
    method: str = methods.DEFAULT_METHOD,
    run: RunOptions,
) -> StageSummary:
    """Select on val how each trained model predicts (`methods.finish_training`)."""
    shared = {"features": features, "quiet": run.quiet}
    options = methods.make_options(method, {}, shared=shared)

    def inputs(each: PipelineRun) -> list[Path]:
        # Not the checkpoint, which this stage rewrites: it would always look changed.
        status = root.status("train", each.folder.name)
        return [status, *input_parts(root, Split.VAL, each.direction)]

    def work(each: PipelineRun) -> Mapping[str, int]:
        # A checkpoint that already has a decision, from `omama train`, is left as it is.
        methods.finish_training(method, root, each.direction, each.folder, options=options)
        return {"models": 1}

    return _run_stage(
        root,
        "fit-decision",
        list_runs(root, directions, [Predictor(method)]),
        inputs=inputs,
        outputs=lambda each: [each.folder.checkpoint_best],
        work=work,
        settings=features.settings,
        run=run,
    )


def run_predict(
    root: DatasetRoot,
    runs: Sequence[PipelineRun],
    split: Split,
    features: Features,
    *,
    run: RunOptions,
) -> StageSummary:
    """Predict the pairs of a split into the files of each run."""

    def inputs(each: PipelineRun) -> list[Path]:
        checkpoint = [] if each.checkpoint is None else [each.checkpoint]
        return [*input_parts(root, split, each.direction), *_weights(features), *checkpoint]

    def work(each: PipelineRun) -> Mapping[str, int]:
        from omama.writing import predict_run

        method, decision = each.predictor.method, each.predictor.decision
        # As an option, None stands for the decision that val selected.
        decision_option = None if decision == FITTED_DECISION else decision
        shared = {"features": features, "quiet": run.quiet, "decision": decision_option}
        options = methods.make_options(method, {}, shared=shared)
        predict_run(
            method,
            root,
            each.direction,
            split,
            each.folder,
            checkpoint=each.checkpoint,
            options=options,
        )
        return {"runs": 1}

    return _run_stage(
        root,
        "predict",
        runs,
        inputs=inputs,
        outputs=lambda each: [each.folder.predictions_json, each.folder.predictions],
        work=work,
        settings={**features.settings, "split": split.value},
        run=run,
    )


def run_evaluate(
    root: DatasetRoot, runs: Sequence[PipelineRun], split: Split, *, run: RunOptions
) -> StageSummary:
    """Write each run's ground truth, then score its predictions under every protocol."""

    def work(each: PipelineRun) -> Mapping[str, int]:
        from egoexo_tools.evaluation.evaluate import evaluate_run

        samples = evaluate_run(
            root, each.folder.path, direction=each.direction, split=split, protocols=SUMMARIES
        )
        return {"samples_scored": samples}

    return _run_stage(
        root,
        "evaluate",
        runs,
        # The table is scored; its export, written together with it, is the hashed input.
        inputs=lambda each: [
            each.folder.predictions_json,
            *input_parts(root, split, each.direction),
        ],
        outputs=lambda each: each.folder.summaries.values(),
        work=work,
        settings={"split": split.value},
        run=run,
    )


def run_report(
    root: DatasetRoot, runs: Sequence[PipelineRun], split: Split, *, run: RunOptions
) -> StageSummary:
    """Write runs/report.html about all the runs."""

    def work(unit: Unit) -> Mapping[str, int]:
        from egoexo_tools.report.page import write_report

        write_report([each.folder.path for each in runs], root.runs / REPORT)
        return {"pages": 1}

    inputs: dict[Path, None] = {}
    for each in runs:
        folder = each.folder
        files = (*folder.summaries.values(), folder.scores, folder.predictions, folder.log)
        inputs |= dict.fromkeys([*files, *input_parts(root, split, each.direction)])
    unit = Unit(("report",), inputs=tuple(inputs), outputs=(root.runs / REPORT,))
    return run_stage(root, "report", [unit], work, settings={}, options=_in_this_process(run))


def _run_stage(
    root: DatasetRoot,
    stage: str,
    runs: Sequence[PipelineRun],
    *,
    inputs: Callable[[PipelineRun], Iterable[Path]],
    outputs: Callable[[PipelineRun], Iterable[Path]],
    work: Callable[[PipelineRun], Mapping[str, int]],
    settings: Mapping[str, Any],
    run: RunOptions,
) -> StageSummary:
    # The stages of this module run inline, so that work need not be picklable.
    by_name = {each.folder.name: each for each in runs}
    units = [
        Unit((name,), inputs=tuple(inputs(each)), outputs=tuple(outputs(each)))
        for name, each in by_name.items()
    ]
    return run_stage(
        root,
        stage,
        units,
        lambda unit: work(by_name[unit.name]),
        settings=settings,
        options=_in_this_process(run),
    )


def _in_this_process(run: RunOptions) -> RunOptions:
    """One run after the other: each uses all cores and shows its own progress."""
    return replace(run, executor="inline", workers=None, quiet=True, time_limit_seconds=None)


def _weights(features: Features) -> list[Path]:
    return [] if features.weights is None else [features.weights]
