"""Which mode decides a prediction and with which parameters; how val chooses these."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.runs import RunFolder
from egoexo_tools.vocab import Direction, Split
from omama.dataset import UNANNOTATED, VISIBLE, Dataset, load_dataset
from omama.deciding.apply import take_by_take
from omama.deciding.candidates import Candidates
from omama.deciding.clips import clips
from omama.deciding.decide import Mode
from omama.deciding.decision import Decision, Fitted, is_own, read_decision, write_decision
from omama.deciding.fit import fit_mode, mean_best_iou
from omama.deciding.judged import LabelledClip, judge
from omama.deciding.links import link
from omama.features.store import FeatureStore
from omama.matching.config import MatchingOptions
from omama.matching.matchers import Matcher, load_matcher
from omama.matching.train import write_outcome
from omama.matching.val_scores import keep_better_knn

logger = logging.getLogger(__name__)

MOST_PAIRS = 6000
"""Val pairs that a fit looks at: whole takes, drawn by a fixed generator."""


def resolve_decision(
    root: DatasetRoot, direction: Direction, checkpoint: Path | None, options: MatchingOptions
) -> MatchingOptions:
    """The options with a mode: what was asked for, else what val chose.

    Other people's checkpoints stay with `best`, which is what their published numbers mean.
    """
    if options.decision is not None:
        return options
    if checkpoint is not None and not is_own(checkpoint):
        return replace(options, decision=Mode.BEST.value)
    decision = read_decision(root, direction, checkpoint)
    mode = Mode.BEST if decision is None else decision.chosen
    return replace(options, decision=mode.value)


def fitted_mode(
    root: DatasetRoot, direction: Direction, checkpoint: Path | None, mode: Mode, features: str
) -> Fitted:
    """The parameters of a mode; DataError where none were fitted, or on other features."""
    decision = read_decision(root, direction, checkpoint)
    if decision is None or mode not in decision.modes:
        raise DataError(
            f"nothing was fitted for --decide {mode}; run `omama fit-decision {root.path} "
            f"--direction {direction}` with {checkpoint or '--method knn'} first"
        )
    if (decision.direction, decision.features) != (str(direction), features):
        raise DataError(
            f"the decision was fitted for {decision.direction} on features {decision.features}, "
            f"this is {direction} on {features}; run `omama fit-decision` on these"
        )
    return decision.modes[mode]


def finish_training(
    root: DatasetRoot, direction: Direction, run: RunFolder, *, options: MatchingOptions
) -> None:
    """Choose on val, after training, how the best checkpoint of a run predicts.

    Nearest neighbours replace a model that is worse than they are; then the decision is fitted,
    where the checkpoint has none and val has a visible object. A model trained with the reference's
    behaviour gets no decision: published numbers choose the most similar candidate.
    """
    val = load_dataset(root.require(), split=Split.VAL, direction=direction)
    path = run.checkpoint_best
    store = load_matcher(path, None, direction=direction, options=options).open_store(
        val, options.features
    )
    checkpoint = keep_better_knn(path, val, store)
    write_outcome(run)
    is_reference = checkpoint.train_config["reference_behaviour"]
    if is_reference or checkpoint.decision is not None or not (val.pairs.state == VISIBLE).any():
        return
    logger.info("fitting the decision of %s on val", path)
    matcher = load_matcher(path, None, direction=direction, options=options).matcher
    decision = fit_on(val, store, matcher, direction, batch_pairs=options.batch_pairs)
    write_decision(decision, root, direction, path)


def fit_decision(
    root: DatasetRoot,
    direction: Direction,
    checkpoint: Path | None,
    *,
    options: MatchingOptions = MatchingOptions(),
) -> tuple[Decision, Path]:
    """Fit all modes of a checkpoint on val, or of k-NN where there is none, and save them.

    Returns the decision and the file that holds it. SettingsError where val has no pair whose
    object is visible.
    """
    val = load_dataset(root.require(), split=Split.VAL, direction=direction)
    baseline = "knn" if checkpoint is None else None
    loaded = load_matcher(checkpoint, baseline, direction=direction, options=options)
    store = loaded.open_store(val, options.features)
    decision = fit_on(val, store, loaded.matcher, direction, batch_pairs=options.batch_pairs)
    return decision, write_decision(decision, root, direction, checkpoint)


def fit_on(
    val: Dataset,
    store: FeatureStore,
    matcher: Matcher,
    direction: Direction,
    *,
    batch_pairs: int,
) -> Decision:
    """Fit all modes of a matcher on val pairs."""
    judged = list(_judged(some_takes(val), store, matcher, batch_pairs))
    if not any(clip.visible.any() for clip in judged):
        raise SettingsError(
            "no val pair has its object in view: there is nothing to fit a decision on"
        )
    modes = {mode: fit_mode(judged, mode) for mode in (Mode.FRAME, Mode.TRACK_CAUSAL)}
    modes[Mode.TRACK] = fit_mode(judged, Mode.TRACK, modes[Mode.TRACK_CAUSAL].parameters)
    return Decision(
        direction=str(direction),
        features=store.key.name,
        best_val_iou=mean_best_iou(judged),
        modes=modes,
    )


def some_takes(val: Dataset, most_pairs: int = MOST_PAIRS) -> Dataset:
    """The annotated pairs of takes drawn one by one until there are `most_pairs` or more."""
    annotated = val.pairs.take(val.pairs.state != UNANNOTATED)
    takes = annotated.rows["take_uid"].to_numpy()
    names, counts = np.unique(takes, return_counts=True)
    order = np.random.default_rng(0).permutation(len(names))
    before = np.cumsum(counts[order]) - counts[order]
    kept = names[order[before < most_pairs]]
    return replace(val, pairs=annotated.take(np.isin(takes, kept)))


def _judged(
    val: Dataset, store: FeatureStore, matcher: Matcher, batch_pairs: int
) -> Iterator[LabelledClip]:
    for held in take_by_take(val, store, matcher, batch_pairs=batch_pairs):
        yield from _judged_clips(val, held)


def _judged_clips(val: Dataset, held: Candidates) -> Iterator[LabelledClip]:
    visible = val.pairs.state[held.pair] == VISIBLE
    for clip in clips(val, held):
        yield judge(clip, link(clip), held.truth[clip.row], visible[clip.row])
