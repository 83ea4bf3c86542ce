"""Clips of a root: their frames, masks and augmentation."""

import numpy as np
import pytest

from egoexo_tools.errors import DataError
from egoexo_tools.vocab import Direction, Split
from omama.lm_eec.training.clips import ClipSettings, draw_clip, load_clip_tracks
from omama.lm_eec.training.frame_store import run_squash


@pytest.mark.slow
@pytest.mark.parametrize("native", [False, True])
def test_a_clip_has_the_same_frames_in_both_views(squares_root, native):
    (clip,) = load_clip_tracks(squares_root, Direction.EGO2EXO, Split.TRAIN)
    cameras = [(clip.take.take_uid, camera) for camera in ("aria01_214-1", "cam01")]
    run_squash(squares_root, cameras, size=64).check()
    settings = ClipSettings(64, 0, True, native)
    clips = [
        draw_clip(squares_root, clip, settings, np.random.default_rng(seed)) for seed in (3, 3, 4)
    ]
    assert np.array_equal(clips[0].pictures, clips[1].pictures)
    assert not np.array_equal(clips[0].pictures, clips[2].pictures)
    for loaded in clips:
        assert loaded.pictures.shape == (2, 8, 64, 64, 3) and loaded.masks.shape == (2, 8, 64, 64)
        red = loaded.pictures[..., 0].astype(int) - loaded.pictures[..., 1] > 90
        assert (red == loaded.masks).mean() > 0.98
        assert loaded.masks[:, 0].any((1, 2)).all()


def test_tracks_that_are_too_short_are_rejected(tiny_root):
    with pytest.raises(DataError, match="no train track of ego2exo with 8 frames annotated"):
        load_clip_tracks(tiny_root, Direction.EGO2EXO, Split.TRAIN)
