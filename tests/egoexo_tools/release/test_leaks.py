"""What splits share, by name and by image."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from take_facts import take_facts

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


def test_shared_names_are_counted_by_kind() -> None:
    takes = [
        take_facts(0, objects=("Cup_0", "knife_0")),
        take_facts(1, capture="c1", participant="p1", objects=("plate_0",)),
        take_facts(2, participant=None, objects=("cup_1", "plate_2", "fork_0")),
        take_facts(3, capture="c1", participant="p3", objects=("bowl_0",)),
    ]
    split_of = {"t0": TRAIN, "t1": TRAIN, "t2": TEST, "t3": TEST}
    leaks = {leak.kind: leak for leak in find_leaks(takes, split_of)}
    counts = {kind: (leak.shared, leak.total, leak.takes) for kind, leak in leaks.items()}
    assert counts == {
        "take": (0, 2, 0),
        "capture": (2, 2, 2),
        "participant": (0, 1, 0),
        "object name": (2, 4, 1),
    }
    assert leaks["object name"].examples == ("cup", "plate")
    assert leaks["capture"].splits == (TRAIN, TEST)
    rows = [line.split() for line in leaks_text(list(leaks.values())).splitlines()]
    assert ["capture", "train", "&", "test", "2", "2", "2", "c0,", "c1"] in rows


def image(seed: int) -> np.ndarray:
    """A smooth image of random colours, (90, 160, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 8, 3), np.uint8)
    return np.asarray(cv2.resize(small, (160, 90), interpolation=cv2.INTER_LINEAR), np.uint8)


def test_near_identical_frames_are_reported_and_others_are_not() -> None:
    scene, other = image(1), image(2)
    similar = np.clip(scene * 0.9 + 8, 0, 255)  # another exposure, noise, an occluded part
    similar += np.random.default_rng(0).normal(0, 4, scene.shape)
    similar[40:60, 70:80] = 30
    images = [scene, other, np.clip(similar, 0, 255).astype(np.uint8), image(3)]
    names = [("t0", "cam01", 0), ("t0", "cam01", 30), ("t1", "gp01", 0), ("t1", "gp01", 30)]
    vectors = [thumbnail(rgb) for rgb in images]
    assert all(vector is not None for vector in vectors)
    thumbnails = Thumbnails(names, np.stack([v for v in vectors if v is not None]))
    takes = [take_facts(0, take_name="cmu_a_0"), take_facts(1)]
    leaks = find_leaks(takes, {"t0": TRAIN, "t1": VAL}, thumbnails)
    leak = next(leak for leak in leaks if leak.kind == "near-identical frame")
    assert (leak.shared, leak.total, leak.takes) == (1, 2, 1)
    assert leak.examples == ("cmu_a_1/gp01/0 like cmu_a_0/cam01/0",)


def test_a_frame_of_one_colour_has_no_thumbnail() -> None:
    assert thumbnail(np.zeros((90, 160, 3), np.uint8)) is None


def test_frames_of_videos_are_compared(tiny_release: Release) -> None:
    selection = select(tiny_release)
    thumbnails = video_thumbnails(tiny_release, selection.takes, per_camera=2)
    assert thumbnails is not None
    cameras = {(take.take_uid, camera) for take in selection.takes for camera in take.cameras}
    assert {name[:2] for name in thumbnails.frames} == cameras
    assert len(thumbnails.frames) == 2 * len(cameras) and thumbnails.missing == 0
    np.testing.assert_allclose(np.linalg.norm(thumbnails.vectors, axis=1), 1, atol=1e-5)
    # The frames of one take under two names, as of a copied take.
    first = selection.takes[0]
    copy = replace(first, take_uid="copy")
    rows = [row for row, name in enumerate(thumbnails.frames) if name[0] == first.take_uid]
    copied = Thumbnails(
        frames=[thumbnails.frames[row] for row in rows]
        + [("copy", *thumbnails.frames[row][1:]) for row in rows],
        vectors=np.concatenate([thumbnails.vectors[rows]] * 2),
    )
    leaks = find_leaks([first, copy], {first.take_uid: TRAIN, "copy": TEST}, copied)
    assert (leaks[-1].kind, leaks[-1].shared) == ("near-identical frame", len(rows))
    # The takes of the release are recorded in different rooms.
    leaks = find_leaks(selection.takes, selection.split_of, thumbnails)
    assert [leak.shared for leak in leaks if leak.kind == "near-identical frame"] == [0, 0, 0]


def test_without_videos_frames_are_not_compared() -> None:
    takes = [take_facts(0)]
    assert video_thumbnails(Release(Path("/nowhere")), takes) is None
    assert "Frames were not compared" in leaks_text([])
