"""The decision against a plain twin, and what each mode must not depend on."""

from dataclasses import replace

import numpy as np
import pytest
from random_clips import (
    FRAMES,
    OBJECTS,
    PARAMETERS,
    TOP,
    boxes_around,
    first_frames,
    in_order,
    make_clip,
)
from reference import plain_decision

from egoexo_tools.arrays import Float32
from omama.confidence import Scores
from omama.deciding.clips import Clip
from omama.deciding.decide import Mode, decide, layout_closeness, visibility_scores
from omama.deciding.links import Links, link_frames

FITTED_MODES = [Mode.FRAME, Mode.TRACK, Mode.TRACK_CAUSAL]


def links_by_loops(clip: Clip, links: Links) -> dict[tuple[int, int, int], Float32]:
    votes = {}
    for step in range(len(links.vote)):
        for time, item in zip(*np.nonzero(links.linked[step]), strict=True):
            vote, later = links.vote[step, time, item], time + step + 1
            votes[time, later, item] = vote
            votes[later, time, item] = vote.T
    return votes


@pytest.mark.parametrize("mode", FITTED_MODES)
@pytest.mark.parametrize("seed", [0, 1])
def test_matrices_equal_loops(mode: Mode, seed: int) -> None:
    clip = make_clip(seed)
    links = link_frames(clip)
    belief = decide(clip, links, mode, PARAMETERS)
    plain = plain_decision(
        clip.similarity,
        clip.overlap.reshape(FRAMES, OBJECTS, TOP, OBJECTS, TOP),
        {} if mode is Mode.FRAME else links_by_loops(clip, links),
        temperature=PARAMETERS.temperature,
        absent_at=PARAMETERS.absent_at,
        repulsion=PARAMETERS.repulsion,
        votes=PARAMETERS.votes,
        past_only=mode is Mode.TRACK_CAUSAL,
        layout=PARAMETERS.layout,
        places=(clip.source_boxes, clip.boxes),
    )
    for time, item in zip(*np.nonzero(clip.exists), strict=True):
        assert belief.mass[time, item] == pytest.approx(plain[time][item][:-1], abs=1e-5)
        assert belief.absent[time, item] == pytest.approx(plain[time][item][-1], abs=1e-5)
        overlap = clip.overlap[time].reshape(OBJECTS, TOP, OBJECTS, TOP)[item, :, item]
        assert belief.choice[time, item] == int((overlap @ plain[time][item][:-1]).argmax())
    for name in ("repulsion", "layout", *(() if mode is Mode.FRAME else ("votes",))):
        without = decide(clip, links, mode, replace(PARAMETERS, **{name: 0.0})).mass
        assert np.abs(without - belief.mass).max() > 0.01, f"{name} has no effect"


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_causal_decisions_do_not_depend_on_later_frames(memory: float) -> None:
    clip, parameters = make_clip(), replace(PARAMETERS, memory=memory)
    whole = decide(clip, link_frames(clip), Mode.TRACK_CAUSAL, parameters)
    for frames in range(1, FRAMES):
        past = first_frames(clip, frames)
        belief = decide(past, link_frames(past), Mode.TRACK_CAUSAL, parameters)
        np.testing.assert_allclose(belief.mass, whole.mass[:frames], atol=1e-6)
        np.testing.assert_array_equal(belief.choice, whole.choice[:frames])
    # The mode that uses later frames differs, or this would prove nothing.
    ahead = decide(clip, link_frames(clip), Mode.TRACK, parameters).mass[:2]
    past = first_frames(clip, 2)
    short = decide(past, link_frames(past), Mode.TRACK, parameters).mass
    assert np.abs(ahead - short).max() > 1e-3


@pytest.mark.parametrize("mode", [Mode.TRACK, Mode.TRACK_CAUSAL])
def test_tracks_of_one_frame_are_decided_as_by_frame(mode: Mode) -> None:
    clip = make_clip(frames=1)
    parameters = replace(PARAMETERS, memory=0.0)
    track = decide(clip, link_frames(clip), mode, parameters)
    frame = decide(clip, link_frames(clip), Mode.FRAME, parameters)
    np.testing.assert_allclose(track.mass, frame.mass, atol=1e-6)
    np.testing.assert_array_equal(track.choice, frame.choice)


@pytest.mark.parametrize("mode", FITTED_MODES)
def test_the_order_of_objects_changes_nothing(mode: Mode) -> None:
    clip, order = make_clip(), [2, 0, 5, 3, 1, 4]
    reordered = in_order(clip, order)
    parameters = replace(PARAMETERS, memory=0.5)
    beliefs, scores = [], []
    for each in (clip, reordered):
        links = link_frames(each)
        beliefs.append(decide(each, links, mode, parameters))
        scores.append(visibility_scores(each, links, beliefs[-1], PARAMETERS))
    np.testing.assert_allclose(beliefs[1].mass, beliefs[0].mass[:, order], atol=1e-5)
    np.testing.assert_array_equal(beliefs[1].choice, beliefs[0].choice[:, order])
    for name, values in scores[0].items():
        np.testing.assert_allclose(values[:, order], scores[1][name], atol=1e-4)


@pytest.mark.parametrize("mode", FITTED_MODES)
def test_padding_gets_no_probability(mode: Mode) -> None:
    clip = make_clip()
    belief = decide(clip, link_frames(clip), mode, replace(PARAMETERS, memory=0.5))
    assert (belief.mass[clip.proposal < 0] == 0).all()
    assert belief.choice[1, 2] == -1
    assert belief.absent[1, 2] == pytest.approx(1)
    assert (belief.choice[clip.exists] >= 0).all()


def arranged(swapped: int = 0) -> tuple[Float32, Float32]:
    """A frame whose objects all are where one affine map predicts them: each object's first
    candidate is there, the second one where object 0 is; object `swapped` has them exchanged."""
    rng = np.random.default_rng(3)
    source = rng.uniform(0.1, 0.8, (6, 2))
    dest = source @ np.array([[-0.8, 0.2], [0.1, -0.7]]) + [0.9, 0.8]
    places = np.stack([dest, np.broadcast_to(dest[0], dest.shape)], axis=1)
    places[0, 1] = dest[3]
    if swapped:
        places[swapped] = places[swapped, ::-1]
    return boxes_around(source)[None], boxes_around(places)[None]


def test_other_objects_predict_the_place_of_an_object() -> None:
    mass = np.full((1, 6, 2), 0.45, np.float32)
    mass[0, 1:] = [0.9, 0.05]
    closeness = layout_closeness(*arranged(), mass)
    assert closeness[0, :, 0].min() > 0.94
    assert closeness[0, 0, 1] < 0.5, "object 0 is uncertain, and the others predict its place"


def test_an_object_does_not_confirm_itself() -> None:
    mass = np.tile(np.float32([0.9, 0.05]), (1, 6, 1))
    _, boxes = arranged()
    farthest = int(np.linalg.norm(boxes[0, :, 0] - boxes[0, 0, 0], axis=1).argmax())
    closeness = layout_closeness(*arranged(swapped=farthest), mass)[0, farthest]
    assert closeness[1] > 0.9 > 0.4 > closeness[0], "the object itself is certain of a wrong place"


def test_one_other_object_predicts_no_place() -> None:
    mass = np.tile(np.float32([0.9, 0.05]), (1, 6, 1))
    mass[0, 2:] = 0
    assert (layout_closeness(*arranged(), mass) == 0).all()


def test_visibility_scores_equal_loops() -> None:
    clip = make_clip()
    links = link_frames(clip)
    belief = decide(clip, links, Mode.TRACK, PARAMETERS)
    past = decide(clip, links, Mode.TRACK_CAUSAL, PARAMETERS)
    scores = visibility_scores(clip, links, belief, PARAMETERS)
    for time, item in zip(*np.nonzero(clip.exists), strict=True):
        choice = int(belief.choice[time, item])
        absent = 1 - belief.mass[time, item].astype(np.float64).sum()
        assert scores["log_odds"][time, item] == pytest.approx(np.log(1 / absent - 1), rel=1e-3)
        assert scores["similarity"][time, item] == clip.similarity[time, item, choice]
        overlap = sum(
            clip.overlap[time, item * TOP + choice, other * TOP + candidate]
            * belief.mass[time, other, candidate]
            for other in range(OBJECTS)
            for candidate in range(TOP)
            if other != item
        )
        assert scores["alone"][time, item] == pytest.approx(-overlap, abs=1e-5)
        assert scores["past_log_odds"][time, item] == past.visible_logit[time, item]


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_causal_visibility_does_not_depend_on_later_frames(memory: float) -> None:
    parameters = replace(PARAMETERS, memory=memory)
    clip = make_clip(frames=8, camera_moves=True)

    def score(clip: Clip) -> Scores:
        links = link_frames(clip)
        belief = decide(clip, links, Mode.TRACK_CAUSAL, parameters)
        return visibility_scores(clip, links, belief, None)

    whole = score(clip)
    for frames in range(1, 8):
        for name, values in score(first_frames(clip, frames)).items():
            np.testing.assert_allclose(values, whole[name][:frames], atol=1e-4)


def test_visibility_scores_without_candidates_are_zero() -> None:
    clip = make_clip()
    clip.proposal[0, 0], clip.similarity[0, 0] = -1, -np.inf
    links = link_frames(clip)
    belief = decide(clip, links, Mode.TRACK, PARAMETERS)
    for values in visibility_scores(clip, links, belief, PARAMETERS).values():
        assert values[0, 0] == 0 and np.isfinite(values).all()
