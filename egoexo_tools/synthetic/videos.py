"""Writes the release's videos: H.264, yuv420p, 30 fps, each with a 448-pixel copy."""

from contextlib import ExitStack
from types import TracebackType

from egoexo_tools.arrays import Bytes
from egoexo_tools.layout import DOWNSCALED_448, Release
from egoexo_tools.synthetic.options import EGO_HW, EXO_HW
from egoexo_tools.video.writer import VideoWriter, to_frame
from egoexo_tools.vocab import FPS, View, view_of

_X264 = {"preset": "ultrafast", "crf": "19", "bf": "2"}
"""Fast. With B-frames, so that, as in the real videos, frames are not stored in presentation
order."""


class CameraVideo:
    """The two files of one camera; they get their names when the `with` block ends."""

    def __init__(
        self, release: Release, take_name: str, camera: str, *, hw: tuple[int, int], gop: int
    ) -> None:
        sizes = {None: hw, DOWNSCALED_448: small_hw(camera, hw)}
        self._writers = [
            VideoWriter(
                release.video(take_name, camera, short_side=short_side),
                hw=size,
                fps=FPS,
                options={**_X264, "g": str(gop)},
            )
            for short_side, size in sizes.items()
        ]
        self._stack = ExitStack()

    def __enter__(self) -> "CameraVideo":
        with ExitStack() as stack:
            for writer in self._writers:
                stack.enter_context(writer)
            self._stack = stack.pop_all()
        return self

    def write(self, rgb: Bytes) -> None:
        """Append an image (H, W, 3)."""
        frame = to_frame(rgb)
        for writer in self._writers:
            writer.write_frame(frame)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def small_hw(camera: str, hw: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the 448-pixel copy: ego 448x448, exo 448x796 or, if upright, 796x448."""
    real = EGO_HW if view_of(camera) is View.EGO else EXO_HW
    long_side = 2 * (DOWNSCALED_448 * max(real) // min(real) // 2)
    return (long_side, DOWNSCALED_448) if hw[0] > hw[1] else (DOWNSCALED_448, long_side)
