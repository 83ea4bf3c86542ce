"""Writes videos: H.264 in MP4, yuv420p, which every player supports.

The file gets its name when the `with` block ends; an error leaves no file behind.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np

from egoexo_tools.arrays import Bytes
from egoexo_tools.errors import DataError
from egoexo_tools.layout import atomic_path


class VideoWriter:
    """A video of `hw` = (height, width) pixels, both even, at `fps` frames per second."""

    def __init__(
        self,
        path: Path,
        *,
        hw: tuple[int, int],
        fps: int = 30,
        options: Mapping[str, str] | None = None,
        threads: int = 1,
    ) -> None:
        if hw[0] % 2 or hw[1] % 2 or min(hw) < 2:
            raise DataError(f"a video of {hw[1]}x{hw[0]} pixels cannot be written; use even sides")
        self._path, self._hw, self._fps = path, hw, fps
        self._options, self._threads = dict(options or {}), threads
        self._stack = ExitStack()

    def __enter__(self) -> "VideoWriter":
        with ExitStack() as stack:
            partial = stack.enter_context(atomic_path(self._path))
            self._container = stack.enter_context(av.open(str(partial), "w", format="mp4"))
            stream = self._container.add_stream("libx264", rate=self._fps, options=self._options)
            stream.height, stream.width = self._hw
            stream.pix_fmt = "yuv420p"
            stream.time_base = Fraction(1, self._fps)
            stream.codec_context.thread_count = self._threads
            self._stream = stream
            self._stack = stack.pop_all()
        return self

    def write(self, rgb: Bytes) -> None:
        """Append an image (H, W, 3); other sizes are scaled to that of the video."""
        self.write_frame(to_frame(rgb))

    def write_frame(self, frame: av.VideoFrame) -> None:
        """Append a result of `to_frame`, so that several writers can share one conversion."""
        sized = frame.reformat(self._stream.width, self._stream.height, interpolation="BILINEAR")
        sized.pts = None
        self._container.mux(self._stream.encode(sized))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._container.mux(self._stream.encode(None))
        self._stack.__exit__(kind, error, trace)


def to_frame(rgb: Bytes) -> av.VideoFrame:
    """An image (H, W, 3) with even sides as yuv420p."""
    yuv = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420), dtype=np.uint8)
    return av.VideoFrame.from_ndarray(yuv, format="yuv420p")
