"""Frames out of videos: the right ones, whole ones, and nothing else read."""

import gc
import threading
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_factory import (
    damage,
    every_frame,
    number_in,
    picture,
    trim_with_edit_list,
    truncate,
    write_video,
)

from egoexo_tools.errors import DataError
from egoexo_tools.video.frames import MissingFrames, ReadReport, probe, read_frames
from egoexo_tools.video.packets import PacketIndex
from egoexo_tools.video.source import open_source

FRAMES = 70
MEDIUM = {"preset": "medium", "bf": "3", "g": "20"}
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
    "fragments": {
        "options": MEDIUM,
        "container_options": {"movflags": "frag_keyframe+empty_moov"},
    },
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


def numbers(path: Path | str, frame_idxs: Any, **options: Any) -> dict[int, int]:
    """frame_idx → the number in its pixels."""
    return {idx: number_in(rgb) for idx, rgb in read_frames(path, frame_idxs, **options)}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name of a kind → its video, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("videos")

    def video(kind: str) -> Path:
        path = folder / f"{kind}.mp4"
        return path if path.exists() else write_video(path, FRAMES, **KINDS[kind])

    return video


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_frame_carries_its_number(videos: Any, kind: str, threads: int) -> None:
    got = numbers(videos(kind), range(FRAMES), threads=threads)
    assert list(got.items()) == [(idx, idx) for idx in range(FRAMES)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_alone_is_the_one_of_a_whole_decode(videos: Any, kind: str) -> None:
    expected = every_frame(videos(kind))
    for frame_idx in (0, 1, 17, 19, 21, 37, 38, 39, 41, 58, 69):
        [(idx, rgb)] = read_frames(videos(kind), [frame_idx], threads=2)
        assert idx == frame_idx
        np.testing.assert_array_equal(rgb, expected[frame_idx])


@pytest.mark.parametrize("kind", KINDS)
def test_groups_decoded_side_by_side_give_the_same(videos: Any, kind: str) -> None:
    expected = every_frame(videos(kind))
    wanted = [3, 17, 29, 42, 55, 68]
    got = list(read_frames(videos(kind), wanted, threads=3))
    assert [frame_idx for frame_idx, _ in got] == wanted
    for frame_idx, rgb in got:
        np.testing.assert_array_equal(rgb, expected[frame_idx])


def test_a_reader_that_stops_early_leaves_no_thread(videos: Any) -> None:
    before = threading.active_count()
    frames = read_frames(videos("no B-frames"), [3, 23, 43, 63], threads=3)
    assert next(frames)[0] == 3
    frames.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_info(videos: Any) -> None:
    info = probe(videos("portrait"))
    assert (info.frames, info.frames_present, info.height, info.width) == (70, 70, 240, 176)
    assert (info.codec, info.fps) == ("h264", pytest.approx(30, abs=0.01))
    assert probe(videos("29.97")).fps == pytest.approx(29.97, abs=0.01)
    assert probe(videos("HEVC")).codec == "hevc"


def test_duplicates_and_disorder_in_what_is_wanted(videos: Any) -> None:
    assert list(numbers(videos("B-frames"), [41, 3, 41, 0])) == [0, 3, 41]
    assert numbers(videos("B-frames"), []) == {}


@pytest.mark.parametrize("skipped", [3, 20, 27])
def test_frames_before_the_edit_are_not_counted(tmp_path: Path, skipped: int) -> None:
    path = write_video(tmp_path / "video.mp4", FRAMES, options=MEDIUM)
    trim_with_edit_list(path, ticks=skipped * 512)
    shown = [number_in(rgb) for rgb in every_frame(path)]
    assert shown == list(range(skipped, FRAMES))
    assert numbers(path, range(len(shown))) == dict(enumerate(shown))
    assert probe(path).frames == FRAMES - skipped


def test_frames_that_build_on_what_was_cut_off_are_not_counted(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", FRAMES, **KINDS["open groups"])
    cut = tmp_path / "cut.mp4"
    _copy_from_second_group(whole, cut)
    shown = [number_in(rgb) for rgb in every_frame(cut)]
    assert shown[0] == 20
    assert numbers(cut, range(len(shown))) == dict(enumerate(shown))
    assert probe(cut).frames == len(shown)


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
    ("matrix", "shown"),
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
def test_turned_as_the_display_matrix_asks(tmp_path: Path, matrix: Any, shown: Any) -> None:
    a, b, c, d = matrix
    nine = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    path = write_video(tmp_path / "video.mp4", 3, options=MEDIUM, matrix=nine)
    [(_, rgb)] = read_frames(path, [2])
    np.testing.assert_array_equal(rgb, shown(every_frame(path)[2]))
    assert (probe(path).height, probe(path).width) == rgb.shape[:2]


def test_turned_like_opencv(tmp_path: Path) -> None:
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


def test_colours_like_opencv_where_the_stream_names_none(videos: Any) -> None:
    _, bgr = cv2.VideoCapture(str(videos("B-frames"))).read()
    [(_, rgb)] = read_frames(videos("B-frames"), [0])
    np.testing.assert_array_equal(rgb, bgr[..., ::-1])


def test_a_number_beyond_the_end_is_named_after_the_rest_came(videos: Any) -> None:
    got = []
    with pytest.raises(MissingFrames, match=r"frames 70, 500; frame 70: beyond the video's end"):
        for frame_idx, _ in read_frames(videos("B-frames"), [500, 69, 70]):
            got.append(frame_idx)
    assert got == [69]
    with pytest.raises(DataError, match="-1 is no frame number"):
        next(read_frames(videos("B-frames"), [-1]))


def split(path: Path, wanted: range, **options: Any) -> tuple[dict[int, Any], dict[int, str]]:
    """The frames that come, and the reasons for those that do not."""
    got = {}
    try:
        for frame_idx, rgb in read_frames(path, wanted, **options):
            got[frame_idx] = rgb
    except MissingFrames as error:
        return got, error.reasons
    return got, {}


@pytest.mark.parametrize("share", [0.3, 0.5, 0.77, 0.95])
@pytest.mark.parametrize("kind", ["B-frames", "open groups"])
def test_a_truncated_video_gives_what_it_holds(tmp_path: Path, kind: str, share: float) -> None:
    path = write_video(
        tmp_path / "video.mp4", FRAMES, **KINDS[kind], container_options={"movflags": "faststart"}
    )
    expected = every_frame(path)
    truncate(path, share=share)
    got, reasons = split(path, range(FRAMES))
    assert sorted([*got, *reasons]) == list(range(FRAMES))
    assert all("truncated" in reason for reason in reasons.values())
    assert len(got) >= probe(path).frames_present - 4  # those whose reference is cut off
    for frame_idx, rgb in got.items():
        np.testing.assert_array_equal(rgb, expected[frame_idx])


def test_a_truncated_video_without_its_index(tmp_path: Path) -> None:
    path = truncate(write_video(tmp_path / "video.mp4", 20, options=MEDIUM), share=0.6)
    with pytest.raises(DataError, match="has no index .* download it again"):
        next(read_frames(path, [0]))


# Entropy coding without checksums lets some damage pass as another valid picture: no decoder can
# tell. These are cases that one can.
@pytest.mark.parametrize(
    ("kind", "packet", "keep"),
    [
        ("no B-frames", 24, 0),
        ("B-frames", 24, 0),  # a frame that others refer to
        ("B-frames", 24, 6),
        ("B-frames", 24, 40),
        ("B-frames", 26, 0),  # one that none refers to
        ("open groups", 20, 0),  # the keyframe
        ("open groups", 24, 0),
        ("open groups", 39, 0),
        ("HEVC", 29, 0),
        ("HEVC", 29, 6),
        ("HEVC, open groups", 21, 0),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_damage_spreads_to_no_frame_that_is_given(
    tmp_path: Path, kind: str, packet: int, keep: int, threads: int
) -> None:
    path = write_video(tmp_path / "video.mp4", FRAMES, **KINDS[kind])
    expected = every_frame(path)
    damage(path, packet, keep=keep)
    got, reasons = split(path, range(FRAMES), threads=threads)
    assert sorted([*got, *reasons]) == list(range(FRAMES))
    assert 1 <= len(reasons) <= 24  # at most a group and the next one's leading frames
    assert all("damaged" in reason for reason in reasons.values())
    few, lost = split(path, range(4, FRAMES, 11), threads=3)
    assert sorted([*few, *lost]) == list(range(4, FRAMES, 11))
    assert set(lost) <= set(reasons)
    for frame_idx, rgb in chain(got.items(), few.items()):
        np.testing.assert_array_equal(rgb, expected[frame_idx])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.mp4", b""),
        ("text.mp4", b"no video at all, only text" * 50),
        ("box.mp4", b"\0" * 99),
        ("list.mp4", b"#EXTM3U\n#EXTINF:1\n/etc/passwd\n"),
    ],
)
def test_files_that_are_no_videos(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=name):
        probe(path)
    with pytest.raises(DataError, match="there is no video"):
        next(read_frames(tmp_path / "other.mp4", [0]))


def test_other_containers_are_read_from_the_beginning(tmp_path: Path) -> None:
    for suffix in ("mkv", "ts"):
        path = write_video(tmp_path / f"video.{suffix}", 50, options=MEDIUM)
        assert numbers(path, [0, 7, 33, 49]) == {0: 0, 7: 7, 33: 33, 49: 49}


def test_only_what_is_needed_is_decoded(videos: Any) -> None:
    report = ReadReport()
    numbers(videos("no B-frames"), [0], report=report)
    assert (report.packets, report.packets_read) == (70, 1)
    numbers(videos("B-frames"), [45], report=report)
    assert report.packets_read < 6  # at most five past the keyframe at 40, less those in between


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 60, height=480, width=640, options={"g": "10"})
    sizes = []
    gc.disable()  # nothing may wait for the collector: a picture is megabytes, but one object
    try:
        for _, _ in read_frames(path, range(60), threads=2):
            sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
    finally:
        gc.enable()
    picture_bytes = 640 * 480 * 3 // 2
    assert sizes[-1] - sizes[20] < 10 * picture_bytes


class Ranges(BaseHTTPRequestHandler):
    """Serves one folder, with byte ranges; counts what it sends."""

    protocol_version = "HTTP/1.1"
    sent = 0
    ignores_ranges = False
    breaks = 0
    """How many more answers end in the middle, with the connection."""

    def __init__(self, *args: Any, folder: Path) -> None:
        self.folder = folder
        super().__init__(*args)

    def do_GET(self) -> None:
        path = self.folder / urlsplit(self.path).path.lstrip("/")
        if not path.exists():
            self.send_error(404)
            return
        data = path.read_bytes()
        first, last = 0, len(data) - 1
        if not self.ignores_ranges:
            low, high = self.headers["Range"].removeprefix("bytes=").split("-")
            first, last = int(low), min(int(high), last)
        self.send_response(200 if self.ignores_ranges else 206)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        if Ranges.breaks:
            Ranges.breaks -= 1
            last = first + (last - first) // 2
            self.close_connection = True
        Ranges.sent += last - first + 1
        self.wfile.write(data[first : last + 1])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of tmp_path."""
    Ranges.sent, Ranges.ignores_ranges, Ranges.breaks = 0, False, 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, folder=tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("kind", ["faststart", "B-frames", "fragments"])
def test_a_url_costs_the_groups_that_are_needed(tmp_path: Path, served: str, kind: str) -> None:
    path = write_video(
        tmp_path / "video.mp4",
        120,
        height=240,
        width=320,
        options={**MEDIUM, "preset": "ultrafast", "crf": "8"},
        container_options=KINDS[kind].get("container_options"),
    )
    report = ReadReport()
    url = f"{served}/video.mp4?signature=secret"
    assert numbers(url, [63, 65], report=report) == {63: 63, 65: 65}
    assert report.bytes_total == path.stat().st_size
    assert report.bytes_read == Ranges.sent
    assert report.share_saved > 0.75
    assert probe(url) == probe(path)


@pytest.mark.parametrize("breaks", [1, 2])
def test_a_range_that_breaks_off_is_asked_for_again(
    tmp_path: Path, served: str, breaks: int
) -> None:
    path = write_video(tmp_path / "video.mp4", 60, height=240, width=320, options={"crf": "8"})
    Ranges.breaks = breaks
    assert numbers(f"{served}/video.mp4", [0, 31]) == {0: 0, 31: 31}
    Ranges.breaks = breaks
    assert probe(f"{served}/video.mp4") == probe(path)
    Ranges.breaks = 99
    (tmp_path / "video.mp4").write_bytes(path.read_bytes() + bytes(1 << 20))
    with pytest.raises(DataError, match="4 times"):
        probe(f"{served}/video.mp4")


def test_a_url_behind_a_proxy(tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "video.mp4", 5)
    monkeypatch.setenv("http_proxy", served)
    url = "http://videos.invalid/video.mp4?signature=secret"
    assert numbers(url, [3]) == {3: 3}  # asked of the proxy, which knows the folder
    monkeypatch.setenv("no_proxy", "videos.invalid")
    with pytest.raises(DataError, match="cannot be read"):
        probe(url)


@pytest.mark.slow
def test_a_presigned_url_of_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        s3 = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        path = write_video(
            tmp_path / "video.mp4", 120, height=240, width=320, options={**MEDIUM, "crf": "8"}
        )
        s3.create_bucket(Bucket="release")
        s3.upload_file(str(path), "release", "takes/video.mp4")
        key = {"Bucket": "release", "Key": "takes/video.mp4"}
        report = ReadReport()
        url = s3.generate_presigned_url("get_object", Params=key)
        assert numbers(url, [63], report=report) == {63: 63}
        assert report.bytes_total == path.stat().st_size
        assert report.share_saved > 0.3
        gone = s3.generate_presigned_url("get_object", Params={**key, "Key": "none"})
        with pytest.raises(DataError, match="answered 404"):
            probe(gone)
    finally:
        server.stop()


def test_what_a_server_can_answer(tmp_path: Path, served: str) -> None:
    write_video(tmp_path / "video.mp4", 5)
    with pytest.raises(DataError, match=r"answered 404; there is no such file") as caught:
        probe(f"{served}/other.mp4?signature=secret")
    assert "secret" not in str(caught.value)
    Ranges.ignores_ranges = True
    with pytest.raises(DataError, match="ignores byte ranges"):
        probe(f"{served}/video.mp4")
    with pytest.raises(DataError, match="cannot be read"):
        probe("http://127.0.0.1:1/video.mp4")


times = st.lists(st.integers(0, 6), min_size=1, max_size=30)


@given(times, st.lists(st.booleans(), min_size=30, max_size=30), st.data())
def test_runs_hold_what_is_wanted_and_where_it_starts(
    jitter: list[int], keys: list[bool], data: st.DataObject
) -> None:
    packets = len(jitter)
    index = PacketIndex.build(
        position=range(packets),
        size=[1] * packets,
        pts=[10 * idx + 7 * late for idx, late in enumerate(jitter)],
        is_key=[True, *keys][:packets],
        is_shown=[True] * packets,
    )
    wanted = data.draw(st.sets(st.integers(0, packets - 1)))
    runs = index.spans(wanted)
    assert sorted(idx for run in runs for idx in run.frame_idxs) == sorted(wanted)
    for before, after in zip(runs, runs[1:], strict=False):
        assert before.stop <= after.start
    for run in runs:
        for frame_idx in run.frame_idxs:
            packet = index.decode_idx[frame_idx]
            assert run.start <= index.start_of(packet) <= packet < run.stop
        assert index.is_key[run.start]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_letter_in_a_tag_that_is_none_costs_nothing(suffix: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / f"video{suffix}", 5)
    data = path.read_bytes()
    assert b"Lavf" in data
    path.write_bytes(data.replace(b"Lavf", b"L\x83vf"))
    assert probe(path).frames == 5


def test_a_video_without_any_size_is_damaged(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 5, codec="mpeg4")
    data = bytearray(path.read_bytes())
    entry, header, setup, pictures = map(data.index, (b"mp4v", b"tkhd", b"esds", b"mdat"))
    for start, length in (
        (entry + 28, 4), (header + 80, 8), (setup + 4, 36), (pictures + 4, 56),
    ):  # fmt: skip
        data[start : start + length] = bytes(length)
    path.write_bytes(data)
    with pytest.raises(DataError, match="names no size, and its first picture cannot be decoded"):
        probe(path)


def test_no_more_is_read_than_a_file_has(tmp_path: Path) -> None:
    """A damaged index may ask for terabytes, and the room would be taken before the first byte."""
    path = tmp_path / "short"
    path.write_bytes(b"abc")
    source = open_source(path)
    assert (source.read(1, 1 << 60), source.read(7, 1 << 60)) == (b"bc", b"")
    source.close()
