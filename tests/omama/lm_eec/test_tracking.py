"""Tracks with memory: one at a time against the plain twin, and many side by side."""

import pytest
import torch
from lm_eec_networks import random_track, small_network
from plain_lm_eec import plain_track

from egoexo_tools.errors import DataError
from omama.lm_eec.bank import DEFAULT, REFERENCE, TrackMemory
from omama.lm_eec.network import ABSENT_LOGIT
from omama.lm_eec.tracking import TrackStep, advance, encode_source, track_logits

TOLERANCE = {"rtol": 0, "atol": 2e-5}


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("empty", [pytest.param((), marks=pytest.mark.slow), (0, 3, 9, 10)])
@torch.no_grad()
def test_a_track_equals_the_plain_twin(reference, empty):
    track = random_track(13, empty=empty)
    expected = plain_track(small_network(), *track, reference=reference)
    frames, logits = track_logits(small_network(), *track, reference_behaviour=reference)
    assert frames == (list(expected) if reference else list(range(13)))
    for frame, frame_logits in zip(frames, logits, strict=True):
        if frame in expected:
            theirs = expected[frame].low_res_logits[0]
            torch.testing.assert_close(frame_logits, theirs, **TOLERANCE)
        else:
            assert (frame_logits == ABSENT_LOGIT).all()


@pytest.mark.slow
@pytest.mark.parametrize("rules", [REFERENCE, DEFAULT])
@torch.no_grad()
def test_tracks_side_by_side_equal_each_track_alone(rules):
    """Tracks with other gaps and lengths, so that their banks and pointers differ in number."""
    network = small_network()
    tracks = [
        random_track(12, seed=1),
        random_track(9, seed=2, empty=(2, 3)),
        random_track(12, seed=3),
    ]
    alone = [dict(zip(*track_logits(network, *t, rules is REFERENCE), strict=True)) for t in tracks]
    memories = [TrackMemory(len(masks)) for *_, masks in tracks]
    for frame in range(12):
        active = [n for n, (*_, masks) in enumerate(tracks) if masks[frame : frame + 1].any()]
        source, dest, masks = (
            torch.stack([tracks[n][part][frame] for n in active]) for part in range(3)
        )
        source_features, dest_features = network.encode_images(source), network.encode_images(dest)
        memory_and_view = encode_source(network, source_features, dest_features, masks)
        step = TrackStep([frame] * len(active), dest_features, *memory_and_view)
        decoded = advance(network, [memories[n] for n in active], step, rules)
        for n, logits in zip(active, decoded.low_res_logits, strict=True):
            torch.testing.assert_close(logits, alone[n][frame], **TOLERANCE)


@torch.no_grad()
def test_two_objects_share_the_features_of_their_pictures():
    """Different masks of the same pictures: two rows of one encoding."""
    network, (source, dest, masks) = small_network(), random_track(8, seed=4)
    flipped = masks.flip(1)
    alone = [track_logits(network, source, dest, m, False)[1] for m in (masks, flipped)]
    views = network.encode_images(source), network.encode_images(dest)
    memories = [TrackMemory(8), TrackMemory(8)]
    for frame in range(8):
        rows = torch.tensor([frame, frame])
        source_features, dest_features = (view.select(rows) for view in views)
        frame_masks = torch.stack([masks[frame], flipped[frame]])
        memory_and_view = encode_source(network, source_features, dest_features, frame_masks)
        step = TrackStep([frame, frame], dest_features, *memory_and_view)
        decoded = advance(network, memories, step, DEFAULT)
        for row in (0, 1):
            torch.testing.assert_close(decoded.low_res_logits[row], alone[row][frame], **TOLERANCE)


@torch.no_grad()
def test_the_released_code_stops_after_a_gap_of_six_frames():
    """Seven frames were run, the seventh with an empty bank: there is nothing to compress."""
    track = random_track(16, empty=range(6, 12))
    assert len(track_logits(small_network(), *track, False)[0]) == 16
    with pytest.raises(DataError, match="without --reference-behaviour"):
        track_logits(small_network(), *track, True)


@torch.no_grad()
def test_a_track_without_source_masks_is_absent():
    track = random_track(3, empty=range(3))
    frames, logits = track_logits(small_network(), *track, True)
    assert (frames, logits.shape) == ([], (0, 16, 16))
    frames, logits = track_logits(small_network(), *track, False)
    assert frames == [0, 1, 2] and (logits == ABSENT_LOGIT).all()
