"""Exact frames out of a video, decoding only what they need.

A frame's number is its rank in presentation time among the frames that a player shows, so that
B-frames, open groups, edit lists, start times and uneven frame rates do not move it. What the file
holds is told by `container`, what has to be decoded for a frame by `packets`, and `decoding` does
it; memory holds a few pictures and the decoders' own. A URL works like a file, by byte ranges.

Pictures are RGB, uint8, (H, W, 3), turned and mirrored as the file's display matrix asks, in
the stream's own range and colour matrix (BT.601 where it names none, as FFmpeg does it).
Nothing is concealed: a frame whose packets are damaged or gone is named, never guessed.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from egoexo_tools.arrays import Rgb
from egoexo_tools.errors import DataError
from egoexo_tools.running.executors import available_cores
from egoexo_tools.video.container import VideoFile
from egoexo_tools.video.decoding import FrameDecoder
from egoexo_tools.video.source import open_source


@dataclass(frozen=True)
class VideoInfo:
    """What a video's index says."""

    frames: int
    """Frames that a player shows."""
    frames_present: int
    """Those of them whose bytes the file holds; fewer where it is truncated."""
    height: int
    """As shown, in pixels."""
    width: int
    fps: float
    """Mean rate."""
    duration_seconds: float
    codec: str
    """FFmpeg's name, such as h264 or hevc."""
    groups: int
    """Keyframes."""
    size_bytes: int


@dataclass
class ReadReport:
    """What reading cost; give one to `read_frames` to have it filled in."""

    packets: int = 0
    """Packets in the video."""
    packets_read: int = 0
    """Packets handed to the decoder."""
    bytes_total: int = 0
    bytes_read: int = 0

    @property
    def share_saved(self) -> float:
        """Part of the file that was not read, 0 to 1."""
        return 1 - self.bytes_read / self.bytes_total if self.bytes_total else 0.0


class MissingFrames(DataError):
    """Some wanted frames cannot be had; all the others were given before this was raised."""

    def __init__(self, name: str, reasons: dict[int, str], frames: int) -> None:
        self.name = name
        self.frames = frames
        """The number of frames that the video's index lists."""
        self.reasons = dict(sorted(reasons.items()))
        """frame_idx → why."""
        first, why = next(iter(self.reasons.items()))
        numbers = ", ".join(str(frame_idx) for frame_idx in list(self.reasons)[:10])
        more = f" and {len(self.reasons) - 10} more" if len(self.reasons) > 10 else ""
        super().__init__(f"{name} does not give frames {numbers}{more}; frame {first}: {why}")

    def __reduce__(self) -> tuple[Any, ...]:
        return MissingFrames, (self.name, self.reasons, self.frames)


def probe(path: str | Path) -> VideoInfo:
    """What a video holds, from its index and its first picture.

    Raises DataError where `path` (a file or a URL) is no readable video.
    """
    with _open(path, threads=1) as video:
        file, index = video.file, video.file.index
        height, width = video.shown_hw()
        seconds = file.duration_seconds
        return VideoInfo(
            frames=index.frames,
            frames_present=int(file.is_held[index.decode_idx].sum()),
            height=height,
            width=width,
            fps=index.frames / seconds if seconds else 0.0,
            duration_seconds=seconds,
            codec=file.codec,
            groups=len(index.keys),
            size_bytes=file.source.size,
        )


def read_frames(
    path: str | Path,
    frame_idxs: Iterable[int],
    *,
    threads: int | None = None,
    report: ReadReport | None = None,
) -> Iterator[tuple[int, Rgb]]:
    """Yield (frame_idx, rgb uint8 (H, W, 3)) of the wanted frames, ascending, each once.

    `path` is a file or an http(s) URL (of a server that answers byte ranges, S3 presigned URLs
    among them). `threads` is the most that decode: all cores by default, fewer where pictures
    are so large that memory would grow.

    Raises DataError where the video cannot be read, and at the end MissingFrames, with numbers
    and reasons, where it does not hold a wanted frame or holds it damaged.
    """
    wanted = sorted({int(frame_idx) for frame_idx in frame_idxs})
    if wanted and wanted[0] < 0:
        raise DataError(f"{wanted[0]} is no frame number; they start at 0")
    report = report if report is not None else ReadReport()
    with _open(path, threads=threads or available_cores()) as video:
        file, total = video.file, video.file.index.frames
        lost = {
            frame_idx: f"beyond the video's end (it has {total} frames)"
            for frame_idx in wanted
            if frame_idx >= total
        }
        try:
            yield from video.pictures([idx for idx in wanted if idx < total], lost)
        finally:
            report.packets = len(file.index.pts)
            report.packets_read = video.decoder.packets_read
            report.bytes_total = file.source.size
            report.bytes_read = file.source.bytes_read
    if lost:
        raise MissingFrames(file.source.name, lost, total)


@contextmanager
def _open(path: str | Path, *, threads: int) -> Iterator["_Video"]:
    source = open_source(path)
    try:
        try:
            file = VideoFile(source)
            yield _Video(file, threads)
            file.close()
        except av.error.FFmpegError as error:
            raise DataError(f"{source.name} is not a readable video ({error.strerror})") from error
    finally:
        source.close()


class _Video:
    """An open video whose pictures are shown as a player shows them."""

    def __init__(self, file: VideoFile, threads: int) -> None:
        self.file = file
        self.decoder = FrameDecoder(file, threads)
        self._orientation: tuple[bool, bool, bool] | None = None

    def shown_hw(self) -> tuple[int, int]:
        """Height and width of the first picture; what the index says if there is none."""
        for _, rgb in self.pictures([0] if self.file.index.frames else [], {}):
            return rgb.shape[0], rgb.shape[1]
        if not all(self.file.codec_hw):
            raise DataError(
                f"{self.file.source.name} names no size, and its first picture cannot be decoded; "
                "it is damaged"
            )
        return self.file.codec_hw

    def pictures(self, frame_idxs: list[int], lost: dict[int, str]) -> Iterator[tuple[int, Rgb]]:
        """Yield the wanted frames, ascending; those that cannot be decoded go to `lost`."""
        with closing(self.decoder.frames(frame_idxs, lost)) as frames:
            yield from map(self._shown, frames)

    def _shown(self, numbered: tuple[int, av.VideoFrame]) -> tuple[int, Rgb]:
        """A frame's number, and its picture as a player shows it: (H, W, 3) uint8."""
        frame_idx, frame = numbered
        height, width = frame.height, frame.width
        plane = frame.reformat(format="rgb24").planes[0]
        # The picture's own memory, where its rows lie without gaps: a copy would be 25 MB at 4K.
        rows = np.frombuffer(cast(Any, plane), np.uint8).reshape(height, plane.line_size)
        rgb = rows[:, : 3 * width].reshape(height, width, 3)
        if self._orientation is None:
            # Once: a frame whose side data was looked at stays in memory until the collector comes.
            self._orientation = _orientation(frame)
        transpose, flip_rows, flip_columns = self._orientation
        turned = rgb.transpose(1, 0, 2) if transpose else rgb
        flipped = turned[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
        return frame_idx, np.ascontiguousarray(flipped)


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """What the display matrix asks for: transpose, then flip rows, then flip columns."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    # 16.16 fixed point, rows (a, b, u), (c, d, v), (x, y, w): (x', y') = (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(bytes(cast(Any, matrix)), np.int32)[:5].tolist()
    transpose = abs(b) > abs(a)
    return (True, b < 0, c < 0) if transpose else (False, d < 0, a < 0)
