"""Takes: their names and cameras, and annotations that match the rendered objects."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from synthetic_release import decode, tracks

from egoexo_tools.layout import Release
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.release.lzstring import decompress_from_encoded_uri_component
from egoexo_tools.synthetic import SyntheticOptions
from egoexo_tools.synthetic.cameras import HeadMotion
from egoexo_tools.synthetic.takes import annotate, draw_take, plan_takes
from egoexo_tools.vocab import View, view_of

CALM_SCENES = Path(__file__).parents[2] / "data" / "calm_scene.json"
"""Calm takes as they were drawn before lively ones existed."""


def test_scenarios_universities_and_camera_names_vary() -> None:
    plans = plan_takes(SyntheticOptions())
    assert len({plan.take_uid for plan in plans}) == len({plan.take_name for plan in plans}) == 34
    assert {plan.scenario for plan in plans} == {"Cooking", "Health", "Bike Repair", "Music"}
    assert len({plan.university_id for plan in plans}) > 2
    cameras = {camera for plan in plans for camera in plan.cameras}
    assert {"aria01_214-1", "aria02_214-1", "cam01", "cam02", "gp01"} <= cameras
    assert {len(plan.cameras) for plan in plans} == {2, 3}


def test_calm_takes_have_not_changed() -> None:
    options = SyntheticOptions(annotated_frames=6)
    plans = {f"{plan.split}.{plan.number}": plan for plan in plan_takes(options)}
    for key, expected in json.loads(CALM_SCENES.read_text()).items():
        scene, places, rng = draw_take(plans[key], options)
        assert plans[key].take_name == expected["take"]
        # The textures are drawn last, so any additional draw before them would change them.
        textures = scene.textures
        means = [part.mean() for part in (textures.solids, textures.table, textures.room)]
        assert means == pytest.approx(expected["textures"], abs=1e-4)
        for frame_idx, (count, centres) in expected["solids"].items():
            solids = scene.solids(int(frame_idx))
            assert len(solids) == count  # including hands in use
            np.testing.assert_allclose(solids["centre"], centres, atol=2e-5)
        for frame_idx, axis in expected["head"].items():
            assert isinstance(places[0], HeadMotion)
            forward = places[0].camera(int(frame_idx), 100, 100).rotation[2]
            np.testing.assert_allclose(forward, axis, atol=2e-5)
        assert rng.integers(2**31) == expected["next"], "the annotation would be drawn differently"


def test_frame_keys_are_unsorted_and_masks_have_the_size_of_the_video(
    tiny_release: Release,
) -> None:
    keys = [list(track["annotation"]) for *_, track in tracks(tiny_release)]
    assert any(row != sorted(row, key=int) for row in keys)
    for _, _, camera, track in tracks(tiny_release):
        assert track["annotation_fps"] == 1
        assert {int(key) for key in track["annotation"]} <= set(track["annotated_frames"])
        size = (140, 140) if view_of(camera) is View.EGO else (384, 216)
        assert all((m["width"], m["height"]) == size for m in track["annotation"].values())


def test_visible_absent_and_unannotated_frames_occur() -> None:
    rng = np.random.default_rng(0)
    ids = {"aria01_1": {}, "cam01": {}}
    for frame_idx in (0, 30, 60):
        frame = np.zeros((100, 100), np.uint8)
        frame[:20, :20] = 1
        frame[50, 50:61] = 2  # 11 pixels: too few to count as visible
        frame[60:70, 60:70] = 3 if frame_idx else 0
        ids["aria01_1"][frame_idx] = ids["cam01"][frame_idx] = frame
    result = annotate(["first", "small", "late"], ids, rng)["object_masks"]
    expected = {"first": {0, 30, 60}, "small": set(), "late": {30, 60}}
    for name, cameras in result.items():
        for track in cameras.values():
            visible = {int(key) for key in track["annotation"]}
            assert visible == expected[name] & set(track["annotated_frames"])
    many = annotate([str(n) for n in range(60)], ids, rng)["object_masks"]
    lengths = {len(track["annotated_frames"]) for cameras in many.values() for track in
               cameras.values()}  # fmt: skip
    assert lengths == {1, 2, 3}, "some tracks end early"
    assert {len(cameras) for cameras in many.values()} == {1, 2}, "some have no exo camera"


def test_objects_are_absent_in_both_views(tiny_release: Release) -> None:
    absent = {View.EGO: 0, View.EXO: 0}
    for _, _, camera, track in tracks(tiny_release):
        absent[view_of(camera)] += len(track["annotated_frames"]) - len(track["annotation"])
    assert absent[View.EGO] and absent[View.EXO], absent


def test_masks_match_the_pixels(tiny_release: Release) -> None:
    """The colour of the decoded frame changes at the outline of a mask."""
    contrasts = []
    for take_name, _, camera, track in tracks(tiny_release):
        frames = decode(tiny_release.video(take_name, camera))
        for key, entry in track["annotation"].items():
            mask = unpack(entry).astype(np.uint8)
            inside = cv2.erode(mask, np.ones((3, 3), np.uint8)) > 0
            around = (cv2.dilate(mask, np.ones((7, 7), np.uint8)) > 0) & (mask == 0)
            if inside.sum() < 60:
                continue
            rgb = frames[int(key)].astype(float)
            contrasts.append(np.abs(rgb[inside].mean(axis=0) - rgb[around].mean(axis=0)).max())
    assert len(contrasts) > 40
    assert np.median(contrasts) > 25


def unpack(entry: dict[str, Any]) -> np.ndarray:
    counts = decompress_from_encoded_uri_component(entry["encodedMask"])
    return MaskRle(entry["height"], entry["width"], counts).decode()
