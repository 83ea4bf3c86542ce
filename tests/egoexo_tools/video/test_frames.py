"""Frames are exact and intact, and only the packets that they need are read."""

import gc
import threading
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from video_factory import (
    MEDIUM,
    damage,
    every_frame,
    number_in,
    picture,
    read_numbers,
    trim_with_edit_list,
    truncate,
    write_video,
)

from egoexo_tools.errors import DataError
from egoexo_tools.video.frames import MissingFrames, ReadReport, probe, read_frames

FRAMES = 70
ONE = 65536
"""1 in a display matrix."""

KINDS = {
    "no B-frames": {"options": {"g": "20"}},
    "B-frames": {"options": MEDIUM},
    "open groups": {"options": {**MEDIUM, "x264-params": "open-gop=1:scenecut=0"}},
    "intra refresh": {"options": {"x264-params": "intra-refresh=1:keyint=20:bframes=0"}},
    "all keyframes": {"options": {"g": "1"}},
    "29.97": {"options": MEDIUM, "rate": Fraction(30000, 1001)},
    "uneven rate": {
        "options": MEDIUM,
        "pts": lambda number: 100 * number + 20 * (number % 3) + 900 * (number // 30),
    },
    "late start": {"options": MEDIUM, "pts": lambda number: 5000 + 100 * number},
    "faststart": {"options": MEDIUM, "container_options": {"movflags": "faststart"}},
    "fragments": {"options": MEDIUM, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "HEVC": {
        "codec": "libx265",
        "options": {"x265-params": "keyint=20:bframes=3:open-gop=0:log-level=none"},
    },
    "HEVC, open groups": {
        "codec": "libx265",
        "options": {"x265-params": "keyint=20:bframes=3:open-gop=1:log-level=none"},
    },
    "portrait": {"options": MEDIUM, "height": 240, "width": 176},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name of a kind → its video, written on first use."""
    folder = tmp_path_factory.mktemp("videos")

    def video(kind: str) -> Path:
        path = folder / f"{kind}.mp4"
        return path if path.exists() else write_video(path, FRAMES, **KINDS[kind])

    return video


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_frame_has_its_number(videos: Any, kind: str, threads: int) -> None:
    numbers = read_numbers(videos(kind), range(FRAMES), threads=threads)
    assert list(numbers.items()) == [(idx, idx) for idx in range(FRAMES)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_single_frame_equals_that_of_a_complete_decode(videos: Any, kind: str) -> None:
    expected = every_frame(videos(kind))
    for frame_idx in (0, 1, 17, 19, 21, 37, 38, 39, 41, 58, 69):
        [(idx, rgb)] = read_frames(videos(kind), [frame_idx], threads=2)
        assert idx == frame_idx
        np.testing.assert_array_equal(rgb, expected[frame_idx])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_groups_decoded_in_parallel_give_the_same_frames(videos: Any, kind: str) -> None:
    expected = every_frame(videos(kind))
    requested = [3, 17, 29, 42, 55, 68]
    frames = list(read_frames(videos(kind), requested, threads=3))
    assert [frame_idx for frame_idx, _ in frames] == requested
    for frame_idx, rgb in frames:
        np.testing.assert_array_equal(rgb, expected[frame_idx])


def test_a_reader_that_stops_early_ends_its_threads(videos: Any) -> None:
    thread_count = threading.active_count()
    frames = read_frames(videos("no B-frames"), [3, 23, 43, 63], threads=3)
    assert next(frames)[0] == 3
    frames.close()  # type: ignore[attr-defined]
    assert threading.active_count() == thread_count


def test_probe_reports_the_properties(videos: Any) -> None:
    info = probe(videos("portrait"))
    assert (info.frames, info.frames_present, info.height, info.width) == (70, 70, 240, 176)
    assert (info.codec, info.fps) == ("h264", pytest.approx(30, abs=0.01))
    assert probe(videos("29.97")).fps == pytest.approx(29.97, abs=0.01)
    assert probe(videos("HEVC")).codec == "hevc"


def test_requests_may_repeat_and_be_unsorted(videos: Any) -> None:
    assert list(read_numbers(videos("B-frames"), [41, 3, 41, 0])) == [0, 3, 41]
    assert read_numbers(videos("B-frames"), []) == {}


@pytest.mark.parametrize("skipped", [3, 20, 27])
def test_frames_before_the_edit_are_not_counted(tmp_path: Path, skipped: int) -> None:
    path = write_video(tmp_path / "video.mp4", FRAMES, options=MEDIUM)
    trim_with_edit_list(path, ticks=skipped * 512)
    numbers = [number_in(rgb) for rgb in every_frame(path)]
    assert numbers == list(range(skipped, FRAMES))
    assert read_numbers(path, range(len(numbers))) == dict(enumerate(numbers))
    assert probe(path).frames == FRAMES - skipped


def test_frames_whose_references_were_cut_off_are_not_counted(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", FRAMES, **KINDS["open groups"])
    cut = tmp_path / "cut.mp4"
    _copy_from_second_group(whole, cut)
    numbers = [number_in(rgb) for rgb in every_frame(cut)]
    assert numbers[0] == 20
    assert read_numbers(cut, range(len(numbers))) == dict(enumerate(numbers))
    assert probe(cut).frames == len(numbers)


def _copy_from_second_group(whole: Path, cut: Path) -> None:
    import av

    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        keys = 0
        for packet in source.demux(video=0):
            keys += packet.is_keyframe
            if keys >= 2 and packet.dts is not None:
                packet.stream = stream
                target.mux(packet)


@pytest.mark.parametrize(
    ("matrix", "orient"),
    [
        ((0, ONE, -ONE, 0), lambda rgb: np.rot90(rgb, -1)),
        ((-ONE, 0, 0, -ONE), lambda rgb: np.rot90(rgb, 2)),
        ((0, -ONE, ONE, 0), lambda rgb: np.rot90(rgb)),
        ((-ONE, 0, 0, ONE), lambda rgb: rgb[:, ::-1]),
        ((ONE, 0, 0, -ONE), lambda rgb: rgb[::-1]),
        ((0, ONE, ONE, 0), lambda rgb: rgb.transpose(1, 0, 2)),
    ],
    ids=["clockwise", "half", "counter-clockwise", "mirrored", "upside down", "transposed"],
)
def test_frames_follow_the_display_matrix(tmp_path: Path, matrix: Any, orient: Any) -> None:
    a, b, c, d = matrix
    nine = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    path = write_video(tmp_path / "video.mp4", 3, options=MEDIUM, matrix=nine)
    [(_, rgb)] = read_frames(path, [2])
    np.testing.assert_array_equal(rgb, orient(every_frame(path)[2]))
    assert (probe(path).height, probe(path).width) == rgb.shape[:2]


def test_the_display_matrix_is_applied_like_opencv(tmp_path: Path) -> None:
    nine = [0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30]
    path = write_video(tmp_path / "video.mp4", 1, options=MEDIUM, matrix=nine)
    _, bgr = cv2.VideoCapture(str(path)).read()
    [(_, rgb)] = read_frames(path, [0])
    np.testing.assert_array_equal(rgb, bgr[..., ::-1])


BT709, BT601, LIMITED, FULL = 1, 5, 1, 2


@pytest.mark.parametrize("colour", [(BT709, LIMITED), (BT709, FULL), (BT601, LIMITED)])
def test_colours_follow_the_stream(tmp_path: Path, colour: tuple[int, int]) -> None:
    path = write_video(tmp_path / "video.mp4", 1, options={"crf": "1"}, colour=colour)
    [(_, rgb)] = read_frames(path, [0])
    original = picture(0, height=120, width=176)
    assert np.abs(rgb.astype(int) - original).mean() < 3
    np.testing.assert_array_equal(rgb, every_frame(path)[0])


def test_colours_of_an_unspecified_matrix_are_those_of_opencv(videos: Any) -> None:
    _, bgr = cv2.VideoCapture(str(videos("B-frames"))).read()
    [(_, rgb)] = read_frames(videos("B-frames"), [0])
    np.testing.assert_array_equal(rgb, bgr[..., ::-1])


def test_frames_beyond_the_end_are_reported_after_all_others(videos: Any) -> None:
    frame_idxs = []
    with pytest.raises(MissingFrames, match=r"frames 70, 500; frame 70: beyond the video's end"):
        for frame_idx, _ in read_frames(videos("B-frames"), [500, 69, 70]):
            frame_idxs.append(frame_idx)
    assert frame_idxs == [69]
    with pytest.raises(DataError, match="-1 is not a frame index"):
        next(read_frames(videos("B-frames"), [-1]))


def read_available(
    path: Path, frame_idxs: range, **options: Any
) -> tuple[dict[int, Any], dict[int, str]]:
    """The available frames, and the reasons why the others are missing."""
    frames = {}
    try:
        for frame_idx, rgb in read_frames(path, frame_idxs, **options):
            frames[frame_idx] = rgb
    except MissingFrames as error:
        return frames, error.reasons
    return frames, {}


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.5, 0.77, 0.95])
@pytest.mark.parametrize("kind", ["B-frames", "open groups"])
def test_a_truncated_video_yields_the_frames_that_it_contains(
    tmp_path: Path, kind: str, share: float
) -> None:
    path = write_video(
        tmp_path / "video.mp4", FRAMES, **KINDS[kind], container_options={"movflags": "faststart"}
    )
    expected = every_frame(path)
    truncate(path, share=share)
    frames, reasons = read_available(path, range(FRAMES))
    assert sorted([*frames, *reasons]) == list(range(FRAMES))
    assert all("truncated" in reason for reason in reasons.values())
    assert len(frames) >= probe(path).frames_present - 4  # those whose reference is cut off
    for frame_idx, rgb in frames.items():
        np.testing.assert_array_equal(rgb, expected[frame_idx])


def test_a_truncated_video_without_index_is_rejected(tmp_path: Path) -> None:
    path = truncate(write_video(tmp_path / "video.mp4", 20, options=MEDIUM), share=0.6)
    with pytest.raises(DataError, match="has no index .* download it again"):
        next(read_frames(path, [0]))


# Entropy coding has no checksums, so some damage decodes to another valid picture and cannot be
# detected by any decoder. These cases can be detected.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "packet", "keep"),
    [
        ("no B-frames", 24, 0),
        ("B-frames", 24, 0),  # a reference frame
        ("B-frames", 24, 6),
        ("B-frames", 24, 40),
        ("B-frames", 26, 0),  # not a reference frame
        ("open groups", 20, 0),  # the keyframe
        ("open groups", 24, 0),
        ("open groups", 39, 0),
        ("HEVC", 29, 0),
        ("HEVC", 29, 6),
        ("HEVC, open groups", 21, 0),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_frames_affected_by_damage_are_never_returned(
    tmp_path: Path, kind: str, packet: int, keep: int, threads: int
) -> None:
    path = write_video(tmp_path / "video.mp4", FRAMES, **KINDS[kind])
    expected = every_frame(path)
    damage(path, packet, keep=keep)
    frames, reasons = read_available(path, range(FRAMES), threads=threads)
    assert sorted([*frames, *reasons]) == list(range(FRAMES))
    assert 1 <= len(reasons) <= 24  # at most a group and the next one's leading frames
    assert all("damaged" in reason for reason in reasons.values())
    few_frames, few_reasons = read_available(path, range(4, FRAMES, 11), threads=3)
    assert sorted([*few_frames, *few_reasons]) == list(range(4, FRAMES, 11))
    assert set(few_reasons) <= set(reasons)
    for frame_idx, rgb in chain(frames.items(), few_frames.items()):
        np.testing.assert_array_equal(rgb, expected[frame_idx])


def test_only_needed_packets_are_decoded(videos: Any) -> None:
    report = ReadReport()
    read_numbers(videos("no B-frames"), [0], report=report)
    assert (report.packets, report.packets_read) == (70, 1)
    read_numbers(videos("B-frames"), [45], report=report)
    assert report.packets_read < 6  # from the keyframe at 40 to 45, without non-reference frames


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 60, height=480, width=640, options={"g": "10"})
    sizes = []
    gc.disable()  # pictures must be freed without it: each is megabytes, but only one object
    try:
        for _, _ in read_frames(path, range(60), threads=2):
            sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
    finally:
        gc.enable()
    picture_bytes = 640 * 480 * 3 // 2
    assert sizes[-1] - sizes[20] < 10 * picture_bytes
