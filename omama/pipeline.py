"""The whole chain, from raw videos to the score table, one step after the other.

Every step is a command of its own; here they only follow each other, each through `run_stage`,
so that a second run does nothing and a changed setting is refused by name. The steps that train,
predict and score live in `omama`, imported inside functions: preparing data never needs torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from egoexo_tools.evaluation.score_table import score_table
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.proposers import ProposerOptions
from egoexo_tools.running.records import RunOptions, StageSummary
from egoexo_tools.runs import FITTED_DECISION
from egoexo_tools.vocab import Direction, Split
from omama import methods
from omama.config import DEFAULT_BACKBONE, LEARNED_BACKBONE, Features
from omama.methods import Predictor

Say = Callable[[str], None]
"""Receives one finished line of text for the user."""


@dataclass(frozen=True)
class PipelineOptions:
    """What to run, and with which models; the defaults fetch no weights and need no GPU."""

    directions: tuple[Direction, ...] = tuple(Direction)
    split_file: Path | None = None
    scenarios: tuple[str, ...] = ()
    take_uids: tuple[str, ...] = ()
    sampling: str = "annotated"
    short_side: int | None = None
    """448 reads the release's small copies of the videos."""
    fractions: Mapping[str, float] = field(default_factory=dict)
    """Split → share of its pairs to keep."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Split → exact number of pairs to keep."""
    seed: int = 0
    proposer: str = "regions"
    proposer_options: ProposerOptions = ProposerOptions()
    features: Features = Features(LEARNED_BACKBONE, feature_precision="fp32")
    cache_precision: str = "fp16"
    """Of cached tokens; int8 takes half the disk."""
    all_frames: bool = False
    """Proposals and features of every frame, not only of those that the pairs use."""
    method: str = methods.DEFAULT_METHOD
    """A name of omama.methods.METHODS; trained if it learns."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Its training settings that differ from its defaults."""
    init: Path | None = None
    """Weights that its training starts from; LM-EEC needs some."""
    baselines: bool = True
    """Also score the proposal oracle, k-NN on descriptors and a random proposal, where the method
    chooses among proposals too; for one that paints its own masks nothing is proposed."""
    test_split: Split = Split.TEST
    export: bool = True
    """Also write the mask folders that the O-MaMa code reads, into the root itself; they hold the
    proposals, so only where there are some."""
    report: bool = True

    @property
    def predictors(self) -> tuple[Predictor, ...]:
        """All that are scored, the upper bound first; O-MaMa also with the decision of val."""
        is_compared = self.baselines and methods.method(self.method).chooses_proposals
        bound, *others = methods.BASELINES if is_compared else (self.method,)
        predictors = [Predictor(name) for name in (bound, self.method, *others)]
        if self.method == methods.DEFAULT_METHOD:
            predictors.insert(2, Predictor(self.method, FITTED_DECISION))
        return tuple(dict.fromkeys(predictors))

    def needs(self, artifact: str) -> bool:
        """Whether a scored method needs `proposals` or `features`."""
        return any(artifact in methods.method(each.method).needs for each in self.predictors)


def run_pipeline(
    root: DatasetRoot,
    release: Release,
    options: PipelineOptions,
    *,
    run: RunOptions = RunOptions(),
    say: Say = lambda line: None,
) -> str:
    """Do what is not done yet, and return the score table.

    Raises StageFailed at the first stage with failed units, after the stage's other units ended.
    """
    steps = [
        *_data_steps(root, release, options, run),
        *_learning_steps(root, options, run),
    ]
    for number, (title, step) in enumerate(steps, start=1):
        say(f"[{number}/{len(steps)}] {title}")
        say(f"  {step().check().text()}")
    return score_table(root, options.directions)


Step = tuple[str, Callable[[], StageSummary]]


def _data_steps(
    root: DatasetRoot, release: Release, options: PipelineOptions, run: RunOptions
) -> list[Step]:
    from egoexo_tools.sampling import Sampling, SplitSampling
    from egoexo_tools.stages.export import run_export
    from egoexo_tools.stages.frames import run_frames
    from egoexo_tools.stages.ingest import run_ingest
    from egoexo_tools.stages.pairs import run_pairs
    from egoexo_tools.stages.propose import run_propose
    from egoexo_tools.stages.settings import FrameSettings

    release.require()
    steps: list[Step] = [
        (
            "ingest: annotations to manifests",
            lambda: run_ingest(
                root,
                release,
                split_file=options.split_file,
                take_uids=options.take_uids or None,
                scenarios=options.scenarios or None,
                run=run,
            ),
        ),
        (
            "frames: annotated frames out of the videos",
            lambda: run_frames(
                root,
                release,
                settings=FrameSettings.choose(
                    sampling=options.sampling, short_side=options.short_side
                ),
                run=run,
            ),
        ),
        (
            "pairs: source mask and destination frame",
            lambda: run_pairs(
                root,
                directions=options.directions,
                sampling=SplitSampling(
                    options.fractions, options.counts, Sampling(seed=options.seed)
                ),
                run=run,
            ),
        ),
    ]
    if options.needs("proposals"):
        steps.append(
            (
                f"propose: candidate masks by {options.proposer}",
                lambda: run_propose(
                    root,
                    proposer=options.proposer,
                    options=options.proposer_options,
                    directions=options.directions,
                    all_frames=options.all_frames,
                    run=run,
                ),
            )
        )
    if options.export and options.needs("proposals"):
        steps.append(
            (
                "export: mask folders in O-MaMa's layout",
                lambda: run_export(root, "omama", root.path, run=run),
            )
        )
    return steps


def _learning_steps(root: DatasetRoot, options: PipelineOptions, run: RunOptions) -> list[Step]:
    from omama import steps as omama_steps

    # Settings of training are refused before hours of other stages, not after.
    config = methods.make_config(options.method, options.training)
    method, predictors, split = options.method, options.predictors, options.test_split
    entry = methods.method(method)
    features, directions = options.features, options.directions
    steps: list[Step] = []
    if options.needs("features"):
        steps.append(_features_step(root, options, run))
    if entry.train is not None:
        steps.append(
            (
                f"train: {entry.label}",
                lambda: omama_steps.run_train(
                    root, directions, config, features, method=method, init=options.init, run=run
                ),
            )
        )
    if entry.finish is not None:
        steps.append(
            (
                "fit-decision: on val, how candidates are chosen",
                lambda: omama_steps.run_fit_decision(
                    root, directions, features, method=method, run=run
                ),
            )
        )
    steps += [
        (
            "predict: the test pairs, by every method",
            lambda: omama_steps.run_predict(root, directions, predictors, split, features, run=run),
        ),
        (
            "evaluate: official and O-MaMa protocol",
            lambda: omama_steps.run_evaluate(root, directions, predictors, split, run=run),
        ),
    ]
    if options.report:
        steps.append(
            (
                "report: one page of tables and pictures",
                lambda: omama_steps.run_report(root, directions, predictors, run=run),
            )
        )
    return steps


def _features_step(root: DatasetRoot, options: PipelineOptions, run: RunOptions) -> Step:
    from omama.features.cache import CacheOptions, run_features

    features = options.features
    backbone = features.backbone or DEFAULT_BACKBONE
    return (
        f"features: {backbone} on the frames of the pairs",
        lambda: run_features(
            root,
            backbone=backbone,
            weights=features.weights,
            feature_precision=features.feature_precision or "fp32",
            cache=CacheOptions(options.all_frames, options.cache_precision),
            run=run,
        ),
    )
