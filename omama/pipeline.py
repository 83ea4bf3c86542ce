"""The whole pipeline, from videos to the score table, one step after the other.

Every step is a stage that a command also runs on its own. All go through `run_stage`, so that a
second run does nothing and a changed setting is refused by name. Stages are imported when the
pipeline runs: a command's --help must not load them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
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
Step = tuple[str, Callable[[], StageSummary]]
"""Title, and a stage to run."""


@dataclass(frozen=True)
class PipelineOptions:
    """What to run, and with which models; the defaults download no weights and need no GPU."""

    directions: tuple[Direction, ...] = tuple(Direction)
    split_file: Path | None = None
    """Splits of `egoexo-tools select`; None: the official ones."""
    scenarios: tuple[str, ...] = ()
    """Only takes of these; empty: all."""
    take_uids: tuple[str, ...] = ()
    """Only these takes; empty: all."""
    sampling: str = "annotated"
    """Which frames, as in `egoexo-tools frames`."""
    short_side: int | None = None
    """448 reads the release's small copies of the videos."""
    fractions: Mapping[str, float] = field(default_factory=dict)
    """Split → share of its pairs to keep."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Split → exact number of pairs to keep."""
    seed: int = 0
    """Of the sample of pairs."""
    proposer: str = "regions"
    proposer_options: ProposerOptions = ProposerOptions()
    features: Features = Features(LEARNED_BACKBONE, feature_precision="fp32")
    cache_precision: str = "fp16"
    """Of cached tokens; int8 needs half the disk space."""
    all_frames: bool = False
    """Proposals and features of every frame, not only of those that pairs use."""
    method: str = methods.DEFAULT_METHOD
    """A name in METHODS; trained first if it can be."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Its training settings, where they differ from the defaults."""
    init: Path | None = None
    """Checkpoint that training starts from; LM-EEC needs one."""
    baselines: bool = True
    """Also score the proposal oracle, k-NN on descriptors and a random proposal, if the method
    chooses among proposals too. A method that paints its own masks needs no proposals."""
    test_split: Split = Split.TEST
    export: bool = True
    """Also write the mask folders that the O-MaMa code reads into the root, if it has proposals."""
    report: bool = True
    """Also write the report."""

    @property
    def predictors(self) -> tuple[Predictor, ...]:
        """All that are scored, the upper bound first; O-MaMa also with the decision of val."""
        is_compared = self.baselines and methods.get_method(self.method).chooses_proposals
        bound, *baselines = methods.BASELINES if is_compared else (self.method,)
        predictors = [Predictor(name) for name in (bound, self.method, *baselines)]
        if self.method == methods.DEFAULT_METHOD:
            # Published numbers choose the most similar candidate; the best decision is beside them.
            predictors.insert(2, Predictor(self.method, FITTED_DECISION))
        return tuple(dict.fromkeys(predictors))

    def needs(self, artifact: str) -> bool:
        """Whether a scored method needs `proposals` or `features`."""
        return any(artifact in methods.get_method(each.method).needs for each in self.predictors)


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
    steps = [*_data_steps(root, release, options, run), *_learning_steps(root, options, run)]
    # All steps are made first, so that wrong options are refused before the first stage.
    for number, (title, step) in enumerate(steps, start=1):
        say(f"[{number}/{len(steps)}] {title}")
        say(f"  {step().check().text()}")
    return score_table(root, options.directions)


def _data_steps(
    root: DatasetRoot, release: Release, options: PipelineOptions, run: RunOptions
) -> Iterator[Step]:
    from egoexo_tools.sampling import Sampling, SplitSampling
    from egoexo_tools.stages.export import run_export
    from egoexo_tools.stages.frames import run_frames
    from egoexo_tools.stages.ingest import run_ingest
    from egoexo_tools.stages.pairs import run_pairs
    from egoexo_tools.stages.propose import run_propose
    from egoexo_tools.stages.settings import FrameSettings

    release.require()
    yield (
        "ingest: annotations to manifests",
        partial(
            run_ingest,
            root,
            release,
            split_file=options.split_file,
            take_uids=options.take_uids or None,
            scenarios=options.scenarios or None,
            run=run,
        ),
    )
    frames = FrameSettings.choose(sampling=options.sampling, short_side=options.short_side)
    yield (
        "frames: annotated frames of the videos",
        partial(run_frames, root, release, settings=frames, run=run),
    )
    sampling = SplitSampling(options.fractions, options.counts, Sampling(seed=options.seed))
    yield (
        "pairs: source masks and destination frames",
        partial(run_pairs, root, directions=options.directions, sampling=sampling, run=run),
    )
    if not options.needs("proposals"):
        return
    yield (
        f"propose: candidate masks by {options.proposer}",
        partial(
            run_propose,
            root,
            proposer=options.proposer,
            options=options.proposer_options,
            directions=options.directions,
            all_frames=options.all_frames,
            run=run,
        ),
    )
    if options.export:
        yield (
            "export: mask folders in O-MaMa's layout",
            partial(run_export, root, "omama", root.path, run=run),
        )


def _learning_steps(root: DatasetRoot, options: PipelineOptions, run: RunOptions) -> Iterator[Step]:
    from omama import steps
    from omama.features.cache import CacheOptions, run_features

    method, directions, features = options.method, options.directions, options.features
    entry, split = methods.get_method(method), options.test_split
    config = methods.make_config(method, options.training)
    if options.needs("features"):
        backbone = features.backbone or DEFAULT_BACKBONE
        yield (
            f"features: {backbone} on the frames of the pairs",
            partial(
                run_features,
                root,
                backbone=backbone,
                weights=features.weights,
                feature_precision=features.feature_precision or "fp32",
                cache=CacheOptions(options.all_frames, options.cache_precision),
                run=run,
            ),
        )
    if entry.train is not None:
        training = partial(steps.run_train, root, directions, config, features, method=method)
        yield f"train: {entry.label}", partial(training, init=options.init, run=run)
    if entry.finish is not None:
        yield (
            "fit-decision: select on val how candidates are chosen",
            partial(steps.run_fit_decision, root, directions, features, method=method, run=run),
        )
    runs = steps.list_runs(root, directions, options.predictors)
    yield (
        "predict: the test pairs, by every method",
        partial(steps.run_predict, root, runs, split, features, run=run),
    )
    yield (
        "evaluate: official and O-MaMa protocol",
        partial(steps.run_evaluate, root, runs, split, run=run),
    )
    if options.report:
        yield (
            "report: one page of tables and pictures",
            partial(steps.run_report, root, runs, split, run=run),
        )
