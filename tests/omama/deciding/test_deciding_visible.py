"""How sure a decision is that its object is in view: learnt on val with absent pairs or without."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from test_deciding import OBJECTS, SETTINGS, TOP, cut, in_order, make_clip

from egoexo_tools.errors import DataError
from omama.confidence import SHOWS, Calibration, LogisticConfidence, Scores, fit_logistic
from omama.deciding.clips import Clip
from omama.deciding.decide import Mode, Parameters, decide
from omama.deciding.decision import Decision, Fitted
from omama.deciding.judged import LabelledClip, with_absences
from omama.deciding.links import link
from omama.deciding.visible import fit_visibility, visible_scores

DECIDED = [Mode.FRAME, Mode.TRACK, Mode.TRACK_CAUSAL]


def judged_clip(seed: int, *, absent: float = 0.0) -> LabelledClip:
    """The first candidate is the object, the second shows a part; of absent ones, none does."""
    clip = make_clip(seed, frames=8)
    gone = np.random.default_rng(seed).random(clip.exists.shape) < absent
    iou = np.zeros(clip.similarity.shape, np.float32)
    iou[..., 0], iou[..., 1] = 0.9, 0.1
    visible = clip.exists & ~gone
    clip.similarity[gone, 0] = clip.similarity[gone, 2]  # it looks like anything else
    return LabelledClip(clip, link(clip), iou * visible[..., None], visible)


def test_each_object_is_taken_out_once_and_nothing_else_is() -> None:
    judged = judged_clip(0, absent=0.3)
    clip, times = judged.clip, np.zeros(judged.visible.shape, int)
    for left, gone in with_absences(judged):
        times += gone
        for time, item in np.ndindex(*gone.shape):
            for candidate in range(clip.proposal.shape[2]):
                at = time, item, candidate
                if gone[time, item] and judged.iou[at] > SHOWS:
                    assert left.proposal[at] == -1 and left.similarity[at] == -np.inf
                else:
                    assert left.proposal[at] == clip.proposal[at]
                    assert left.similarity[at] == clip.similarity[at]
    assert (times == judged.visible).all()


def test_what_is_taken_out_is_not_chosen() -> None:
    judged = judged_clip(1)
    for mode in DECIDED:
        for left, gone in with_absences(judged):
            choice = decide(left, judged.links, mode, SETTINGS).choice
            assert gone.any() and (choice[gone] >= 2).all()


@pytest.mark.parametrize(
    ("mode", "past"),
    [(Mode.FRAME, None), (Mode.TRACK, None), (Mode.TRACK, SETTINGS), (Mode.TRACK_CAUSAL, None)],
)
def test_a_val_without_absent_objects_still_tells_them(mode: Mode, past: Parameters | None) -> None:
    found = fit_visibility([judged_clip(seed) for seed in range(4)], mode, SETTINGS, past)
    assert found is not None and found.weights["log_odds"] > 0
    assert min(found.weights.values()) >= 0
    unseen = [judged_clip(seed, absent=0.25) for seed in range(10, 14)]
    sure, visible = [], []
    for judged in unseen:
        belief = decide(judged.clip, judged.links, mode, SETTINGS)
        exists = judged.clip.exists
        scores = visible_scores(judged.clip, judged.links, belief, past)
        sure.append(found.confidence(scores)[exists])
        visible.append(judged.visible[exists])
    said, truth = np.concatenate(sure) > 0.5, np.concatenate(visible)
    assert (said[truth].mean() + (~said[~truth]).mean()) / 2 > 0.7


def test_nothing_to_learn_from() -> None:
    judged = judged_clip(0)
    blind = LabelledClip(judged.clip, judged.links, np.zeros_like(judged.iou), judged.visible)
    assert fit_visibility([blind], Mode.TRACK, SETTINGS, None) is None


def test_the_accuracy_is_that_of_vals_own_pairs() -> None:
    clips = [judged_clip(seed, absent=0.3) for seed in range(3)]
    found = fit_visibility(clips, Mode.TRACK, SETTINGS, None)
    assert found is not None and found.balanced_accuracy is not None
    right: dict[bool, list[bool]] = {True: [], False: []}
    for judged in clips:
        belief = decide(judged.clip, judged.links, Mode.TRACK, SETTINGS)
        sure = found.confidence(visible_scores(judged.clip, judged.links, belief, None))
        for at in zip(*np.nonzero(judged.clip.exists), strict=True):
            truth = bool(judged.visible[at])
            right[truth].append(bool(sure[at] > 0.5) == truth)
    recalls = [np.mean(right[kind]) for kind in (True, False)]
    assert found.balanced_accuracy == pytest.approx(np.mean(recalls))


def without_candidates(clip: Clip) -> Clip:
    clip.proposal[0, 0], clip.similarity[0, 0] = -1, -np.inf
    return clip


def test_the_scores_of_a_pair() -> None:
    clip = make_clip()
    links = link(clip)
    belief = decide(clip, links, Mode.TRACK, SETTINGS)
    past = decide(clip, links, Mode.TRACK_CAUSAL, SETTINGS)
    scores = visible_scores(clip, links, belief, SETTINGS)
    for time, item in zip(*np.nonzero(clip.exists), strict=True):
        chosen = int(belief.choice[time, item])
        absent = 1 - belief.mass[time, item].astype(np.float64).sum()
        assert scores["log_odds"][time, item] == pytest.approx(np.log(1 / absent - 1), rel=1e-3)
        assert scores["similarity"][time, item] == clip.similarity[time, item, chosen]
        others = sum(
            clip.overlap[time, item * TOP + chosen, other * TOP + candidate]
            * belief.mass[time, other, candidate]
            for other in range(OBJECTS)
            for candidate in range(TOP)
            if other != item
        )
        assert scores["alone"][time, item] == pytest.approx(-others, abs=1e-5)
        assert scores["past_log_odds"][time, item] == past.visible_logit[time, item]


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_past_only_visibility_does_not_change_when_the_future_is_cut_off(memory: float) -> None:
    settings = replace(SETTINGS, memory=memory)
    clip = make_clip(frames=8, moves=True)

    def scores(clip: Clip) -> Scores:
        links = link(clip)
        belief = decide(clip, links, Mode.TRACK_CAUSAL, settings)
        return visible_scores(clip, links, belief, None)

    whole = scores(clip)
    for frames in range(1, 8):
        for name, score in scores(cut(clip, frames)).items():
            np.testing.assert_allclose(score, whole[name][:frames], atol=1e-4)


@pytest.mark.parametrize("mode", DECIDED)
def test_the_order_of_objects_changes_no_visibility(mode: Mode) -> None:
    clip, order = make_clip(1), [4, 0, 5, 2, 1, 3]
    found = []
    for each in (clip, in_order(clip, order)):
        links = link(each)
        belief = decide(each, links, mode, SETTINGS)
        found.append(visible_scores(each, links, belief, SETTINGS))
    for name, score in found[0].items():
        np.testing.assert_allclose(score[:, order], found[1][name], atol=1e-4)


def test_where_there_is_no_candidate_the_scores_are_numbers() -> None:
    clip = without_candidates(make_clip())
    links = link(clip)
    belief = decide(clip, links, Mode.TRACK, SETTINGS)
    for score in visible_scores(clip, links, belief, SETTINGS).values():
        assert score[0, 0] == 0 and np.isfinite(score).all()


def test_decisions_of_before_are_read_and_say_the_same() -> None:
    old = Calibration("decision", threshold=2.5, scale=0.8, balanced_accuracy=0.9)
    parameters = {key: value for key, value in asdict(SETTINGS).items() if key != "layout"}
    modes = {"track": {"parameters": parameters, "calibration": asdict(old), "val_iou": 0.7}}
    content = {"direction": "ego2exo", "features": "efficientnet-lite0", "best_val_iou": 0.5}
    decision = Decision.from_dict({"version": 1, **content, "modes": modes}, "a file")
    log_odds = np.array([-50.0, 0.0, 2.5, 2.6, 9.0])
    scores = {"log_odds": log_odds, "similarity": np.full(5, 0.3)}
    found = decision.modes[Mode.TRACK].visibility
    assert found is not None
    assert found.confidence(scores) == pytest.approx(old.confidence({"decision": log_odds}))
    modes["track"]["calibration"] = None
    decision = Decision.from_dict({"version": 1, **content, "modes": modes}, "a file")
    assert decision.modes[Mode.TRACK].visibility is None


@pytest.mark.parametrize("past", [None, SETTINGS])
@pytest.mark.parametrize("visibility", [None, LogisticConfidence({"log_odds": 0.5}, -1.0, 0.9)])
def test_a_decision_is_read_as_it_was_written(
    visibility: LogisticConfidence | None, past: Parameters | None
) -> None:
    modes = {Mode.TRACK: Fitted(SETTINGS, visibility, 0.75, past)}
    decision = Decision("ego2exo", "efficientnet-lite0", 0.5, modes)
    assert Decision.from_dict(decision.to_dict(), "a file") == decision


@pytest.mark.parametrize("name", ["past_log_odds", "colour"])
def test_weights_of_what_a_decision_does_not_have_are_refused(name: str) -> None:
    modes = {Mode.TRACK: Fitted(SETTINGS, LogisticConfidence({name: 0.5}, -1.0, 0.9), 0.75)}
    content = Decision("ego2exo", "efficientnet-lite0", 0.5, modes).to_dict()
    with pytest.raises(DataError, match=f"weights of {name}, not of log_odds.*fit-decision"):
        Decision.from_dict(content, "a file")


@pytest.mark.parametrize("rising", [False, True])
@pytest.mark.parametrize("balanced", [False, True])
def test_no_other_logistic_weights_are_better(balanced: bool, rising: bool) -> None:
    """Of the loss as it is written down, near the weights found; the second input says nothing new
    and is so noisy that its own weight would be below 0."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(400, 2)) * [3.0, 0.1] + [1.0, 0.5]
    visible = inputs[:, 0] - 5 * inputs[:, 1] + rng.normal(size=400) * 3 > 0
    middle, spread = inputs.mean(0), inputs.std(0)

    def loss(weights: np.ndarray) -> float:
        total = 0.0
        for row, seen in zip(inputs, visible, strict=True):
            log_odds = weights[:2] @ ((row - middle) / spread) + weights[2]
            share = visible.mean() if seen else 1 - visible.mean()
            chance = 1 / (1 + np.exp(-log_odds if seen else log_odds))
            total -= np.log(chance) * (0.5 / share if balanced else 1.0) / 400
        return total + 0.01 / 2 * float(weights @ weights)

    found = fit_logistic(inputs, visible, balanced=balanced, rising=rising)
    assert (found[1] == 0) if rising else (found[1] < 0)
    best = np.array([*(found[:2] * spread), found[2] + found[:2] @ middle])
    least = loss(best)
    for place in range(3):
        for step in (-0.01, 0.01):
            moved = best.copy()
            moved[place] += step
            if not rising or moved[1] >= 0:
                assert loss(moved) > least
    if balanced:
        said = inputs @ found[:2] + found[2] > 0
        assert abs(said[visible].mean() - (~said[~visible]).mean()) < 0.1
