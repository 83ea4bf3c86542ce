"""Deciding among candidates: against a plain twin, and what each mode must not look at."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from reference import plain_decision

from omama.deciding.clips import Clip
from omama.deciding.decide import Mode, Parameters, decide
from omama.deciding.links import Links, link

FRAMES, OBJECTS, TOP, WIDTH = 5, 3, 4, 6
PER_PAIR = ("exists", "proposal", "similarity", "source", "embedding", "look", "boxes")
SETTINGS = Parameters(temperature=0.2, absent_at=0.3, repulsion=1.5, votes=6.0)


def unit(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def make_clip(seed: int = 0, *, frames: int = FRAMES, moves: bool = False) -> Clip:
    """Random looks and boxes; one candidate of one pair is missing, and one pair."""
    rng = np.random.default_rng(seed)
    shape = (frames, OBJECTS, TOP)
    proposal = np.tile(np.arange(TOP), (frames, OBJECTS, 1))
    proposal[:, 1, 3] = -1
    exists = np.ones(shape[:2], np.bool_)
    if frames > 1:
        exists[1, 2], proposal[1, 2] = False, -1
    is_one = proposal >= 0
    corner = rng.uniform(0, 0.7, (*shape, 2))
    shared = rng.uniform(0, 1, (frames, OBJECTS * TOP, OBJECTS * TOP))
    both = is_one.reshape(frames, -1, 1) & is_one.reshape(frames, 1, -1)
    overlap = np.maximum(shared, shared.swapaxes(1, 2)) * both
    diagonal = np.arange(OBJECTS * TOP)
    overlap[:, diagonal, diagonal] = is_one.reshape(frames, -1)
    time, item = np.nonzero(exists)
    return Clip(
        row=np.arange(time.size),
        time=time,
        item=item,
        frame_idx=30 * np.arange(frames),
        moves=moves,
        exists=exists,
        proposal=proposal,
        similarity=np.where(is_one, rng.uniform(-0.2, 0.9, shape), -np.inf).astype(np.float32),
        source=unit(rng.normal(size=(*shape[:2], WIDTH))) * exists[..., None],
        embedding=unit(rng.normal(size=(*shape, WIDTH))) * is_one[..., None],
        look=unit(rng.normal(size=(*shape, WIDTH))) * is_one[..., None],
        boxes=np.concatenate([corner, corner + rng.uniform(0.1, 0.3, (*shape, 2))], -1).astype(
            np.float32
        ),
        overlap=overlap.astype(np.float32),
    )


def cut(clip: Clip, frames: int) -> Clip:
    """The first frames of a clip."""
    kept = clip.time < frames
    return replace(
        clip,
        row=clip.row[kept],
        time=clip.time[kept],
        item=clip.item[kept],
        **{
            name: getattr(clip, name)[:frames]
            for name in [
                "frame_idx",
                "exists",
                "proposal",
                "similarity",
                "source",
                "embedding",
                "look",
                "boxes",
                "overlap",
            ]
        },
    )


def in_order(clip: Clip, order: list[int]) -> Clip:
    """The same clip with its objects in another order."""
    columns = (np.array(order)[:, None] * TOP + np.arange(TOP)).reshape(-1)
    return replace(
        clip,
        item=np.argsort(order)[clip.item],
        overlap=clip.overlap[:, columns][:, :, columns],
        **{name: getattr(clip, name)[:, order] for name in PER_PAIR},
    )


def links_by_loops(clip: Clip, links: Links) -> dict[tuple[int, int, int], NDArray[np.float32]]:
    found = {}
    for step in range(len(links.vote)):
        for time, item in zip(*np.nonzero(links.linked[step]), strict=True):
            vote, later = links.vote[step, time, item], time + step + 1
            found[time, later, item] = vote
            found[later, time, item] = vote.T
    return found


@pytest.mark.parametrize("mode", [Mode.FRAME, Mode.TRACK, Mode.TRACK_CAUSAL])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_matrices_say_what_the_loops_say(mode: Mode, seed: int) -> None:
    clip = make_clip(seed)
    links = link(clip)
    belief = decide(clip, links, mode, SETTINGS)
    plain = plain_decision(
        clip.similarity,
        clip.overlap.reshape(FRAMES, OBJECTS, TOP, OBJECTS, TOP),
        {} if mode is Mode.FRAME else links_by_loops(clip, links),
        temperature=SETTINGS.temperature,
        absent_at=SETTINGS.absent_at,
        repulsion=SETTINGS.repulsion,
        votes=SETTINGS.votes,
        past_only=mode is Mode.TRACK_CAUSAL,
    )
    for time, item in zip(*np.nonzero(clip.exists), strict=True):
        assert belief.mass[time, item] == pytest.approx(plain[time][item][:-1], abs=1e-5)
        assert belief.absent[time, item] == pytest.approx(plain[time][item][-1], abs=1e-5)
        own = clip.overlap[time].reshape(OBJECTS, TOP, OBJECTS, TOP)[item, :, item]
        assert belief.choice[time, item] == int((own @ plain[time][item][:-1]).argmax())


def test_a_vote_weighs_look_and_place() -> None:
    clip = make_clip(frames=2)
    found = link(clip).vote[0, 0, 0]
    for n, m in np.ndindex(TOP, TOP):
        a, b = clip.boxes[0, 0, n], clip.boxes[1, 0, m]
        sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        both = float(np.prod(np.maximum(sides, 0)))
        either = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both
        cosine = float(clip.look[0, 0, n] @ clip.look[1, 0, m])
        assert found[n, m] == pytest.approx(np.exp(3 * (cosine + both / either - 2)), rel=1e-4)


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_the_past_does_not_change_when_the_future_is_cut_off(memory: float) -> None:
    clip, settings = make_clip(), replace(SETTINGS, memory=memory)
    whole = decide(clip, link(clip), Mode.TRACK_CAUSAL, settings)
    for frames in range(1, FRAMES):
        past = cut(clip, frames)
        belief = decide(past, link(past), Mode.TRACK_CAUSAL, settings)
        np.testing.assert_allclose(belief.mass, whole.mass[:frames], atol=1e-6)
        np.testing.assert_array_equal(belief.choice, whole.choice[:frames])
    # Unlike the mode that looks ahead, or this would prove nothing.
    ahead = decide(clip, link(clip), Mode.TRACK, settings).mass[:2]
    short = decide(cut(clip, 2), link(cut(clip, 2)), Mode.TRACK, settings).mass
    assert np.abs(ahead - short).max() > 1e-3


@pytest.mark.parametrize("mode", [Mode.TRACK, Mode.TRACK_CAUSAL])
def test_one_frame_alone_gives_what_frame_gives(mode: Mode) -> None:
    clip = make_clip(frames=1)
    settings = replace(SETTINGS, memory=0.0)
    alone = decide(clip, link(clip), mode, settings)
    frame = decide(clip, link(clip), Mode.FRAME, settings)
    np.testing.assert_allclose(alone.mass, frame.mass, atol=1e-6)
    np.testing.assert_array_equal(alone.choice, frame.choice)


@pytest.mark.parametrize("mode", [Mode.FRAME, Mode.TRACK, Mode.TRACK_CAUSAL])
def test_the_order_of_objects_changes_nothing(mode: Mode) -> None:
    clip, order = make_clip(), [2, 0, 1]
    settings = replace(SETTINGS, memory=0.5)
    before = decide(clip, link(clip), mode, settings)
    after = decide(in_order(clip, order), link(in_order(clip, order)), mode, settings)
    np.testing.assert_allclose(after.mass, before.mass[:, order], atol=1e-5)
    np.testing.assert_array_equal(after.choice, before.choice[:, order])


@pytest.mark.parametrize("mode", [Mode.FRAME, Mode.TRACK, Mode.TRACK_CAUSAL])
def test_what_is_missing_gets_no_mass(mode: Mode) -> None:
    clip = make_clip()
    belief = decide(clip, link(clip), mode, replace(SETTINGS, memory=0.5))
    assert (belief.mass[clip.proposal < 0] == 0).all()
    assert belief.choice[1, 2] == -1
    assert belief.absent[1, 2] == pytest.approx(1)
    assert (belief.choice[clip.exists] >= 0).all()
