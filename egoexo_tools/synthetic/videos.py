"""Writes the release's videos: H.264, yuv420p, 30 fps, each with a 448-pixel copy."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from egoexo_tools.arrays import Bytes
from egoexo_tools.layout import DOWNSCALED_448, Release
from egoexo_tools.synthetic.options import EGO_HW, EXO_HW
from egoexo_tools.video.writer import open_video, to_frame
from egoexo_tools.vocab import FPS, View, view_of

_X264 = {"preset": "ultrafast", "crf": "19", "bf": "2"}
"""Fast. With B-frames, so that, as in the real videos, frames are not stored in presentation
order."""


@contextmanager
def open_camera_videos(
    release: Release, take_name: str, camera: str, *, hw: tuple[int, int], gop: int
) -> Iterator[Callable[[Bytes], None]]:
    """Yield a function that appends an image (H, W, 3) to both files of a camera."""
    sizes = {None: hw, DOWNSCALED_448: small_hw(camera, hw)}
    options = {**_X264, "g": str(gop)}
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                open_video(
                    release.video(take_name, camera, short_side=short_side),
                    hw=size,
                    fps=FPS,
                    options=options,
                )
            )
            for short_side, size in sizes.items()
        ]

        def write(rgb: Bytes) -> None:
            frame = to_frame(rgb)
            for writer in writers:
                writer.write_frame(frame)

        yield write


def small_hw(camera: str, hw: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the 448-pixel copy: ego 448x448, exo 448x796 or, if upright, 796x448."""
    real = EGO_HW if view_of(camera) is View.EGO else EXO_HW
    long_side = 2 * (DOWNSCALED_448 * max(real) // min(real) // 2)
    return (long_side, DOWNSCALED_448) if hw[0] > hw[1] else (DOWNSCALED_448, long_side)
