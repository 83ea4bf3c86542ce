"""Training, prediction, evaluation and report as stages: done once, skipped after, resumed.

A unit is a run: `<direction>` for the trained model, `<direction>-knn`, `-oracle` and `-random`
for what it is measured against. A run depends on the status files of the stages before it, so
that new proposals or features lead to new scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.stage import RunOptions, StageSummary, Unit, run_stage
from egoexo_tools.vocab import Direction, Split
from omama.matching.config import TrainConfig

PROTOCOLS = {"official": "summary.json", "omama": "summary_omama.json"}
"""Protocol → the file in the run's folder; the scores table is of the first."""


@dataclass(frozen=True)
class Features:
    """Which frozen backbone, and its checkpoint where it needs one."""

    backbone: str
    weights: Path | None = None
    precision: str = "fp32"

    @property
    def settings(self) -> dict[str, str | None]:
        return {
            "backbone": self.backbone,
            "weights": str(self.weights) if self.weights else None,
            "feature_precision": self.precision,
        }


def run_name(direction: Direction, method: str) -> str:
    """`ego2exo` for the trained model (method ""), `ego2exo-knn` for the others."""
    return f"{direction}-{method}" if method else direction.value


def run_train(
    root: DatasetRoot,
    directions: Sequence[Direction],
    config: TrainConfig,
    features: Features,
    *,
    run: RunOptions,
) -> StageSummary:
    """Train one model a direction; goes on from the last checkpoint where one was cut short."""
    units = [
        Unit(
            (direction.value,),
            inputs=(
                *_status_files(root, "features"),
                *(root.part("pairs", f"{split}.{direction}") for split in (Split.TRAIN, Split.VAL)),
            ),
            outputs=(root.runs / direction / "checkpoint_best.pt",),
        )
        for direction in directions
    ]
    work = partial(_train, root=root, config=config, features=features, run=run)
    settings = {**features.settings, **asdict(config)}
    return run_stage(root, "train", units, work, settings=settings, options=_in_order(run))


def run_predict(
    root: DatasetRoot,
    directions: Sequence[Direction],
    methods: Sequence[str],
    split: Split,
    features: Features,
    *,
    run: RunOptions,
) -> StageSummary:
    """Predict the pairs of a split by every method, into the runs' predictions files."""
    units = [
        Unit(
            (run_name(direction, method),),
            inputs=(
                *_status_files(root, "features"),
                root.part("pairs", f"{split}.{direction}"),
                *([] if method else [root.runs / direction / "checkpoint_best.pt"]),
            ),
            outputs=tuple(
                root.runs / run_name(direction, method) / name
                for name in ("predictions.json", "predictions.parquet")
            ),
        )
        for direction in directions
        for method in methods
    ]
    work = partial(_predict, root=root, split=split, features=features, run=run)
    settings = {**features.settings, "split": split.value}
    return run_stage(root, "predict", units, work, settings=settings, options=_in_order(run))


def run_evaluate(
    root: DatasetRoot,
    directions: Sequence[Direction],
    methods: Sequence[str],
    split: Split,
    *,
    run: RunOptions,
) -> StageSummary:
    """Write each run's ground truth, then score its predictions under every protocol."""
    from egoexo_tools.evaluation.evaluate import predictions_of

    units = [
        Unit(
            (run_name(direction, method),),
            inputs=(
                predictions_of(root.runs / run_name(direction, method)),
                root.part("pairs", f"{split}.{direction}"),
            ),
            outputs=tuple(
                root.runs / run_name(direction, method) / name for name in PROTOCOLS.values()
            ),
        )
        for direction in directions
        for method in methods
    ]
    work = partial(_evaluate, root=root, split=split)
    return run_stage(
        root, "evaluate", units, work, settings={"split": split.value}, options=_in_order(run)
    )


def run_report(
    root: DatasetRoot, directions: Sequence[Direction], methods: Sequence[str], *, run: RunOptions
) -> StageSummary:
    """Write runs/report.html about all the runs."""
    names = [run_name(direction, method) for direction in directions for method in methods]
    page = root.runs / "report.html"
    unit = Unit(
        ("report",),
        inputs=tuple(root.runs / name / file for name in names for file in PROTOCOLS.values()),
        outputs=(page,),
    )
    work = partial(_report, runs=[root.runs / name for name in names], page=page)
    return run_stage(root, "report", [unit], work, settings={}, options=_in_order(run))


def _train(
    unit: Unit, *, root: DatasetRoot, config: TrainConfig, features: Features, run: RunOptions
) -> Mapping[str, int]:
    from omama.matching.train import train

    (direction,) = unit.key
    train(
        root,
        direction=Direction(direction),
        config=config,
        backbone=features.backbone,
        weights=features.weights,
        feature_precision=features.precision,
        resume=not run.overwrite,
        quiet=run.quiet,
    )
    return {"models": 1}


def _predict(
    unit: Unit, *, root: DatasetRoot, split: Split, features: Features, run: RunOptions
) -> Mapping[str, int]:
    from omama.matching.predict import predict_split

    direction, method = _parse(unit)
    predict_split(
        root,
        direction=direction,
        split=split,
        run_name=run_name(direction, method),
        checkpoint=None if method else root.runs / direction / "checkpoint_best.pt",
        matcher=method or None,
        backbone=features.backbone,
        weights=features.weights,
        feature_precision=features.precision,
        quiet=run.quiet,
    )
    return {"runs": 1}


def _evaluate(unit: Unit, *, root: DatasetRoot, split: Split) -> Mapping[str, int]:
    from egoexo_tools.evaluation.evaluate import evaluate_run

    direction, method = _parse(unit)
    folder = root.runs / run_name(direction, method)
    samples = evaluate_run(root, folder, direction=direction, split=split, protocols=PROTOCOLS)
    return {"samples_scored": samples}


def _report(unit: Unit, *, runs: Sequence[Path], page: Path) -> Mapping[str, int]:
    from egoexo_tools.report import write_report

    write_report(runs, page)
    return {"pages": 1}


def _parse(unit: Unit) -> tuple[Direction, str]:
    direction, _, method = unit.key[0].partition("-")
    return Direction(direction), method


def _status_files(root: DatasetRoot, stage: str) -> list[Path]:
    return sorted(root.status_dir(stage).glob("*.json"))


def _in_order(run: RunOptions) -> RunOptions:
    """One after the other in this process: each run uses all cores and shows its own bar."""
    return replace(run, executor="inline", workers=None, quiet=True, time_limit_seconds=None)
