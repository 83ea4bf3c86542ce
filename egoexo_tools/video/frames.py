"""Reads exact frames from a video and decodes only what they need.

A frame's index is its rank in presentation time among the frames that a player shows, so B-frames,
open groups, edit lists, start times and variable frame rates do not change it. `container` reads
the packets of the file, `packets` computes which ones a frame needs, and `decoding` decodes them.
Memory holds a few pictures besides the decoders' own. A URL is read by byte ranges.

Pictures are RGB, uint8, (H, W, 3), rotated and mirrored according to the file's display matrix,
and converted with the stream's colour range and matrix (BT.601 if unspecified, as in FFmpeg).
Errors are not concealed: a frame with damaged or missing packets is reported, never approximated.
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
    """Properties of a video, from its index."""

    frames: int
    """Number of frames that a player shows."""
    frames_present: int
    """Number of these frames whose bytes the file contains; smaller if the file is truncated."""
    height: int
    """As displayed, in pixels."""
    width: int
    """As displayed, in pixels."""
    fps: float
    """Mean frame rate."""
    duration_seconds: float
    codec: str
    """FFmpeg's name, such as h264 or hevc."""
    groups: int
    """Number of keyframes."""
    size_bytes: int


@dataclass
class ReadReport:
    """The cost of reading; `read_frames` fills it in."""

    packets: int = 0
    """Packets in the video."""
    packets_read: int = 0
    """Packets sent to the decoder."""
    bytes_total: int = 0
    bytes_read: int = 0

    @property
    def share_saved(self) -> float:
        """Share of the file that was not read, 0 to 1."""
        return 1 - self.bytes_read / self.bytes_total if self.bytes_total else 0.0


class MissingFrames(DataError):
    """Some requested frames are unavailable; raised after all others were yielded."""

    def __init__(self, name: str, reasons: dict[int, str], frames: int) -> None:
        self.name = name
        self.frames = frames
        """The number of frames that the video's index lists."""
        self.reasons = dict(sorted(reasons.items()))
        """frame_idx → why it is unavailable."""
        first, reason = next(iter(self.reasons.items()))
        numbers = ", ".join(str(frame_idx) for frame_idx in list(self.reasons)[:10])
        more = f" and {len(self.reasons) - 10} more" if len(self.reasons) > 10 else ""
        super().__init__(f"{name} lacks frames {numbers}{more}; frame {first}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return MissingFrames, (self.name, self.reasons, self.frames)


def probe(path: str | Path) -> VideoInfo:
    """Properties of a video, from its index and its first picture.

    Raises DataError if `path` (a file or a URL) is not a readable video.
    """
    with _open(path, threads=1) as video:
        file, index = video.file, video.file.index
        height, width = video.shown_hw()
        seconds = file.duration_seconds
        return VideoInfo(
            frames=index.frames,
            frames_present=int(file.is_complete[index.decode_idx].sum()),
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
    """Yield (frame_idx, rgb uint8 (H, W, 3)) of the requested frames, ascending, each once.

    `path` is a file or an http(s) URL of a server that supports byte ranges, such as a presigned
    S3 URL. `threads` is the number of decoding threads, by default all cores.

    Raises DataError if the video cannot be read. Raises MissingFrames at the end, with numbers and
    reasons, if requested frames are missing or damaged.
    """
    requested = sorted({int(frame_idx) for frame_idx in frame_idxs})
    if requested and requested[0] < 0:
        raise DataError(f"{requested[0]} is not a frame index; indices start at 0")
    report = report if report is not None else ReadReport()
    with _open(path, threads=threads or available_cores()) as video:
        file, total = video.file, video.file.index.frames
        errors = {
            frame_idx: f"beyond the video's end (it has {total} frames)"
            for frame_idx in requested
            if frame_idx >= total
        }
        try:
            yield from video.pictures([idx for idx in requested if idx < total], errors)
        finally:
            report.packets = len(file.index.pts)
            report.packets_read = video.decoder.packets_read
            report.bytes_total = file.source.size
            report.bytes_read = file.source.bytes_read
    if errors:
        raise MissingFrames(file.source.name, errors, total)


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
    """An open video with pictures as a player shows them."""

    def __init__(self, file: VideoFile, threads: int) -> None:
        self.file = file
        self.decoder = FrameDecoder(file, threads)
        self._orientation: tuple[bool, bool, bool] | None = None

    def shown_hw(self) -> tuple[int, int]:
        """Height and width of the first picture, or of the index if there is no picture."""
        for _, rgb in self.pictures([0] if self.file.index.frames else [], {}):
            return rgb.shape[0], rgb.shape[1]
        if not all(self.file.codec_hw):
            raise DataError(
                f"{self.file.source.name} has no frame size, and its first picture cannot be "
                "decoded; the file is damaged"
            )
        return self.file.codec_hw

    def pictures(self, frame_idxs: list[int], errors: dict[int, str]) -> Iterator[tuple[int, Rgb]]:
        """Yield the requested frames, ascending; add those that cannot be decoded to `errors`."""
        with closing(self.decoder.frames(frame_idxs, errors)) as frames:
            # map, not a loop: a loop variable would keep each frame until the next one.
            yield from map(self._to_rgb, frames)

    def _to_rgb(self, indexed_frame: tuple[int, av.VideoFrame]) -> tuple[int, Rgb]:
        """A frame's index, and its picture as a player shows it: (H, W, 3) uint8."""
        frame_idx, frame = indexed_frame
        height, width = frame.height, frame.width
        # FFmpeg converts with the colour range and matrix that the frame itself states.
        plane = frame.reformat(format="rgb24").planes[0]
        # A view of the frame's memory, if its rows have no padding: a copy takes 25 MB at 4K.
        rows = np.frombuffer(cast(Any, plane), np.uint8).reshape(height, plane.line_size)
        rgb = rows[:, : 3 * width].reshape(height, width, 3)
        if self._orientation is None:
            # Only once: reading side data keeps a frame in memory until garbage is collected.
            self._orientation = _orientation(frame)
        transpose, flip_rows, flip_columns = self._orientation
        rotated = rgb.transpose(1, 0, 2) if transpose else rgb
        flipped = rotated[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
        return frame_idx, np.ascontiguousarray(flipped)


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """The display matrix as steps: transpose, then flip rows, then flip columns."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    # 16.16 fixed point, rows (a, b, u), (c, d, v), (x, y, w): (x', y') = (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(bytes(cast(Any, matrix)), np.int32)[:5].tolist()
    transpose = abs(b) > abs(a)
    return (True, b < 0, c < 0) if transpose else (False, d < 0, a < 0)
