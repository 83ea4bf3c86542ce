"""Tracking of a take, against the plain twin."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lm_eec_networks import small_network
from plain_lm_eec import plain_track

from egoexo_tools.vocab import Direction, Split
from omama.features.images import normalise
from omama.lm_eec.bank import DEFAULT, REFERENCE
from omama.lm_eec.pictures import read_squashed, squash_mask
from omama.lm_eec.take_tracking import TrackingSettings, track_objects
from omama.lm_eec.tracks import load_tracks

SETTINGS = TrackingSettings(DEFAULT, torch.device("cpu"), False, 32)


@pytest.mark.slow
@pytest.mark.parametrize(("rules", "batch"), [(DEFAULT, 32), (DEFAULT, 2), (REFERENCE, 32)])
def test_a_take_equals_the_plain_twin_and_encodes_each_picture_once(
    tiny_root, encoded_pictures, rules, batch
):
    """Two objects, three cameras, both directions."""
    (take, *_) = load_tracks(tiny_root, Split.TRAIN, tuple(Direction))
    assert len(take.tracks) == 6
    logits = {}
    settings = replace(SETTINGS, rules=rules, batch=batch)
    for tracked in track_objects(small_network(), take, settings):
        for row, key in enumerate(zip(tracked.tracks, tracked.places, strict=True)):
            logits[key] = tracked.low_res_logits[row]
    assert sum(encoded_pictures) == len({f for t in take.tracks for f in t.source_frames} | {
        f for t in take.tracks for f in t.dest_frames
    }) == 12  # fmt: skip
    expected = {}
    for number, track in enumerate(take.tracks):
        plain = plain_track(small_network(), *inputs(take, track), reference=rules is REFERENCE)
        expected |= {(number, place): frame.low_res_logits[0] for place, frame in plain.items()}
    assert logits.keys() == expected.keys()
    for key, values in logits.items():
        torch.testing.assert_close(values, expected[key], rtol=0, atol=2e-5)


def inputs(take, track):
    """Pictures of both views and source masks, as tensors."""
    pictures = [
        normalise(
            torch.from_numpy(np.stack([read_squashed(take.frames.path(f), 64) for f in frames]))
        )
        for frames in (track.source_frames, track.dest_frames)
    ]
    masks = [
        squash_mask(take.frames.masks.rle(row), 64) if row >= 0 else np.zeros((64, 64), np.bool_)
        for row in track.source_masks
    ]
    with torch.no_grad():
        return *pictures, torch.from_numpy(np.stack(masks)).float()
