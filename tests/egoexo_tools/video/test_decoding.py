"""Decoding of damaged videos, hidden frames, other containers and changing settings."""

import tempfile
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from changed_files import FEW_EXAMPLES
from hypothesis import given, settings
from hypothesis import strategies as st
from video_factory import every_frame, join_as_one_track, number_in, read_numbers, write_video

from egoexo_tools.errors import DataError
from egoexo_tools.video.container import VideoFile
from egoexo_tools.video.frames import MissingFrames, probe, read_frames

CASES = Path(__file__).parents[4] / "shared" / "cases"
CODECS = {"mp4": "libx264", "mkv": "libx264", "ts": "libx264", "webm": "libvpx"}
FRAMES = 12


@cache
def video(suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        options = {"preset": "", "deadline": "realtime"} if suffix == "webm" else {"g": "6"}
        path = Path(place) / f"x.{suffix}"
        return write_video(path, FRAMES, codec=CODECS[suffix], options=options).read_bytes()


def frames_of(data: bytes, suffix: str) -> tuple[dict[int, np.ndarray], dict[int, str]]:
    """The frames of a file, and the reasons for missing ones."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / f"x.{suffix}"
        path.write_bytes(data)
        frames: dict[int, np.ndarray] = {}
        try:
            for idx, rgb in read_frames(path, range(FRAMES), threads=1):
                frames[idx] = rgb
        except MissingFrames as error:
            assert str(path) in str(error)
            return frames, error.reasons
        except DataError as error:
            assert str(path) in str(error), error
            return frames, dict.fromkeys(range(FRAMES), str(error))
        return frames, {}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", CODECS)
@settings(FEW_EXAMPLES, max_examples=20)
@given(cut=st.integers(0, 40_000))
def test_a_video_that_is_cut_off_gives_correct_frames(suffix: str, cut: int) -> None:
    whole = video(suffix)
    frames, missing = frames_of(whole[: cut % len(whole)], suffix)
    for idx, rgb in frames.items():
        assert number_in(rgb) == idx
    if suffix == "mp4":  # its index gives the number of frames
        assert set(frames) | set(missing) == set(range(FRAMES))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", CODECS)
@settings(FEW_EXAMPLES, max_examples=25)
@given(changes=st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 255)), max_size=4))
def test_a_video_with_changed_bytes_is_read_or_refused_by_name(
    suffix: str, changes: list[tuple[int, int]]
) -> None:
    """Codecs have no checksum: a picture may be wrong, but it is a picture, and nothing crashes."""
    data = bytearray(video(suffix))
    for position, value in changes:
        data[position % len(data)] = value
    frames, missing = frames_of(bytes(data), suffix)
    assert all(rgb.ndim == 3 and rgb.dtype == np.uint8 for rgb in frames.values())
    assert not set(frames) & set(missing)
    if bytes(data) == video(suffix):
        assert [number_in(frames[idx]) for idx in range(FRAMES)] == list(range(FRAMES))


def test_vp8_frames_that_are_never_shown_are_not_counted(tmp_path: Path) -> None:
    path = CASES / "vp8_hidden_frames.webm"
    if not path.is_file():
        path = write_video(
            tmp_path / "hidden.webm",
            60,
            codec="libvpx",
            options={"auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k", "preset": ""},
        )
        with av.open(str(path)) as container:
            packets = sum(1 for packet in container.demux(video=0) if packet.size)
        if packets == 60:
            pytest.skip("this encoder hides no frames")
    expected = every_frame(path)
    info = probe(path)
    assert info.frames == len(expected) and info.fps > 1
    frames = dict(read_frames(path, range(info.frames)))
    assert len(frames) == len(expected)
    assert all(np.abs(frames[i].astype(int) - expected[i]).max() <= 2 for i in frames)


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_decoding_of_other_containers_starts_near_the_requested_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = write_video(tmp_path / f"x.{suffix}", 90, options={"g": "15"})
    info = probe(path)
    assert info.frames == 90 and abs(info.fps - 30) < 0.1 and abs(info.duration_seconds - 3) < 0.05
    from_start = lambda self, run: pytest.fail("from the start")  # noqa: E731
    monkeypatch.setattr(VideoFile, "_from_beginning", from_start)
    assert read_numbers(path, [31, 32, 50, 89]) == {31: 31, 32: 32, 50: 50, 89: 89}


def test_a_video_whose_settings_change_gives_every_frame(tmp_path: Path) -> None:
    small = write_video(tmp_path / "a.mp4", 12, height=120, width=176)
    large = write_video(tmp_path / "b.mp4", 12, height=144, width=192)
    path = join_as_one_track(tmp_path / "both.mp4", small, large)
    frames = dict(read_frames(path, range(24)))
    assert [number_in(frames[i]) for i in range(24)] == [*range(12), *range(12)]
    assert {frames[0].shape, frames[23].shape} == {(120, 176, 3), (144, 192, 3)}
    assert [number_in(rgb) for _, rgb in read_frames(path, [20, 3])] == [3, 8]
