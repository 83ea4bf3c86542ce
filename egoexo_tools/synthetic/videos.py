"""Writing the release's videos: H.264, yuv420p, 30 fps, each with its 448-pixel copy."""

from contextlib import ExitStack
from fractions import Fraction
from types import TracebackType

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from egoexo_tools.layout import DOWNSCALED_448, Release, atomic_path
from egoexo_tools.synthetic.options import EGO_HW, EXO_HW, FPS
from egoexo_tools.vocab import View, view_of

_X264 = {"preset": "ultrafast", "crf": "19", "bf": "2"}
"""Fast, with B frames: their order in the file is not the order of presentation, as in the
real videos."""


class CameraVideo:
    """The two files of one camera; they appear under their names when the block ends well."""

    def __init__(
        self, release: Release, take_name: str, camera: str, *, hw: tuple[int, int], gop: int
    ) -> None:
        self._paths = {
            release.video(take_name, camera): hw,
            release.video(take_name, camera, short_side=DOWNSCALED_448): small_hw(camera, hw),
        }
        self._gop = gop
        self._outputs: list[tuple[av.container.OutputContainer, av.VideoStream]] = []
        self._stack = ExitStack()

    def __enter__(self) -> "CameraVideo":
        with ExitStack() as stack:
            for path, hw in self._paths.items():
                partial = stack.enter_context(atomic_path(path))
                container = stack.enter_context(av.open(str(partial), "w", format="mp4"))
                self._outputs.append((container, _add_stream(container, hw, self._gop)))
            self._stack = stack.pop_all()
        return self

    def write(self, rgb: NDArray[np.uint8]) -> None:
        """Append a frame (H, W, 3)."""
        yuv = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420), dtype=np.uint8)
        frame = av.VideoFrame.from_ndarray(yuv, format="yuv420p")
        for container, stream in self._outputs:
            sized = frame.reformat(stream.width, stream.height, interpolation="BILINEAR")
            sized.pts = None
            container.mux(stream.encode(sized))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            for container, stream in self._outputs:
                container.mux(stream.encode(None))
        self._stack.__exit__(kind, error, trace)


def small_hw(camera: str, hw: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the 448-pixel copy: ego 448x448, exo 448x796 (upright 796x448)."""
    real = EGO_HW if view_of(camera) is View.EGO else EXO_HW
    long_side = 2 * (DOWNSCALED_448 * max(real) // min(real) // 2)
    return (long_side, DOWNSCALED_448) if hw[0] > hw[1] else (DOWNSCALED_448, long_side)


def _add_stream(
    container: av.container.OutputContainer, hw: tuple[int, int], gop: int
) -> av.VideoStream:
    stream = container.add_stream("libx264", rate=FPS, options={**_X264, "g": str(gop)})
    stream.height, stream.width = hw
    stream.pix_fmt = "yuv420p"
    stream.time_base = Fraction(1, FPS)
    stream.codec_context.thread_count = 1
    return stream
