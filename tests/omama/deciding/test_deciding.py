"""Deciding among candidates: against a plain twin, and what each mode must not look at."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from reference import plain_decision

from egoexo_tools.arrays import Float32, Float64
from omama.deciding.candidates import TOP as CANDIDATES
from omama.deciding.candidates import gather
from omama.deciding.clips import Clip
from omama.deciding.decide import Mode, Parameters, decide
from omama.deciding.layout import layout_closeness
from omama.deciding.links import Links, link
from omama.matching.matchers import MatchScores
from omama.matching.samples import Bucket, Truth

FRAMES, OBJECTS, TOP, WIDTH = 5, 6, 4, 6
PER_PAIR = (
    "exists",
    "proposal",
    "similarity",
    "source",
    "embedding",
    "look",
    "boxes",
    "source_boxes",
)
SETTINGS = Parameters(temperature=0.2, absent_at=0.0, repulsion=1.5, votes=6.0, layout=2.0)


def unit(values: Float64) -> Float32:
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
    similarity = rng.uniform(-0.2, 0.9, shape) + np.array([0.8, 0, 0, 0])
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
        similarity=np.where(is_one, similarity, -np.inf).astype(np.float32),
        source=unit(rng.normal(size=(*shape[:2], WIDTH))) * exists[..., None],
        embedding=unit(rng.normal(size=(*shape, WIDTH))) * is_one[..., None],
        look=unit(rng.normal(size=(*shape, WIDTH))) * is_one[..., None],
        boxes=np.concatenate([corner, corner + rng.uniform(0.1, 0.3, (*shape, 2))], -1).astype(
            np.float32
        ),
        source_boxes=arranged_like(corner[:, :, 0], rng),
        overlap=overlap.astype(np.float32),
    )


def arranged_like(centres: Float64, rng: np.random.Generator) -> Float32:
    """Boxes in another view, roughly where one affine map takes these points."""
    there = centres @ np.array([[-0.7, 0.2], [0.1, 0.8]]) + [0.8, 0.1]
    return boxes_around(there + rng.normal(0, 0.02, there.shape))


def cut(clip: Clip, frames: int) -> Clip:
    """The first frames of a clip."""
    kept = clip.time < frames
    return replace(
        clip,
        row=clip.row[kept],
        time=clip.time[kept],
        item=clip.item[kept],
        **{name: getattr(clip, name)[:frames] for name in ("frame_idx", "overlap", *PER_PAIR)},
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


def links_by_loops(clip: Clip, links: Links) -> dict[tuple[int, int, int], Float32]:
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
        layout=SETTINGS.layout,
        places=(clip.source_boxes, clip.boxes),
    )
    for time, item in zip(*np.nonzero(clip.exists), strict=True):
        assert belief.mass[time, item] == pytest.approx(plain[time][item][:-1], abs=1e-5)
        assert belief.absent[time, item] == pytest.approx(plain[time][item][-1], abs=1e-5)
        own = clip.overlap[time].reshape(OBJECTS, TOP, OBJECTS, TOP)[item, :, item]
        assert belief.choice[time, item] == int((own @ plain[time][item][:-1]).argmax())
    for name in ("repulsion", "layout", *(() if mode is Mode.FRAME else ("votes",))):
        without = decide(clip, links, mode, replace(SETTINGS, **{name: 0.0})).mass
        assert np.abs(without - belief.mass).max() > 0.01, name


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
    clip, order = make_clip(), [2, 0, 5, 3, 1, 4]
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


def arranged(moved: int = 0) -> tuple[Float32, Float32]:
    """A frame whose objects all lie where one affine map takes them: each object's first candidate
    is there, the second one where object 0 is; object `moved` has them the other way round."""
    rng = np.random.default_rng(3)
    source = rng.uniform(0.1, 0.8, (6, 2))
    dest = source @ np.array([[-0.8, 0.2], [0.1, -0.7]]) + [0.9, 0.8]
    places = np.stack([dest, np.broadcast_to(dest[0], dest.shape)], axis=1)
    places[0, 1] = dest[3]
    if moved:
        places[moved] = places[moved, ::-1]
    return boxes_around(source)[None], boxes_around(places)[None]


def boxes_around(centres: Float64) -> Float32:
    return np.concatenate([centres - 0.02, centres + 0.02], axis=-1).astype(np.float32)


def test_the_others_say_where_an_object_is() -> None:
    mass = np.full((1, 6, 2), 0.45, np.float32)
    mass[0, 1:] = [0.9, 0.05]
    near = layout_closeness(*arranged(), mass)
    assert near[0, :, 0].min() > 0.94
    assert near[0, 0, 1] < 0.5, "object 0 is undecided, and the others know"


def test_an_object_is_no_witness_for_itself() -> None:
    mass = np.tile(np.float32([0.9, 0.05]), (1, 6, 1))
    source, boxes = arranged()
    far = int(np.linalg.norm(boxes[0, :, 0] - boxes[0, 0, 0], axis=1).argmax())
    sure = layout_closeness(*arranged(moved=far), mass)[0, far]
    assert sure[1] > 0.9 > 0.4 > sure[0], "it is sure of the wrong place"


def test_too_few_others_say_nothing() -> None:
    boxes = arranged()
    mass = np.tile(np.float32([0.9, 0.05]), (1, 6, 1))
    mass[0, 2:] = 0
    assert (layout_closeness(*boxes, mass) == 0).all()


def bucket_of(similarity: list[list[float]]) -> tuple[Bucket, MatchScores]:
    """One frame pair: a source mask, and the ground truth and three proposals as rows."""
    rng, rows = np.random.default_rng(0), len(similarity[0])
    blank = torch.zeros(1, 2, 3, 3)
    bucket = Bucket(
        pair=torch.tensor([7]),
        group=torch.tensor([0]),
        source_row=torch.tensor([0]),
        sources=torch.zeros(1, 1, 4),
        dests=torch.from_numpy(rng.normal(size=(1, rows, 4))).float(),
        source_tokens=blank,
        dest_tokens=blank,
        is_proposal=torch.tensor([[False, True, True, True]]),
        first_proposal=torch.tensor([1]),
        truth=Truth(ious=torch.tensor([[1.0, 0.2, 0.9, 0.1]]), visible=torch.tensor([True])),
        drawn=None,
    )
    return bucket, MatchScores(
        similarity=torch.tensor(similarity),
        confidence=torch.tensor([0.5]),
        source=torch.ones(1, 2),
        dests=torch.ones(1, rows, 2),
    )


def test_ground_truth_rows_are_no_candidates() -> None:
    """The first row is the true mask itself; the most similar by far, and not to be seen."""
    held = gather(*bucket_of([[0.99, 0.1, 0.3, 0.2]]))
    assert held.proposal[0].tolist() == [1, 2, 0] + [-1] * (CANDIDATES - 3)
    assert held.similarity[0, :3] == pytest.approx([0.3, 0.2, 0.1])
    assert np.isneginf(held.similarity[0, 3:]).all()
    assert held.truth[0, :4] == pytest.approx([0.9, 0.1, 0.2, 0.0])
    assert (held.look[0, 3:] == 0).all() and (held.embedding[0, 3:] == 0).all()
    other = gather(*bucket_of([[-0.99, 0.1, 0.3, 0.2]]))
    np.testing.assert_array_equal(other.similarity, held.similarity)
    np.testing.assert_array_equal(other.look, held.look)
