"""The frames stage: right pictures at the recipe's sizes, and a reason for each that is not."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from video_factory import damage, every_frame, number_in, truncate, write_video

from egoexo_tools.cli import main
from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.running.records import RunOptions, StageSummary
from egoexo_tools.stages.frames import annotated_frames, run_frames, units
from egoexo_tools.stages.settings import FrameSettings

EGO, EXO = "aria01_214-1", "cam01"
INLINE = RunOptions(executor="inline", quiet=True)
OPTIONS = {"preset": "medium", "bf": "3", "g": "20"}
ANNOTATED = {EGO: [0, 30, 60], EXO: [30, 31, 60]}


@pytest.fixture
def release(tmp_path: Path, videos: Release) -> Release:
    """A release to read and to damage."""
    shutil.copytree(videos.path, tmp_path / "release")
    return Release(tmp_path / "release")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """One take, `cook`: a square ego and a wide exo video of 70 frames, and small copies."""
    release = Release(tmp_path_factory.mktemp("release"))
    for short_side, sizes in ((None, {EGO: (176, 176), EXO: (240, 400)}), (448, {EXO: (120, 200)})):
        for camera, (height, width) in sizes.items():
            path = release.video("cook", camera, short_side=short_side)
            write_video(path, 70, height=height, width=width, options=OPTIONS)
    release.takes_json.write_text("[]")
    return release


@pytest.fixture
def root(tmp_path: Path) -> DatasetRoot:
    return make_root(tmp_path / "root", ANNOTATED)


def make_root(path: Path, annotated: Mapping[str, list[int]]) -> DatasetRoot:
    """A root as ingest leaves it: one take with the given annotated frames."""
    root = DatasetRoot(path)
    take = {"take_uid": "t1", "take_name": "cook", "ego_camera": EGO, "exo_cameras": [EXO]}
    write_manifest(root, "takes", "t1", [take])
    rows = [
        {
            "take_uid": "t1",
            "object_name": object_name,
            "camera": camera,
            "frame_idx": frame_idx,
            "visible": object_name == "pan",
        }
        for camera, frame_idxs in annotated.items()
        for frame_idx in frame_idxs
        for object_name in ("pan", "knife")
    ]
    write_manifest(root, "masks", "t1", rows)
    return root


def frames_run(
    root: DatasetRoot, release: Release, run: RunOptions = INLINE, **choices: Any
) -> StageSummary:
    return run_frames(root, release, settings=FrameSettings.choose(**choices), run=run)


def written(root: DatasetRoot) -> dict[str, bytes]:
    """Path under processed/ → content."""
    files = sorted(path for path in root.processed.rglob("*") if path.is_file())
    return {path.relative_to(root.processed).as_posix(): path.read_bytes() for path in files}


def excluded(root: DatasetRoot) -> list[tuple[str, int, str]]:
    table: pa.Table = read_manifest(root, "exclusions")
    return [(row["camera"], row["frame_idx"], row["reason"]) for row in table.to_pylist()]


@pytest.mark.slow
def test_annotated_frames_follow_the_recipe(root: DatasetRoot, release: Release) -> None:
    summary = frames_run(root, release).check()
    assert (summary.done, summary.counts) == (2, {"frames": 6, "frames_excluded": 0})
    assert list(written(root)) == [
        *(f"t1/{EGO}/{idx}.jpg" for idx in (0, 30, 60)),
        *(f"t1/{EXO}/{idx}.jpg" for idx in (30, 31, 60)),
    ]
    for camera, share in ((EGO, 2), (EXO, 4)):
        expected = every_frame(release.video("cook", camera))
        for frame_idx in ANNOTATED[camera]:
            height, width = (side // share for side in expected[0].shape[:2])
            small = cv2.resize(expected[frame_idx], (width, height))
            _, jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
            assert root.frame("t1", camera, frame_idx).read_bytes() == jpeg.tobytes()


@pytest.mark.slow
def test_frames_of_full_size_equal_the_decoded_frames(root: DatasetRoot, release: Release) -> None:
    frames_run(root, release, scale=1).check()
    expected = every_frame(release.video("cook", EXO))
    for frame_idx in ANNOTATED[EXO]:
        bgr = np.ascontiguousarray(expected[frame_idx][..., ::-1])
        _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])
        assert root.frame("t1", EXO, frame_idx).read_bytes() == jpeg.tobytes()


def test_the_manifest_has_sizes_and_paths(root: DatasetRoot, release: Release) -> None:
    frames_run(root, release)
    first, *_, last = read_manifest(root, "frames").to_pylist()
    assert first == {
        "take_uid": "t1",
        "camera": EGO,
        "frame_idx": 0,
        "view": "ego",
        "path": f"processed/t1/{EGO}/0.jpg",
        "height": 88,
        "width": 88,
        "source_height": 176,
        "source_width": 176,
        "digest": hashlib.sha256(root.frame("t1", EGO, 0).read_bytes()).hexdigest()[:16],
    }
    assert (last["camera"], last["view"], last["frame_idx"]) == (EXO, "exo", 60)
    assert (last["height"], last["width"], last["source_height"]) == (60, 100, 240)


def test_a_replaced_video_gives_new_frames_and_a_deleted_one_leaves_them(
    root: DatasetRoot, release: Release
) -> None:
    frames_run(root, release)
    assert frames_run(root, release).done == 0
    before = read_manifest(root, "frames")["digest"].to_pylist()
    video = release.video("cook", EXO)
    shutil.copyfile(release.video("cook", EGO), video.with_suffix(".new"))
    os.replace(video.with_suffix(".new"), video)
    assert (frames_run(root, release).done, frames_run(root, release).done) == (1, 0)
    after = read_manifest(root, "frames")["digest"].to_pylist()
    # The parts are in name order: three frames of the ego camera, then three of the other.
    assert before[:3] == after[:3] and not set(before[3:]) & set(after[3:])
    video.unlink()
    assert frames_run(root, release).done == 0


@pytest.mark.parametrize("change", ["write", "delete"])
def test_a_picture_that_was_changed_by_others_is_written_again(
    root: DatasetRoot, release: Release, change: str
) -> None:
    frames_run(root, release)
    path = root.frame("t1", EGO, 30)
    before = path.read_bytes()
    path.write_bytes(before[:-1] + b"x") if change == "write" else path.unlink()
    assert frames_run(root, release).done == 1
    assert path.read_bytes() == before


def test_1fps_covers_the_whole_video(root: DatasetRoot, release: Release) -> None:
    write_video(release.video("cook", EXO), 100, options=OPTIONS)
    frames_run(root, release, sampling="1fps", scale=1)
    rows = read_manifest(root, "frames").to_pylist()
    frames = [(row["camera"], row["frame_idx"]) for row in rows]
    assert frames == [(EGO, 0), (EGO, 30), (EGO, 60), (EXO, 0), (EXO, 30), (EXO, 60), (EXO, 90)]
    for row in rows:
        bgr = cv2.imread(str(root.path / row["path"]))
        assert bgr is not None and number_in(bgr) == row["frame_idx"]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"scale": 1}, (240, 400)),
        ({"scale": 0.3}, (72, 120)),
        ({"short_side": 448}, (120, 200)),
        ({"short_side": 448, "scale": 0.5}, (60, 100)),
    ],
)
def test_sizes_follow_the_scale(
    tmp_path: Path, release: Release, options: dict[str, Any], size: Any
) -> None:
    root = make_root(tmp_path / "root", {EXO: [7]})
    frames_run(root, release, **options).check()
    assert cv2.imread(str(root.frame("t1", EXO, 7))).shape[:2] == size


def test_other_settings_need_overwrite(root: DatasetRoot, release: Release) -> None:
    frames_run(root, release)
    before = written(root)
    second = frames_run(root, release)
    assert (second.done, second.skipped) == (0, 2)
    with pytest.raises(SettingsError, match="sampling='annotated', now '1fps'"):
        frames_run(root, release, sampling="1fps")
    redo = RunOptions(executor="inline", quiet=True, overwrite=True)
    frames_run(root, release, sampling="1fps", run=redo)
    assert f"t1/{EXO}/31.jpg" not in written(root)
    frames_run(root, release, run=redo)
    assert written(root) == before


def test_annotations_beyond_the_end_are_excluded(tmp_path: Path, release: Release) -> None:
    root = make_root(tmp_path / "root", {EXO: [60, 69, 70, 900]})
    summary = frames_run(root, release).check()
    assert summary.counts == {"frames": 2, "frames_excluded": 2}
    reason = "beyond the video's end (it has 70 frames)"
    assert excluded(root) == [(EXO, 70, reason), (EXO, 900, reason)]


def test_damage_excludes_the_frames_of_its_group(tmp_path: Path, release: Release) -> None:
    damage(release.video("cook", EXO), 20, keep=0)
    root = make_root(tmp_path / "root", {EXO: [3, 33, 66]})
    summary = frames_run(root, release).check()
    assert summary.counts == {"frames": 2, "frames_excluded": 1}
    [(camera, frame_idx, reason)] = excluded(root)
    assert (camera, frame_idx) == (EXO, 33) and "damaged" in reason


def test_a_better_copy_of_a_truncated_video_gives_more_frames(
    tmp_path: Path, release: Release
) -> None:
    video = release.video("cook", EXO)
    write_video(video, 70, options=OPTIONS, container_options={"movflags": "faststart"})
    whole = video.read_bytes()
    truncate(video, share=0.6)
    root = make_root(tmp_path / "root", {EXO: [3, 66]})
    assert frames_run(root, release).check().counts == {"frames": 1, "frames_excluded": 1}
    assert [(idx, "truncated" in reason) for _, idx, reason in excluded(root)] == [(66, True)]
    video.write_bytes(whole)
    redo = RunOptions(executor="inline", quiet=True, overwrite=True)
    assert frames_run(root, release, run=redo).counts == {"frames": 2, "frames_excluded": 0}
    assert excluded(root) == []


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_a_video_without_any_frame_fails_its_own_unit(
    root: DatasetRoot, release: Release, share: float
) -> None:
    truncate(release.video("cook", EXO), share=share)
    summary = frames_run(root, release)
    assert (summary.done, [result.unit for result in summary.failed]) == (1, [f"t1.{EXO}"])
    assert f"{EXO}.mp4" in str(summary.failed[0].error)
    assert not root.part("frames", f"t1.{EXO}").exists()


def test_a_missing_video_is_named(root: DatasetRoot, release: Release) -> None:
    release.video("cook", EXO).unlink()
    [failed] = frames_run(root, release).failed
    assert failed.error == (
        f"there is no video {release.video('cook', EXO)}; "
        f"fetch it with `egoexo-tools download {release.path}`"
    )


@pytest.mark.slow
def test_a_hanging_decoder_is_stopped(tmp_path: Path, release: Release) -> None:
    root = make_root(tmp_path / "root", {EXO: [30]})
    release.video("cook", EXO).unlink()
    os.mkfifo(release.video("cook", EXO))  # opening it waits for a writer that never comes
    run = RunOptions(executor="process", workers=1, quiet=True, time_limit_seconds=2)
    [failed] = frames_run(root, release, run=run).failed
    assert (failed.unit, failed.error) == (f"t1.{EXO}", "took longer than 2 s and was stopped")


def test_the_units_of_a_take(root: DatasetRoot) -> None:
    assert [unit.name for unit in units(root)] == [f"t1.{EGO}", f"t1.{EXO}"]
    assert annotated_frames(root, "t1", EXO) == [30, 31, 60]
    unit = units(root)[0]
    assert unit.inputs == (root.part("masks", "t1"),)
    assert unit.outputs == (root.part("frames", f"t1.{EGO}"),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "2fps"}, "'2fps' is not a sampling; use annotated or 1fps"),
        ({"short_side": 720}, "a short side of 720 pixels"),
        ({"ego_scale": 1.5}, "scale is 1.5"),
        ({"exo_scale": 0}, "scale is 0"),
        ({"jpeg_quality": 0}, "JPEG quality is 0"),
    ],
)
def test_invalid_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        FrameSettings(**options)


def test_the_command(root: DatasetRoot, release: Release) -> None:
    words = ["frames", str(root.path), "--release", str(release.path), "--executor", "inline"]
    result = CliRunner().invoke(main, [*words, "--quiet", "--size", "full"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("frames: 2 done, 6 frames, 0 frames excluded")
    assert cv2.imread(str(root.frame("t1", EXO, 30))).shape == (240, 400, 3)
    release.video("cook", EXO).unlink()
    result = CliRunner().invoke(main, [*words, "--quiet", "--size", "full", "--overwrite"])
    assert result.exit_code == 1
    assert "1 failed: there is no video" in result.output
    result = CliRunner().invoke(main, [*words, "--scale", "7"])
    assert result.exit_code == 2 and "scale is 7" in result.output


def test_consecutive_frames_differ(root: DatasetRoot, release: Release) -> None:
    frames_run(root, release, scale=1)
    first, second = (cv2.imread(str(root.frame("t1", EXO, idx))) for idx in (30, 31))
    assert np.abs(first.astype(int) - second).mean() > 1
