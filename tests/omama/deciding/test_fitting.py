"""Fitting on val: removed objects, the confidence of a mode, and what follows training."""

from dataclasses import replace

import numpy as np
import pytest
from random_clips import PARAMETERS, make_clip
from square_trainings import CONFIG, finish_run, train_run

from egoexo_tools.evaluation.metrics import balanced_accuracy
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.runs import RunFolder, read_stamp
from egoexo_tools.vocab import Direction, Split
from omama.checkpoint import load_checkpoint
from omama.confidence import SHOWS
from omama.deciding.decide import Mode, Parameters, decide, visibility_scores
from omama.deciding.decision import Decision
from omama.deciding.fitting import LabelledClip, fit_visibility, remove_objects
from omama.deciding.links import link_frames
from omama.writing import predict_run

FITTED_MODES = [Mode.FRAME, Mode.TRACK, Mode.TRACK_CAUSAL]


def label_clip(seed: int, *, absent: float = 0.0) -> LabelledClip:
    """The first candidate is the object, the second shows a part; none does if it is absent."""
    clip = make_clip(seed, frames=8)
    is_absent = np.random.default_rng(seed).random(clip.exists.shape) < absent
    iou = np.zeros(clip.similarity.shape, np.float32)
    iou[..., 0], iou[..., 1] = 0.9, 0.1
    visible = clip.exists & ~is_absent
    clip.similarity[is_absent, 0] = clip.similarity[is_absent, 2]  # as similar as any other
    return LabelledClip(clip, link_frames(clip), iou * visible[..., None], visible)


def test_each_visible_object_is_removed_once_and_nothing_else() -> None:
    labelled = label_clip(0, absent=0.3)
    clip, times = labelled.clip, np.zeros(labelled.visible.shape, int)
    for clip_without, absent in remove_objects(labelled):
        times += absent
        is_removed = absent[..., None] & (labelled.iou > SHOWS)
        assert (clip_without.proposal[is_removed] == -1).all()
        assert np.isneginf(clip_without.similarity[is_removed]).all()
        for name in ("proposal", "similarity"):
            before, after = getattr(clip, name), getattr(clip_without, name)
            np.testing.assert_array_equal(after[~is_removed], before[~is_removed])
    assert (times == labelled.visible).all()


@pytest.mark.parametrize("mode", FITTED_MODES)
def test_removed_candidates_are_not_chosen(mode: Mode) -> None:
    labelled = label_clip(1)
    for clip, absent in remove_objects(labelled):
        choice = decide(clip, labelled.links, mode, PARAMETERS).choice
        assert absent.any() and (choice[absent] >= 2).all()


@pytest.mark.parametrize(
    ("mode", "past"),
    [(Mode.FRAME, None), (Mode.TRACK, None), (Mode.TRACK, PARAMETERS), (Mode.TRACK_CAUSAL, None)],
)
def test_val_without_absent_objects_teaches_to_recognise_them(
    mode: Mode, past: Parameters | None
) -> None:
    confidence = fit_visibility([label_clip(seed) for seed in range(4)], mode, PARAMETERS, past)
    assert confidence is not None and confidence.weights["log_odds"] > 0
    assert min(confidence.weights.values()) >= 0
    predicted, visible = [], []
    for labelled in [label_clip(seed, absent=0.25) for seed in range(10, 14)]:
        belief = decide(labelled.clip, labelled.links, mode, PARAMETERS)
        scores = visibility_scores(labelled.clip, labelled.links, belief, past)
        predicted.append(confidence.confidence(scores)[labelled.clip.exists] > 0.5)
        visible.append(labelled.visible[labelled.clip.exists])
    assert balanced_accuracy(np.concatenate(predicted), np.concatenate(visible)) > 0.7


def test_without_absent_pairs_there_is_no_confidence() -> None:
    labelled = label_clip(0)
    shows_nothing = replace(labelled, iou=np.zeros_like(labelled.iou))
    assert fit_visibility([shows_nothing], Mode.TRACK, PARAMETERS, None) is None


def test_the_balanced_accuracy_is_that_of_vals_own_pairs() -> None:
    clips = [label_clip(seed, absent=0.3) for seed in range(3)]
    confidence = fit_visibility(clips, Mode.TRACK, PARAMETERS, None)
    assert confidence is not None and confidence.balanced_accuracy is not None
    correct: dict[bool, list[bool]] = {True: [], False: []}
    for labelled in clips:
        belief = decide(labelled.clip, labelled.links, Mode.TRACK, PARAMETERS)
        scores = visibility_scores(labelled.clip, labelled.links, belief, None)
        values = confidence.confidence(scores)
        for place in zip(*np.nonzero(labelled.clip.exists), strict=True):
            truth = bool(labelled.visible[place])
            correct[truth].append(bool(values[place] > 0.5) == truth)
    recalls = [np.mean(correct[kind]) for kind in (True, False)]
    assert confidence.balanced_accuracy == pytest.approx(np.mean(recalls))


def test_after_training_a_decision_is_fitted_and_prediction_uses_it(own_root: DatasetRoot) -> None:
    path = train_run(own_root, "fitted", replace(CONFIG, epochs=1))
    finish_run(own_root, "fitted")
    decision = Decision.from_dict(load_checkpoint(path).decision, path)
    assert set(decision.modes) == set(FITTED_MODES)
    run = RunFolder.of(own_root, "predicted")
    predict_run("o-mama", own_root, Direction.EGO2EXO, Split.TEST, run, checkpoint=path)
    assert read_stamp(run).decision == decision.best_mode
    reference = replace(CONFIG, epochs=1, reference_behaviour=True)
    path = train_run(own_root, "reference", reference)
    finish_run(own_root, "reference")
    assert load_checkpoint(path).decision is None
