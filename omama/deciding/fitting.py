"""Select on val how candidates are chosen: the parameters of each mode, and its visibility.

The measure is that of training: the mean IoU of the chosen candidates over the visible pairs, at
the proposals' size. Parameters are searched one after the other; the links between frames are
computed once per clip, so that a trial only repeats the rounds of `decide`.

A decision's confidence that an object is visible is a logistic regression on `visibility_scores`.
Val has few pairs whose object is absent (1 of 934 in one split), so the regression also learns from
clips out of which objects were removed. Legend as in `clips`.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from egoexo_tools.arrays import Bool, Float32
from egoexo_tools.errors import SettingsError
from egoexo_tools.evaluation.metrics import CONFIDENCE_THRESHOLD, balanced_accuracy
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.runs import RunFolder
from egoexo_tools.vocab import Direction, Split
from omama.confidence import SHOWS, LogisticConfidence, Scores, fit_logistic
from omama.dataset import UNANNOTATED, VISIBLE, Dataset
from omama.deciding.apply import candidates_by_take
from omama.deciding.clips import Clip, make_clips
from omama.deciding.decide import Mode, Parameters, decide, visibility_scores
from omama.deciding.decision import Decision, FittedMode, decision_path, write_decision
from omama.deciding.links import Links, link_frames
from omama.features.store import FeatureStore
from omama.matching.config import MatchingOptions
from omama.matching.matchers import Matcher, load_matcher
from omama.matching.train import write_outcome
from omama.matching.val_scores import keep_better_knn
from omama.tables.loading import load_dataset

logger = logging.getLogger(__name__)

MAX_PAIRS = 6000
"""Val pairs that a decision is fitted on, about: whole takes, drawn by a fixed generator."""
CHOICES: dict[str, tuple[float, ...]] = {
    "temperature": (0.02, 0.03, 0.05, 0.08, 0.12, 0.16, 0.2),
    "absent_at": (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "votes": (2.0, 5.0, 10.0, 15.0, 20.0, 30.0),
    "memory": (0.0, 0.25, 0.5, 0.75, 1.0),
    "repulsion": (0.0, 1.0, 2.0, 4.0, 6.0),
    "layout": (0.0, 1.0, 2.0, 3.0, 4.0),
}
"""Values that are tried."""
START = Parameters(temperature=0.08, absent_at=0.4, repulsion=2.0, layout=1.0)
# From temperature 0.12 and layout 1 the search stopped at 0.82 in one case of four, from here 0.84.
START_OF_TRACKS = replace(START, temperature=0.05, layout=2.0, votes=10.0, memory=0.5)
PASSES = 2

TURNS = 5
"""A removed object is absent in one of five turns, so that most of its surroundings stay."""
ABSENT_FRAMES = 2
"""Consecutive frames of an absence: an object that leaves seldom returns at the next instant."""


def finish_training(
    root: DatasetRoot, direction: Direction, run: RunFolder, *, options: MatchingOptions
) -> None:
    """Select on val, after training, how the best checkpoint of a run predicts.

    Nearest neighbours replace a model that is worse than they are; then a decision is fitted if
    the checkpoint has none and val has a visible object. A model trained with the reference's
    behaviour gets no decision: published numbers are those of the most similar candidate.
    """
    val = load_dataset(root.require(), split=Split.VAL, direction=direction)
    path = run.checkpoint_best
    loaded = load_matcher(path, None, direction=direction, options=options)
    store = loaded.open_store(val, options.features)
    # First the weights, then the decision: it is fitted on the similarities of these weights.
    checkpoint = keep_better_knn(path, val, store)
    write_outcome(run)
    is_reference = checkpoint.train_config["reference_behaviour"]
    if is_reference or checkpoint.decision is not None or not (val.pairs.state == VISIBLE).any():
        return
    logger.info("fitting the decision of %s on val", path)
    loaded = load_matcher(path, None, direction=direction, options=options)
    decision = fit_on(val, store, loaded.matcher, direction, batch_pairs=options.batch_pairs)
    write_decision(decision, path)


def fit_decision(
    root: DatasetRoot,
    direction: Direction,
    checkpoint: Path | None,
    *,
    options: MatchingOptions = MatchingOptions(),
) -> tuple[Decision, Path]:
    """Fit all modes of a checkpoint on val, or of k-NN without one, and write them.

    Returns the decision and its file. SettingsError if no object is visible in val.
    """
    val = load_dataset(root.require(), split=Split.VAL, direction=direction)
    baseline = "knn" if checkpoint is None else None
    loaded = load_matcher(checkpoint, baseline, direction=direction, options=options)
    store = loaded.open_store(val, options.features)
    decision = fit_on(val, store, loaded.matcher, direction, batch_pairs=options.batch_pairs)
    path = decision_path(root, direction, checkpoint)
    write_decision(decision, path)
    return decision, path


def fit_on(
    val: Dataset, store: FeatureStore, matcher: Matcher, direction: Direction, *, batch_pairs: int
) -> Decision:
    """Fit all modes of a matcher on val pairs."""
    clips = list(_label_clips(draw_takes(val), store, matcher, batch_pairs))
    if not any(clip.visible.any() for clip in clips):
        raise SettingsError(
            "no object is visible in a val pair, so that no decision can be fitted; use a split "
            "with visible objects"
        )
    # `track` last: its visibility uses the parameters of `track-causal`.
    modes = {mode: fit_mode(clips, mode) for mode in (Mode.FRAME, Mode.TRACK_CAUSAL)}
    modes[Mode.TRACK] = fit_mode(clips, Mode.TRACK, modes[Mode.TRACK_CAUSAL].parameters)
    return Decision(
        direction=str(direction),
        features=store.key.name,
        best_val_iou=mean_best_iou(clips),
        modes=modes,
    )


def draw_takes(val: Dataset, max_pairs: int = MAX_PAIRS) -> Dataset:
    """The annotated pairs of takes, drawn one by one until there are `max_pairs` or more."""
    # Whole takes: a track with gaps would be decided differently from those of a prediction.
    annotated = val.pairs.take(val.pairs.state != UNANNOTATED)
    takes = annotated.rows["take_uid"].to_numpy()
    names, counts = np.unique(takes, return_counts=True)
    order = np.random.default_rng(0).permutation(len(names))
    before = np.cumsum(counts[order]) - counts[order]
    drawn_names = names[order[before < max_pairs]]
    return replace(val, pairs=annotated.take(np.isin(takes, drawn_names)))


@dataclass(frozen=True)
class LabelledClip:
    """A clip with its ground truth."""

    clip: Clip
    links: Links
    iou: Float32
    """(T, O, K) IoU of each candidate with the ground truth."""
    visible: Bool
    """(T, O)"""


def _label_clips(
    val: Dataset, store: FeatureStore, matcher: Matcher, batch_pairs: int
) -> Iterator[LabelledClip]:
    for candidates in candidates_by_take(val, store, matcher, batch_pairs=batch_pairs):
        is_visible = val.pairs.state[candidates.pair] == VISIBLE
        for clip in make_clips(val, candidates):
            iou = np.zeros(clip.similarity.shape, np.float32)
            visible = np.zeros(clip.exists.shape, np.bool_)
            iou[clip.time, clip.item] = candidates.iou[clip.row]
            visible[clip.time, clip.item] = is_visible[clip.row]
            yield LabelledClip(clip, link_frames(clip), iou, visible)


def fit_mode(
    clips: Sequence[LabelledClip], mode: Mode, past: Parameters | None = None
) -> FittedMode:
    """The parameters of the greatest val IoU among CHOICES, and the confidence of visibility.

    `past`: parameters of the past-only decision, for a mode whose visibility also uses it.
    """
    best = START if mode is Mode.FRAME else START_OF_TRACKS
    best_iou = mean_iou(clips, mode, best)
    names = [n for n in CHOICES if mode is not Mode.FRAME or n not in ("votes", "memory")]
    for _ in range(PASSES):
        before = best
        for name in names:
            for value in CHOICES[name]:
                trial = replace(best, **{name: value})
                if trial != best and (iou := mean_iou(clips, mode, trial)) > best_iou:
                    best, best_iou = trial, iou
        if best == before:
            break  # further passes would repeat this one
    visibility = fit_visibility(clips, mode, best, past)
    logger.info("%s: val IoU %.4f with %s, %s", mode, best_iou, best, visibility)
    return FittedMode(best, visibility, best_iou, past)


def mean_iou(clips: Sequence[LabelledClip], mode: Mode, parameters: Parameters) -> float:
    """Mean IoU of the chosen candidates over the visible pairs of all clips; 0 without any."""
    total, count = 0.0, 0
    for labelled in clips:
        choice = decide(labelled.clip, labelled.links, mode, parameters).choice
        ious = np.take_along_axis(labelled.iou, np.maximum(choice, 0)[..., None], axis=2)[..., 0]
        total += float(ious[labelled.visible & (choice >= 0)].sum())
        count += int(labelled.visible.sum())
    return total / max(count, 1)


def mean_best_iou(clips: Sequence[LabelledClip]) -> float:
    """Mean IoU of the most similar candidates over the visible pairs of all clips."""
    total = sum(float(clip.iou[..., 0][clip.visible].sum()) for clip in clips)
    return total / max(sum(int(clip.visible.sum()) for clip in clips), 1)


@dataclass(frozen=True)
class _ScoredPairs:
    """n pairs with what a confidence is fitted on."""

    scores: Scores
    """(n,) each."""
    has_candidates: Bool
    visible: Bool

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        return cls(
            {
                name: np.concatenate([part.scores[name] for part in parts])
                for name in parts[0].scores
            },
            np.concatenate([part.has_candidates for part in parts]),
            np.concatenate([part.visible for part in parts]),
        )


def fit_visibility(
    clips: Sequence[LabelledClip], mode: Mode, parameters: Parameters, past: Parameters | None
) -> LogisticConfidence | None:
    """Fit the confidence of a mode on val; None without visible or without absent pairs."""

    def score(labelled: LabelledClip, clip: Clip, pairs: Bool, visible: Bool) -> _ScoredPairs:
        belief = decide(clip, labelled.links, mode, parameters)
        scores = visibility_scores(clip, labelled.links, belief, past)
        return _ScoredPairs(
            {name: values[pairs] for name, values in scores.items()},
            belief.choice[pairs] >= 0,
            visible[pairs],
        )

    val_pairs = [score(each, each.clip, each.clip.exists, each.visible) for each in clips]
    removed_pairs = [
        score(each, clip, absent, np.zeros_like(absent))
        for each in clips
        for clip, absent in remove_objects(each)
    ]
    pairs = _ScoredPairs.join([*val_pairs, *removed_pairs])
    # Pairs without candidates are predicted absent anyway.
    inputs = np.stack(list(pairs.scores.values()), axis=1)[pairs.has_candidates]
    visible = pairs.visible[pairs.has_candidates]
    if visible.all() or not visible.any():
        return None
    *weights, constant = fit_logistic(inputs, visible, balanced=True, rising=True).tolist()
    confidence = LogisticConfidence(dict(zip(pairs.scores, weights, strict=True)), constant, None)
    pairs = _ScoredPairs.join(val_pairs)
    predicted = pairs.has_candidates & (confidence.confidence(pairs.scores) > CONFIDENCE_THRESHOLD)
    return replace(confidence, balanced_accuracy=balanced_accuracy(predicted, pairs.visible))


def remove_objects(labelled: LabelledClip) -> Iterator[tuple[Clip, Bool]]:
    """The clip without some of its objects, and (T, O) the pairs whose object is removed.

    The candidates that show part of a removed object (SHOWS) become padding. In one of the turns,
    every visible pair with such candidates is removed.
    """
    clip = labelled.clip
    shows = labelled.visible[..., None] & (labelled.iou > SHOWS)  # (T, O, K)
    times, items = np.indices(labelled.visible.shape)
    turn = (times + items * (ABSENT_FRAMES + 1)) // ABSENT_FRAMES % TURNS
    for number in range(TURNS):
        absent = (turn == number) & shows.any(axis=-1)
        is_removed = shows & absent[..., None]
        clip_without = replace(
            clip,
            proposal=np.where(is_removed, -1, clip.proposal),
            similarity=np.where(is_removed, np.float32(-np.inf), clip.similarity),
        )
        yield clip_without, absent
