"""Votes between frames, and the motion of a worn camera."""

import numpy as np
import pytest
from random_clips import TOP, make_clip

from omama.deciding.links import fit_affine, link_frames, move_boxes, mutually_nearest

AFFINE = np.array([[0.9, 0.1, 0.05], [-0.1, 1.1, -0.02]])


def test_a_vote_depends_on_appearance_and_place() -> None:
    clip = make_clip(frames=2)
    vote = link_frames(clip).vote[0, 0, 0]
    for n, m in np.ndindex(TOP, TOP):
        a, b = clip.boxes[0, 0, n], clip.boxes[1, 0, m]
        sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        intersection = float(np.prod(np.maximum(sides, 0)))
        union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - intersection
        cosine = float(clip.appearance[0, 0, n] @ clip.appearance[1, 0, m])
        expected = np.exp(3 * (cosine + intersection / union - 2))
        assert vote[n, m] == pytest.approx(expected, rel=1e-4)


def test_camera_motion_ignores_outliers() -> None:
    before = np.random.default_rng(0).uniform(0, 1, (20, 2))
    after = before @ AFFINE[:, :2].T + AFFINE[:, 2]
    after[:6] += 0.3
    affine = fit_affine(before, after)
    assert affine is not None
    np.testing.assert_allclose(affine, AFFINE, atol=1e-9)
    assert fit_affine(before[:5], after[:5]) is None, "too few points"
    box = np.array([0.2, 0.3, 0.4, 0.7], np.float32)
    corners = np.array([[x, y] for x in box[::2] for y in box[1::2]])
    mapped = corners @ AFFINE[:, :2].T + AFFINE[:, 2]
    expected = [*mapped.min(axis=0), *mapped.max(axis=0)]
    assert move_boxes(box, AFFINE) == pytest.approx(expected, abs=1e-6)


def test_mutually_nearest_pairs_are_each_others_best() -> None:
    similarity = np.array([[0.9, 0.8], [0.95, 0.3], [0.1, 0.4]], np.float32)
    rows, columns = mutually_nearest(similarity)
    assert (rows.tolist(), columns.tolist()) == ([1], [0])
    assert mutually_nearest(similarity[:0])[0].size == 0
