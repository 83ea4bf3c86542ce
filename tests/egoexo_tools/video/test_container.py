"""Other containers than MP4, files that are not videos, and unusual headers."""

from pathlib import Path

import pytest
from video_factory import MEDIUM, read_numbers, write_video

from egoexo_tools.errors import DataError
from egoexo_tools.video.frames import probe, read_frames


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.mp4", b""),
        ("text.mp4", b"no video at all, only text" * 50),
        ("box.mp4", b"\0" * 99),
        ("list.mp4", b"#EXTM3U\n#EXTINF:1\n/etc/passwd\n"),
    ],
)
def test_files_that_are_not_videos_are_rejected(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=name):
        probe(path)
    with pytest.raises(DataError, match="there is no video"):
        next(read_frames(tmp_path / "other.mp4", [0]))


def test_frames_of_other_containers(tmp_path: Path) -> None:
    for suffix in ("mkv", "ts"):
        path = write_video(tmp_path / f"video.{suffix}", 50, options=MEDIUM)
        assert read_numbers(path, [0, 7, 33, 49]) == {0: 0, 7: 7, 33: 33, 49: 49}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_invalid_characters_in_a_tag_are_ignored(suffix: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / f"video{suffix}", 5)
    data = path.read_bytes()
    assert b"Lavf" in data
    path.write_bytes(data.replace(b"Lavf", b"L\x83vf"))
    assert probe(path).frames == 5


def test_a_video_without_frame_size_is_damaged(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 5, codec="mpeg4")
    data = bytearray(path.read_bytes())
    # Erase the sizes in the headers, and the sequence header that the decoder reads one from.
    entry, header, setup, pictures = map(data.index, (b"mp4v", b"tkhd", b"esds", b"mdat"))
    for start, length in (
        (entry + 28, 4), (header + 80, 8), (setup + 4, 36), (pictures + 4, 56),
    ):  # fmt: skip
        data[start : start + length] = bytes(length)
    path.write_bytes(data)
    with pytest.raises(
        DataError, match="has no frame size, and its first picture cannot be decoded"
    ):
        probe(path)
