"""Tracks with memory: many at once against the plain twin, and the rules of a bank."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from lm_eec_networks import drawn_track, small_network  # noqa: E402

from egoexo_tools.errors import DataError  # noqa: E402
from omama.lm_eec.bank import DEFAULT, REFERENCE, TrackMemory, compress  # noqa: E402
from omama.lm_eec.network import ABSENT_LOGIT, ViewFusion  # noqa: E402
from omama.lm_eec.tracking import TrackStep, advance, encode_source, track_logits  # noqa: E402

sys.path.append(str(Path(__file__).parents[3] / "scripts"))
from plain_lm_eec import plain_compress, plain_fusion, plain_track, quick_compress  # noqa: E402

TOLERANCE = {"rtol": 0, "atol": 2e-5}


@pytest.mark.slow
@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("empty", [(), (0, 3, 9, 10)])
@torch.no_grad()
def test_a_track_is_what_the_plain_twin_says(reference, empty):
    track = drawn_track(13, empty=empty)
    expected = plain_track(small_network(), *track, reference=reference)
    ran, logits = track_logits(small_network(), *track, reference_behaviour=reference)
    assert ran == (list(expected) if reference else list(range(13)))
    for frame, drawn in zip(ran, logits, strict=True):
        if frame in expected:
            torch.testing.assert_close(drawn, expected[frame].low_res_logits[0], **TOLERANCE)
        else:
            assert (drawn == ABSENT_LOGIT).all()


@pytest.mark.slow
@pytest.mark.parametrize("rules", [REFERENCE, DEFAULT])
@torch.no_grad()
def test_tracks_side_by_side_are_what_each_is_alone(rules):
    """Of other gaps, lengths and ages, so that their banks and pointers are unequal at times."""
    network = small_network()
    tracks = [
        drawn_track(12, seed=1),
        drawn_track(9, seed=2, empty=(2, 3)),
        drawn_track(12, seed=3),
    ]
    alone = [dict(zip(*track_logits(network, *t, rules is REFERENCE), strict=True)) for t in tracks]
    memories = [TrackMemory(len(masks)) for *_, masks in tracks]
    for frame in range(12):
        now = [at for at, (*_, masks) in enumerate(tracks) if masks[frame : frame + 1].any()]
        source, dest, masks = (
            torch.stack([tracks[at][part][frame] for at in now]) for part in range(3)
        )
        views = network.encode_images(source), network.encode_images(dest)
        seen = encode_source(network, views[0], views[1], masks)
        step = TrackStep([frame] * len(now), views[1], *seen)
        answer = advance(network, [memories[at] for at in now], step, rules)
        for at, drawn in zip(now, answer.low_res_logits, strict=True):
            torch.testing.assert_close(drawn, alone[at][frame], **TOLERANCE)


@pytest.mark.slow
@torch.no_grad()
def test_a_track_of_two_objects_in_one_batch_shares_its_pictures():
    """Different masks of the same pictures: two rows of one encoding."""
    network, (source, dest, masks) = small_network(), drawn_track(8, seed=4)
    other = masks.flip(1)
    alone = [track_logits(network, source, dest, one, False)[1] for one in (masks, other)]
    views = network.encode_images(source), network.encode_images(dest)
    memories = [TrackMemory(8), TrackMemory(8)]
    for frame in range(8):
        rows = torch.tensor([frame, frame])
        both = [view.select(rows) for view in views]
        seen = encode_source(network, both[0], both[1], torch.stack([masks[frame], other[frame]]))
        answer = advance(network, memories, TrackStep([frame, frame], both[1], *seen), DEFAULT)
        for row in (0, 1):
            torch.testing.assert_close(answer.low_res_logits[row], alone[row][frame], **TOLERANCE)


@torch.no_grad()
def test_after_a_gap_of_six_the_released_code_stops():
    """Seven frames run, the seventh with an empty bank: there is nothing to compress."""
    track = drawn_track(16, empty=range(6, 12))
    assert len(track_logits(small_network(), *track, False)[0]) == 16
    with pytest.raises(DataError, match="without --reference-behaviour"):
        track_logits(small_network(), *track, True)


@torch.no_grad()
def test_a_track_without_any_source_mask():
    track = drawn_track(3, empty=range(3))
    ran, logits = track_logits(small_network(), *track, True)
    assert (ran, logits.shape) == ([], (0, 16, 16))
    ran, logits = track_logits(small_network(), *track, False)
    assert ran == [0, 1, 2] and (logits == ABSENT_LOGIT).all()


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 8), st.integers(1, 5), st.integers(1, 3), st.integers(1, 4)),
    seed=st.integers(0, 1000),
    levels=st.sampled_from([2, 1000]),
)
def test_compression_is_what_the_plain_twin_says(shape, seed, levels):
    """Also with ties: two levels make many equal distances, of which the first counts."""
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randint(levels, shape, generator=generator).float()
    columns = [plain_compress(list(bank[:, :, track])) for track in range(shape[2])]
    expected = torch.stack([torch.stack(column) for column in columns], 2)
    assert torch.equal(compress(bank), expected)
    quick = [quick_compress(list(bank[:, :, track])) for track in range(shape[2])]
    assert torch.equal(torch.stack([torch.stack(column) for column in quick], 2), expected)


def test_compression_needs_two():
    with pytest.raises(ValueError, match="no two neighbours"):
        compress(torch.zeros(1, 2, 1, 4))


@torch.no_grad()
def test_fusion_is_what_the_plain_twin_says():
    torch.manual_seed(0)
    fusion = ViewFusion(8)
    memory, view = torch.randn(2, 3, 8, 4, 5)
    torch.testing.assert_close(fusion(memory, view), plain_fusion(fusion, memory, view))
    assert sorted(fusion.state_dict()) == [
        "conv1.0.weight", "conv1.2.weight", "conv2.0.weight", "conv2.2.weight",
        "mlp1.0.bias", "mlp1.0.weight", "mlp1.2.bias", "mlp1.2.weight",
        "mlp2.0.bias", "mlp2.0.weight", "mlp2.2.bias", "mlp2.2.weight",
    ]  # fmt: skip
