"""Writes videos: H.264 in MP4, yuv420p, which every player supports.

The file gets its name when the `with` block ends; an error leaves no file behind.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import OutputContainer

from egoexo_tools.arrays import Bytes
from egoexo_tools.errors import DataError
from egoexo_tools.layout import atomic_path


@dataclass(frozen=True)
class VideoWriter:
    """An open video; `open_video` creates one."""

    container: OutputContainer
    stream: av.VideoStream

    def write(self, rgb: Bytes) -> None:
        """Append an image (H, W, 3); other sizes are scaled to that of the video."""
        self.write_frame(to_frame(rgb))

    def write_frame(self, frame: av.VideoFrame) -> None:
        """Append a result of `to_frame`, so that several writers can share one conversion."""
        sized = frame.reformat(self.stream.width, self.stream.height, interpolation="BILINEAR")
        sized.pts = None
        self.container.mux(self.stream.encode(sized))


@contextmanager
def open_video(
    path: Path, *, hw: tuple[int, int], fps: int = 30, options: Mapping[str, str] | None = None
) -> Iterator[VideoWriter]:
    """A video of `hw` = (height, width) pixels, both even, at `fps` frames per second.

    `options` are those of libx264.
    """
    if hw[0] % 2 or hw[1] % 2 or min(hw) < 2:
        raise DataError(f"a video of {hw[1]}x{hw[0]} pixels cannot be written; use even sides")
    with atomic_path(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=dict(options or {}))
        stream.height, stream.width = hw
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        # x264's output depends on its number of threads, and must not depend on the machine.
        stream.codec_context.thread_count = 1
        yield VideoWriter(container, stream)
        container.mux(stream.encode(None))


def to_frame(rgb: Bytes) -> av.VideoFrame:
    """An image (H, W, 3) with even sides as yuv420p."""
    yuv = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420), dtype=np.uint8)
    return av.VideoFrame.from_ndarray(yuv, format="yuv420p")
