"""The synthetic release is what it says: layout, frame numbers, masks, states, reproducibility."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import Release
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.release.lzstring import decompress_from_encoded_uri_component
from egoexo_tools.synthetic import (
    SyntheticOptions,
    read_frame_index,
    synthesize,
    write_manifests,
)
from egoexo_tools.synthetic.cameras import EGO_RENDITION, EXO_RENDITION, ExoPlace, HeadMotion
from egoexo_tools.synthetic.frame_code import code_size, draw_frame_index
from egoexo_tools.synthetic.objects import draw_objects
from egoexo_tools.synthetic.render import Painter, bounds
from egoexo_tools.synthetic.scene import Scene, shaded_table
from egoexo_tools.synthetic.takes import annotate, plan_takes
from egoexo_tools.vocab import Split, View, view_of

ONE_TAKE = SyntheticOptions(
    scale=0.1, train_takes=1, val_takes=0, test_takes=0, annotated_frames=2, objects_per_take=6
)


def decode(path: Path) -> list[np.ndarray]:
    """Every frame of a video, in order of presentation."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def load(path: Path) -> Any:
    return json.loads(path.read_bytes())


def relations(release: Release) -> dict[str, Any]:
    """take_uid → annotation, over the three splits."""
    return {
        uid: take
        for split in Split
        for uid, take in load(release.relations_json(split))["annotations"].items()
    }


def tracks(release: Release) -> list[tuple[str, str, str, dict[str, Any]]]:
    """(take_name, object, camera, track) of every take that takes.json holds."""
    uids = {take["take_uid"] for take in load(release.takes_json)}
    return [
        (take["take_name"], name, camera, track)
        for uid, take in relations(release).items()
        if uid in uids
        for name, cameras in take["object_masks"].items()
        for camera, track in cameras.items()
    ]


def unpack(entry: dict[str, Any]) -> np.ndarray:
    counts = decompress_from_encoded_uri_component(entry["encodedMask"])
    return MaskRle(entry["height"], entry["width"], counts).decode()


# The frame index


@pytest.mark.parametrize("frame_idx", [0, 1, 30, 255, 256, 4711, 65535])
@pytest.mark.parametrize("hw", [(1408, 1408), (2160, 3840), (3840, 2160)])
@pytest.mark.parametrize("shrink", [1, 2, 4])
def test_frame_index_survives_noise_and_scaling(
    frame_idx: int, hw: tuple[int, int], shrink: int
) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8)
    draw_frame_index(rgb, frame_idx)
    small = cv2.resize(rgb, (hw[1] // shrink, hw[0] // shrink))
    assert read_frame_index(small) == frame_idx


def test_frame_index_is_refused_where_there_is_none() -> None:
    with pytest.raises(DataError, match="no frame index"):
        read_frame_index(np.full((100, 100, 3), 255, np.uint8))
    with pytest.raises(DataError, match="16 bits"):
        draw_frame_index(np.zeros((100, 100, 3), np.uint8), 65536)


def test_every_frame_of_every_video_carries_its_index(tiny_release: Release) -> None:
    videos = sorted(tiny_release.path.rglob("*.mp4"))
    assert len(videos) == 2 * 3 * 3  # 448p copies; takes; an ego and two exo cameras
    for path in videos:
        assert [read_frame_index(rgb) for rgb in decode(path)] == list(range(61)), path


# Videos and files


def test_videos_are_h264_at_30_fps_with_b_frames_and_448p_copies(tiny_release: Release) -> None:
    for take in load(tiny_release.takes_json):
        for streams in take["frame_aligned_videos"].values():
            for stream in streams.values():
                relative = f"{take['root_dir']}/{stream['relative_path']}"
                video = tiny_release.video(take["take_name"], stream["cam_id"])
                assert tiny_release.inside(relative) == video
                ego = view_of(stream["cam_id"]) is View.EGO
                small = tiny_release.video(take["take_name"], stream["cam_id"], short_side=448)
                check_video(video, (140, 140) if ego else (384, 216))
                check_video(small, (448, 448) if ego else (796, 448))


def check_video(path: Path, size: tuple[int, int]) -> None:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 30)
        assert (stream.width, stream.height) == size
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert [packet.is_keyframe for packet in packets] == [True] + [False] * 60
        assert any(packet.pts != packet.dts for packet in packets)


def test_takes_and_splits_are_as_shipped(tiny_release: Release) -> None:
    takes = load(tiny_release.takes_json)
    assert set(takes[0]) == {
        *("root_dir", "take_uid", "take_name", "university_id", "university_name"),
        *("parent_task_name", "duration_sec", "is_dropped", "frame_aligned_videos"),
        *("capture_uid", "participant_uid"),
    }
    assert takes[0]["frame_aligned_videos"]["aria01"]["rgb"]["cam_id"] == "aria01_214-1"
    splits = load(tiny_release.splits_json)
    listed = splits["take_uid_to_split"]
    assert [len(splits["split_to_take_uids"][split]) for split in Split] == [3, 1, 1]
    assert all(uid in splits["split_to_take_uids"][split] for uid, split in listed.items())
    assert listed.keys() == splits["take_uid_to_benchmark"].keys()
    held = {take["take_uid"] for take in takes}
    assert len(listed.keys() - held) == 2, "redacted takes"
    assert len(relations(tiny_release).keys() - held) == 1, "a redacted take with annotation"


def test_scenarios_universities_and_camera_names_vary() -> None:
    plans = plan_takes(SyntheticOptions())
    assert len({plan.take_uid for plan in plans}) == len({plan.take_name for plan in plans}) == 34
    assert {plan.scenario for plan in plans} == {"Cooking", "Health", "Bike Repair", "Music"}
    assert len({plan.university_id for plan in plans}) > 2
    cameras = {camera for plan in plans for camera in plan.cameras}
    assert {"aria01_214-1", "aria02_214-1", "cam01", "cam02", "gp01"} <= cameras
    assert {len(plan.cameras) for plan in plans} == {2, 3}


def test_object_names_break_naive_code(tiny_release: Release) -> None:
    names = {name for _, name, _, _ in tracks(tiny_release)}
    assert any("/" in name for name in names)
    assert any(not name.isascii() for name in names)
    assert all(" " in name for name in names)


# Masks and states


def test_frame_keys_are_unsorted_text_and_masks_have_the_videos_size(
    tiny_release: Release,
) -> None:
    keys = [list(track["annotation"]) for *_, track in tracks(tiny_release)]
    assert any(row != sorted(row, key=int) for row in keys)
    for _, _, camera, track in tracks(tiny_release):
        assert track["annotation_fps"] == 1
        assert {int(key) for key in track["annotation"]} <= set(track["annotated_frames"])
        size = (140, 140) if view_of(camera) is View.EGO else (384, 216)
        assert all((m["width"], m["height"]) == size for m in track["annotation"].values())


def test_visible_absent_and_unannotated_all_occur() -> None:
    rng = np.random.default_rng(0)
    ids = {"aria01_1": {}, "cam01": {}}
    for frame_idx in (0, 30, 60):
        frame = np.zeros((100, 100), np.uint8)
        frame[:20, :20] = 1
        frame[50, 50:61] = 2  # 11 pixels: too few to count as visible
        frame[60:70, 60:70] = 3 if frame_idx else 0
        ids["aria01_1"][frame_idx] = ids["cam01"][frame_idx] = frame
    result = annotate(["one", "two", "three"], ids, rng)["object_masks"]
    expected = {"one": {0, 30, 60}, "two": set(), "three": {30, 60}}
    for name, cameras in result.items():
        for track in cameras.values():
            visible = {int(key) for key in track["annotation"]}
            assert visible == expected[name] & set(track["annotated_frames"])
    many = annotate([str(n) for n in range(60)], ids, rng)["object_masks"]
    lengths = {len(track["annotated_frames"]) for cameras in many.values() for track in
               cameras.values()}  # fmt: skip
    assert lengths == {1, 2, 3}, "some tracks end early"
    assert {len(cameras) for cameras in many.values()} == {1, 2}, "some have no exo camera"


def test_objects_leave_the_ego_view_and_hide_in_the_exo_view(tiny_release: Release) -> None:
    absent = {View.EGO: 0, View.EXO: 0}
    for _, _, camera, track in tracks(tiny_release):
        absent[view_of(camera)] += len(track["annotated_frames"]) - len(track["annotation"])
    assert absent[View.EGO] and absent[View.EXO], absent


def test_masks_match_the_pixels(tiny_release: Release) -> None:
    """Just inside a mask the decoded frame looks like the object, just outside it does not."""
    steps = []
    for take_name, _, camera, track in tracks(tiny_release):
        frames = decode(tiny_release.video(take_name, camera))
        for key, entry in track["annotation"].items():
            mask = unpack(entry).astype(np.uint8)
            inside = cv2.erode(mask, np.ones((3, 3), np.uint8)) > 0
            around = (cv2.dilate(mask, np.ones((7, 7), np.uint8)) > 0) & (mask == 0)
            if inside.sum() < 60:
                continue
            rgb = frames[int(key)].astype(float)
            right = np.abs(rgb[inside].mean(axis=0) - rgb[around].mean(axis=0)).max()
            shifted = np.roll(inside, 5 * mask.shape[0] // 7, axis=0)
            steps.append(
                (right, np.abs(rgb[shifted].mean(axis=0) - rgb[around].mean(axis=0)).max())
            )
    contrast = np.array(steps)
    assert len(contrast) > 40
    assert np.median(contrast[:, 0]) > 25


def scene_of(seed: int) -> tuple[Scene, ExoPlace, HeadMotion]:
    rng = np.random.default_rng(seed)
    exo, head = ExoPlace.draw(rng, 0), HeadMotion.draw(rng)
    return Scene.draw(rng, count=8, seconds=5, away=np.array([0.0, -1.0])), exo, head


def test_ids_are_where_a_pinhole_camera_sees_the_objects() -> None:
    """The middle of each object's pixels projects to the object's own place."""
    scene, exo, _ = scene_of(1)
    solids, camera = scene.solids(0), exo.camera(270, 480)
    painter = Painter(270, 480, scene.textures)
    for number, solid in enumerate(solids):
        painter.paint(camera, solids[number : number + 1], scene.textures.table)
        seen = camera.rotation @ (solid["centre"] - camera.origin)
        x, y = camera.focal * seen[:2] / seen[2] + [240, 135]
        ys, xs = np.nonzero(painter.ids == number + 1)
        y0, y1, x0, x1 = bounds(camera, solid, 270, 480)
        assert abs(xs.mean() - x) < 6 and abs(ys.mean() - y) < 6
        assert y0 <= ys.min() and ys.max() < y1 and x0 <= xs.min() and xs.max() < x1


def test_the_nearer_object_covers_the_farther() -> None:
    scene, exo, _ = scene_of(1)
    solids, camera = scene.solids(0)[:2].copy(), exo.camera(270, 480)
    solids["kind"], solids["size"] = 2, 0.05
    towards = camera.origin / np.linalg.norm(camera.origin)
    solids["centre"][0], solids["centre"][1] = 0, 0.3 * towards
    for order in ([0, 1], [1, 0]):
        painter = Painter(270, 480, scene.textures)
        painter.paint(camera, solids[order], scene.textures.table)
        assert painter.ids[135, 240] == 2


def test_redrawing_what_moved_gives_the_whole_picture() -> None:
    from egoexo_tools.synthetic.takes import _changed

    scene, exo, _ = scene_of(3)
    camera, hw = exo.camera(270, 480), (270, 480)
    partly, before = Painter(*hw, scene.textures), None
    for frame_idx in range(0, 150, 5):
        solids = scene.solids(frame_idx)
        table = shaded_table(scene.textures.table, solids)
        partly.paint(camera, solids, table, _changed(camera, before, solids, hw))
        before = solids
    whole = Painter(*hw, scene.textures)
    whole.paint(camera, solids, table)
    assert (partly.ids == whole.ids).all()
    assert np.abs(partly.rgb.astype(int) - whole.rgb).max() <= 12
    assert np.abs(partly.rgb.astype(int) - whole.rgb).mean() < 0.1


def test_the_hand_moves_objects_and_the_head_moves() -> None:
    scene, _, head = scene_of(2)
    first, last = scene.solids(0), scene.solids(150)
    moved = [n for n in range(8) if np.abs(first["centre"][n] - last["centre"][n]).max() > 0.01]
    assert len(moved) == len(scene.moves) >= 2
    assert any(len(scene.solids(frame_idx)) > 8 for frame_idx in range(150)), "a hand"
    origins = [head.camera(frame_idx, 100, 100).origin for frame_idx in (0, 30, 60)]
    assert len({tuple(origin.tolist()) for origin in origins}) == 3


# Objects and colours


def test_each_take_has_look_alikes() -> None:
    objects = draw_objects(np.random.default_rng(5), 10, (150, 130, 110))
    assert len({item.name for item in objects}) == 10
    for original, copy in zip(objects[:2], objects[-2:], strict=True):
        assert (original.kind, original.pattern) == (copy.kind, copy.pattern)
        assert 10 < np.linalg.norm(np.subtract(original.colour, copy.colour)) < 50


def test_objects_of_other_takes_are_others() -> None:
    plans, options = plan_takes(SyntheticOptions()), SyntheticOptions()
    looks = [
        {item.colour for item in draw_objects(plan.rng(options), 12, (150, 130, 110))}
        for plan in plans
    ]
    assert len(set().union(*looks)) == sum(len(take) for take in looks)


def test_renditions_differ_and_can_be_inverted() -> None:
    greys = np.full((1, 3), 128.0)
    pictures = []
    for rendition in (EGO_RENDITION, EXO_RENDITION):
        assert np.linalg.cond(rendition.matrix) < 10
        assert (np.diff(rendition.curve.astype(int)) >= 0).all()
        light = np.clip(greys @ rendition.matrix.T, 0, 255).astype(int)
        pictures.append(rendition.curve[light])
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() > 40


# Runs


def test_the_same_options_give_the_same_bytes(tmp_path: Path) -> None:
    first = synthesize(tmp_path / "a", ONE_TAKE, quiet=True, workers=1)
    second = synthesize(tmp_path / "b", ONE_TAKE, quiet=True, workers=1)
    files = sorted(path.relative_to(first.path) for path in first.path.rglob("*.*"))
    assert files == sorted(path.relative_to(second.path) for path in second.path.rglob("*.*"))
    for name in files:
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes(), name


def test_a_second_run_does_nothing_and_other_options_are_refused(tiny_release: Release) -> None:
    options = SyntheticOptions(**load(tiny_release.path / "synthetic.json"))
    before = {path: path.stat().st_mtime_ns for path in tiny_release.path.rglob("*")}
    synthesize(tiny_release.path, options, quiet=True)
    assert before == {path: path.stat().st_mtime_ns for path in tiny_release.path.rglob("*")}
    changed = SyntheticOptions(**{**options.to_json(), "seed": 1, "gop": 30})
    with pytest.raises(SettingsError, match=r"seed=0, now 1, gop=250, now 30"):
        synthesize(tiny_release.path, changed, quiet=True)


def test_a_killed_run_is_no_release_and_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SyntheticOptions(**{**ONE_TAKE.to_json(), "val_takes": 1, "annotated_frames": 1})
    whole = synthesize(tmp_path / "whole", options, quiet=True, workers=1)
    killed = tmp_path / "killed"
    with monkeypatch.context() as patch:
        from egoexo_tools.synthetic import release as module

        def kill(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(module, "_write_annotations", kill)
        with pytest.raises(KeyboardInterrupt):
            synthesize(killed, options, quiet=True, workers=1)
    with pytest.raises(DataError, match="not an Ego-Exo4D release"):
        Release(killed).require()
    synthesize(killed, options, quiet=True, workers=1)
    names = {path.relative_to(killed) for path in killed.rglob("*")}
    assert names == {path.relative_to(whole.path) for path in whole.path.rglob("*")}
    assert (killed / "takes.json").read_bytes() == whole.takes_json.read_bytes()


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="not a synthetic release"):
        synthesize(tmp_path, ONE_TAKE, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("scale", 0.0), ("scale", 1.5), ("seed", -1), ("objects_per_take", 3), ("gop", 0)],
)
def test_options_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{field} is {value}"):
        SyntheticOptions(**{field: value})


def test_a_release_of_no_takes_is_refused() -> None:
    with pytest.raises(SettingsError, match="needs a take"):
        SyntheticOptions(train_takes=0, val_takes=0, test_takes=0)


def test_portrait_takes_have_an_upright_exo_camera(tmp_path: Path) -> None:
    options = SyntheticOptions(
        **{**ONE_TAKE.to_json(), "portrait_takes": 1, "annotated_frames": 1, "exo_cameras": 1}
    )
    release = synthesize(tmp_path / "upright", options, quiet=True, workers=1)
    name = load(release.takes_json)[0]["take_name"]
    assert decode(release.video(name, "cam01"))[0].shape == (384, 216, 3)
    assert decode(release.video(name, "cam01", short_side=448))[0].shape == (796, 448, 3)


def test_download_manifests_list_every_file_with_its_size(
    tiny_release: Release, tmp_path: Path
) -> None:
    written = write_manifests(tiny_release, "s3://bucket/v2/", tmp_path)
    rows = [row for path in written.values() for entry in load(path) for row in entry["paths"]]
    files = {row["relative_path"]: row["size"] for row in rows}
    on_disk = {
        path.relative_to(tiny_release.path).as_posix(): path.stat().st_size
        for path in tiny_release.path.rglob("*.*")
        if path.is_file() and path.name != "synthetic.json"
    }
    assert files == on_disk
    assert all(row["source_path"] == f"s3://bucket/v2/{row['relative_path']}" for row in rows)
    assert {row["checksum"] for row in rows} == {None}
    annotations = load(written["annotations"])
    benchmarks = {entry["uid"]: entry["benchmarks"] for entry in annotations}
    assert benchmarks["relations_train"] == ["relations"] and benchmarks["splits"] is None


def test_a_scene_that_stands_still_between_pictures_keeps_its_annotated_frames(
    tmp_path: Path,
) -> None:
    whole = synthesize(tmp_path / "whole", ONE_TAKE, quiet=True, workers=1)
    options = SyntheticOptions(**{**ONE_TAKE.to_json(), "motion_fps": 3})
    quick = synthesize(tmp_path / "quick", options, quiet=True, workers=1)
    for split in ("train", "val", "test"):
        name = f"annotations/relations_{split}.json"
        assert (quick.path / name).read_bytes() == (whole.path / name).read_bytes()
    for path in sorted((quick.path / "takes").rglob("*.mp4")):
        if "downscaled" in path.parts:
            continue
        frames = decode(path)
        assert [read_frame_index(frame) for frame in frames] == list(range(31))
        rows, _ = code_size(*frames[0].shape[:2])
        if view_of(path.stem) is View.EGO:  # the head never rests
            below = [frame[rows:].astype(int) for frame in frames]
            moved = np.array([np.abs(a - b).mean() for a, b in pairwise(below)])
            pictures = [9, 19, 29]  # a codec redraws a still one almost as it was
            assert moved[pictures].min() > 2 * np.delete(moved, pictures).max()


def test_motion_that_does_not_divide_a_second_is_refused() -> None:
    with pytest.raises(SettingsError, match="motion_fps is 7; it must divide 30"):
        SyntheticOptions(motion_fps=7)


def test_a_release_of_before_an_option_is_taken_as_made_with_its_default(tmp_path: Path) -> None:
    synthesize(tmp_path, ONE_TAKE, quiet=True, workers=1)
    marker = tmp_path / "synthetic.json"
    options = json.loads(marker.read_text())
    del options["motion_fps"]
    marker.write_text(json.dumps(options))
    assert synthesize(tmp_path, ONE_TAKE, quiet=True, workers=1).path == tmp_path
