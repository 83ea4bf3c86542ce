"""The checks of one take: which rows it gets, and what is excluded for which reason."""

import re
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_release import EGO, EXO, annotated, block, packed, plain_take, shipped, track

from egoexo_tools.manifests import to_table
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.release.annotations import CameraLimits, CheckedTake, check_take
from egoexo_tools.release.take_relations import TakeRelations

SECOND_EGO = "aria02_214-1"
CAMERAS = frozenset({EGO, SECOND_EGO, EXO, "cam02"})


def check(take: Any, **options: Any) -> CheckedTake:
    relations = msgspec.convert(take, TakeRelations)
    return check_take(relations, **{"cameras": CAMERAS, **options})


def with_mask(mask: Any, *, frame: str = "30") -> CheckedTake:
    """Check a take whose one exo mask at `frame` is replaced."""
    take = plain_take()
    take["object_masks"]["cup_0"][EXO]["annotation"][frame] = mask
    return check(take)


def keys(checked: CheckedTake) -> list[tuple[str, str, int, bool]]:
    columns = ["object_name", "camera", "frame_idx", "visible"]
    return [tuple(row[name] for name in columns) for row in checked.masks.to_pylist()]


def test_a_frame_is_visible_or_absent_or_has_no_row() -> None:
    checked = check(plain_take())
    assert keys(checked) == [
        ("cup_0", EGO, 0, True),
        ("cup_0", EGO, 30, True),
        ("cup_0", EGO, 60, False),
        ("cup_0", EXO, 0, True),
        ("cup_0", EXO, 30, True),
    ]
    assert checked.exclusions == []
    assert (checked.ego_camera, checked.exo_cameras) == (EGO, [EXO])
    assert checked.frame_idxs == [0, 30, 60]
    absent = checked.masks.to_pylist()[2]
    mask_columns = ["rle_height", "rle_width", "rle_counts", "area", "bbox_xywh"]
    assert [absent[name] for name in mask_columns] == [None] * 5


def test_masks_have_their_area_box_and_view() -> None:
    rows = to_table("masks", check(plain_take()).masks).to_pylist()
    for row in rows:
        if row["visible"]:
            rle = MaskRle(row["rle_height"], row["rle_width"], row["rle_counts"])
            assert rle == block(row["camera"], row["frame_idx"])
            assert row["area"] == rle.area() == 4 * 5
            assert row["bbox_xywh"] == [2, 1, 4, 3]
            assert row["view"] == ("ego" if row["camera"] == EGO else "exo")


def test_rows_keep_the_order_of_the_file_with_frames_ascending() -> None:
    tracks = {EXO: track(EXO, visible=[300, 60, 90], absent=[0, 120]), EGO: track(EGO)}
    checked = check(annotated({"z": tracks, "a": {EGO: track(EGO), EXO: track(EXO)}}))
    assert [key[:3] for key in keys(checked)][:6] == [
        *(("z", EXO, idx) for idx in (0, 60, 90, 120, 300)),
        ("z", EGO, 0),
    ]


@pytest.mark.parametrize(
    "mask, reason",
    [
        ({"width": 16, "height": 9, "encodedMask": "!!"}, "undecodable mask: .*outside A-Z"),
        ({"width": 16, "height": 9, "encodedMask": ""}, "undecodable mask: it is empty"),
        ({"width": 16, "height": 9, "encodedMask": None}, "undecodable mask"),
        ({"width": 16, "height": 9}, "undecodable mask"),
        ({}, "undecodable mask"),
        ({"width": 16, "height": 9, "encodedMask": packed("é")}, "undecodable mask: .*ASCII"),
        ({"width": 16, "height": 9, "encodedMask": packed("{}")}, "undecodable mask: .*COCO"),
        ({"width": 16, "height": 9, "encodedMask": packed("6N")}, "undecodable mask: .*negative"),
        ({"width": 16, "height": 9, "encodedMask": packed("5")}, "wrong size: .*add up"),
        ({**shipped(block(EXO)), "width": 15}, "wrong size: .*add up"),
        ({**shipped(block(EXO)), "width": 9, "height": 16}, "wrong size: the mask is 9x16, most"),
        ({**shipped(block(EXO)), "width": "1six"}, "wrong size: .*no valid width"),
        ({**shipped(block(EXO)), "width": 2**40}, "wrong size: .*no valid width"),
        (shipped(MaskRle.encode(np.zeros((9, 16)))), "empty mask"),
    ],
)
def test_a_bad_mask_is_an_exclusion_and_neither_visible_nor_absent(mask: Any, reason: str) -> None:
    # Two valid masks beside it decide which size is the camera's.
    take = plain_take()
    take["object_masks"]["cup_0"][EXO] = track(EXO, [0, 30, 60])
    take["object_masks"]["cup_0"][EXO]["annotation"]["30"] = mask
    checked = check(take)
    (excluded,) = checked.exclusions
    where = {"camera": EXO, "object_name": "cup_0", "frame_idx": 30}
    assert {name: excluded[name] for name in where} == where
    assert re.search(reason, excluded["reason"])
    assert [idx for _, camera, idx, _ in keys(checked) if camera == EXO] == [0, 60]


@pytest.mark.parametrize("frame", ["x", "-3", "1.5", "", "9" * 30, "٣"])
def test_a_key_that_is_not_a_frame_number_is_an_exclusion(frame: str) -> None:
    checked = with_mask(shipped(block(EXO)), frame=frame)
    (excluded,) = checked.exclusions
    assert excluded["frame_idx"] is None and "frame number" in excluded["reason"]
    assert len(keys(checked)) == 5


def test_a_padded_frame_number_is_read_but_two_spellings_exclude_each_other() -> None:
    take = plain_take()
    masks = take["object_masks"]["cup_0"][EXO]["annotation"]
    masks["030"] = masks.pop("30")
    assert check(take).exclusions == []
    masks["30"] = shipped(block(EXO, 31))
    checked = check(take)
    assert [row["frame_idx"] for row in checked.exclusions] == [30, 30]
    assert "two masks of one frame" in checked.exclusions[0]["reason"]


def test_frames_beyond_the_end_of_the_video_are_excluded() -> None:
    take = annotated({"cup_0": {EGO: track(EGO, [0, 90], [120]), EXO: track(EXO, [0, 90])}})
    limits = {EGO: CameraLimits(frames=90), EXO: CameraLimits(frames=91)}
    checked = check(take, limits=limits)
    assert [(row["camera"], row["frame_idx"]) for row in checked.exclusions] == [
        (EGO, 90),
        (EGO, 120),
    ]
    assert "beyond the video's end, at 90" in checked.exclusions[0]["reason"]
    assert checked.frame_idxs == [0, 90]


def test_masks_without_the_aspect_ratio_of_the_video_are_excluded() -> None:
    rotated = {EXO: CameraLimits(height=3840, width=2160)}
    checked = check(plain_take(), limits=rotated)
    assert "the mask is 16x9, the video is 2160x3840" in checked.exclusions[0]["reason"]
    take = plain_take()
    rotated_mask = {**shipped(block(EXO)), "width": 9, "height": 16}
    take["object_masks"]["cup_0"][EXO]["annotation"]["30"] = rotated_mask
    (excluded,) = check(take, limits={EXO: CameraLimits(height=2160, width=3840)}).exclusions
    assert (excluded["frame_idx"], excluded["camera"]) == (30, EXO)
    smaller = {EXO: CameraLimits(height=448, width=796)}
    assert check(plain_take(), limits=smaller).exclusions == []


@pytest.mark.parametrize("camera", ["cam09", "../escape", "a/b", ""])
def test_an_unknown_camera_is_excluded_with_all_its_masks(camera: str) -> None:
    take = plain_take()
    take["object_masks"]["cup_0"][camera] = track(EXO)
    checked = check(take)
    (excluded,) = checked.exclusions
    assert excluded["camera"] == camera
    assert {key[1] for key in keys(checked)} == {EGO, EXO}


def test_any_camera_is_used_where_takes_json_lists_none() -> None:
    take = annotated({"cup_0": {EGO: track(EGO), "gp07": track(EXO)}})
    assert check(take, cameras=frozenset()).exo_cameras == ["gp07"]
    take["object_masks"]["cup_0"]["../escape"] = track(EXO)
    assert "name cannot be" in check(take, cameras=frozenset()).exclusions[0]["reason"]


@pytest.mark.parametrize(
    "first, second, winner",
    [([0, 30], [0, 30, 60], SECOND_EGO), ([0, 30], [0], EGO), ([0], [30], EGO)],
)
def test_of_two_ego_cameras_the_one_with_more_masks_is_used(
    first: list[int], second: list[int], winner: str
) -> None:
    take = annotated(
        {"cup_0": {EGO: track(EGO, first), SECOND_EGO: track(EGO, second), EXO: track(EXO)}}
    )
    checked = check(take)
    assert checked.ego_camera == winner
    (excluded,) = checked.exclusions
    assert excluded["camera"] == ({EGO, SECOND_EGO} - {winner}).pop()
    assert "two ego cameras" in excluded["reason"]


@pytest.mark.parametrize(
    "tracks, words",
    [
        ({EGO: track(EGO)}, "without exo"),
        ({EXO: track(EXO)}, "without ego"),
        ({}, "without ego or exo"),
        ({EGO: track(EGO, []), EXO: track(EXO)}, "without ego"),
    ],
)
def test_an_object_without_a_view_is_excluded(tracks: Any, words: str) -> None:
    take = plain_take()
    take["object_masks"]["fork_1"] = tracks
    checked = check(take)
    (excluded,) = checked.exclusions
    assert excluded["object_name"] == "fork_1" and words in excluded["reason"]
    assert {key[0] for key in keys(checked)} == {"cup_0"}


def test_an_object_that_is_absent_in_all_frames_of_a_view_is_kept() -> None:
    checked = check(annotated({"cup_0": {EGO: track(EGO), EXO: track(EXO, [], [0, 30])}}))
    assert checked.exclusions == [] and len(keys(checked)) == 4


def test_a_take_without_usable_objects_has_no_rows() -> None:
    checked = check(annotated({"cup_0": {EGO: track(EGO)}}))
    assert (checked.masks.num_rows, checked.ego_camera, checked.exo_cameras) == (0, None, [])
    assert check(annotated({})).frame_idxs == []


JUNK = st.none() | st.integers() | st.text(max_size=5) | st.sampled_from([9, 16, 12])


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["cup", "a/b", ""]),
        st.dictionaries(
            st.sampled_from([EGO, SECOND_EGO, EXO, "cam09"]),
            st.fixed_dictionaries(
                {
                    "annotation": st.dictionaries(
                        st.sampled_from(["0", "30", "x", "600"]),
                        st.just(shipped(block(EXO)))
                        | st.just(shipped(block(EGO)))
                        | st.fixed_dictionaries(
                            {"width": JUNK, "height": JUNK, "encodedMask": JUNK}
                        ),
                    ),
                    "annotated_frames": st.lists(st.integers(-(2**63), 2**63 - 1) | st.just(30)),
                }
            ),
        ),
    )
)
def test_each_frame_of_any_input_is_kept_or_excluded(objects: Any) -> None:
    checked = check(annotated(objects), limits={EXO: CameraLimits(frames=300)})
    rows = to_table("masks", checked.masks.append_column("take_uid", [["t"] * len(keys(checked))]))
    for row in rows.to_pylist():
        assert row["visible"] == (row["rle_counts"] is not None) == (row["area"] is not None)
        if row["visible"]:
            assert row["area"] > 0
            MaskRle(row["rle_height"], row["rle_width"], row["rle_counts"]).validate()
    assert len({key[:3] for key in keys(checked)}) == len(keys(checked))
    cameras = {row["camera"] for row in checked.exclusions if "object_name" not in row}
    excluded_objects = {row["object_name"] for row in checked.exclusions if "camera" not in row}
    excluded_tracks = {(row.get("object_name"), row.get("camera")) for row in checked.exclusions}
    kept_tracks = {(name, camera) for name, camera, _, _ in keys(checked)}
    for name, tracks in objects.items():
        for camera, content in tracks.items():
            if content["annotation"] or content["annotated_frames"]:
                is_excluded = (
                    camera in cameras
                    or name in excluded_objects
                    or (name, camera) in excluded_tracks
                )
                assert is_excluded or (name, camera) in kept_tracks
