"""What splits share, by name and by picture."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_splits import take

from egoexo_tools.layout import Release
from egoexo_tools.release.leaks import (
    Thumbnails,
    find_leaks,
    leaks_text,
    thumbnail,
    video_thumbnails,
)
from egoexo_tools.release.select import select
from egoexo_tools.vocab import Split

TRAIN, VAL, TEST = Split


def test_names_that_splits_share() -> None:
    takes = [
        take(0, objects=("Cup_0", "knife_0")),
        take(1, capture="c1", participant="p1", objects=("plate_0",)),
        take(2, participant=None, objects=("cup_1", "plate_2", "fork_0")),
        take(3, capture="c1", participant="p3", objects=("bowl_0",)),
    ]
    split_of = {"t0": TRAIN, "t1": TRAIN, "t2": TEST, "t3": TEST}
    found = {leak.kind: leak for leak in find_leaks(takes, split_of)}
    shown = {kind: (leak.shared, leak.total, leak.takes) for kind, leak in found.items()}
    assert shown == {
        "take": (0, 2, 0),
        "capture": (2, 2, 2),
        "participant": (0, 1, 0),
        "object name": (2, 4, 1),
    }
    assert found["object name"].examples == ("cup", "plate")
    assert found["capture"].splits == (TRAIN, TEST)
    rows = [line.split() for line in leaks_text(list(found.values())).splitlines()]
    assert ["capture", "train", "&", "test", "2", "2", "2", "c0,", "c1"] in rows


def picture(seed: int) -> np.ndarray:
    """A smooth picture of random colours, (90, 160, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 8, 3), np.uint8)
    return np.asarray(cv2.resize(small, (160, 90), interpolation=cv2.INTER_LINEAR), np.uint8)


def test_near_identical_frames_are_found_and_others_are_not() -> None:
    scene, other = picture(1), picture(2)
    again = np.clip(scene * 0.9 + 8, 0, 255)  # another exposure, some noise, somebody in it
    again += np.random.default_rng(0).normal(0, 4, scene.shape)
    again[40:60, 70:80] = 30
    pictures = [scene, other, np.clip(again, 0, 255).astype(np.uint8), picture(3)]
    names = [("t0", "cam01", 0), ("t0", "cam01", 30), ("t1", "gp01", 0), ("t1", "gp01", 30)]
    vectors = [thumbnail(one) for one in pictures]
    assert all(vector is not None for vector in vectors)
    thumbnails = Thumbnails(names, np.stack([v for v in vectors if v is not None]))
    takes = [take(0, take_name="cmu_a_0"), take(1)]
    leaks = find_leaks(takes, {"t0": TRAIN, "t1": VAL}, thumbnails)
    leak = next(leak for leak in leaks if leak.kind == "near-identical frame")
    assert (leak.shared, leak.total, leak.takes) == (1, 2, 1)
    assert leak.examples == ("cmu_a_1/gp01/0 like cmu_a_0/cam01/0",)


def test_a_black_frame_is_like_no_other() -> None:
    assert thumbnail(np.zeros((90, 160, 3), np.uint8)) is None


@pytest.mark.slow
def test_frames_of_videos(tiny_release: Release) -> None:
    selection = select(tiny_release)
    found = video_thumbnails(tiny_release, selection.takes, per_camera=2)
    assert found is not None
    cameras = {(take.take_uid, camera) for take in selection.takes for camera in take.cameras}
    assert {name[:2] for name in found.frames} == cameras
    assert len(found.frames) == 2 * len(cameras) and found.missing == 0
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    # One take's frames handed out under two names, as a copied take would be.
    first = selection.takes[0]
    copy = replace(first, take_uid="copy")
    own = [place for place, name in enumerate(found.frames) if name[0] == first.take_uid]
    twice = Thumbnails(
        frames=[found.frames[i] for i in own] + [("copy", *found.frames[i][1:]) for i in own],
        vectors=np.concatenate([found.vectors[own]] * 2),
    )
    leaks = find_leaks([first, copy], {first.take_uid: TRAIN, "copy": TEST}, twice)
    assert (leaks[-1].kind, leaks[-1].shared) == ("near-identical frame", len(own))
    # The takes of the release are of different rooms.
    leaks = find_leaks(selection.takes, selection.split_of, found)
    assert [leak.shared for leak in leaks if leak.kind == "near-identical frame"] == [0, 0, 0]


def test_without_videos_nothing_is_compared() -> None:
    takes = [take(0)]
    assert video_thumbnails(Release(Path("/nowhere")), takes) is None
    assert "Frames were not compared" in leaks_text([])
