"""Writes the pictures of `frames`, and reads them and those of `import images`.

Pictures from outside are `parsing.pictures`' to read: these are our own files.
"""

from pathlib import Path

import cv2
import numpy as np

from egoexo_tools.arrays import Rgb
from egoexo_tools.errors import DataError
from egoexo_tools.layout import write_atomic

_ROWS_AT_ONCE = 128


def read_image(path: Path) -> Rgb:
    """A kept frame as RGB; DataError where it was not cut out or cannot be read."""
    # OpenCV writes a warning of its own to stderr for a path that is not there.
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if bgr is not None:
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
    if path.is_file():
        raise DataError(
            f"{path} cannot be read as a picture; run `egoexo-tools frames --overwrite`"
        )
    raise DataError(f"{path} is missing; run `egoexo-tools frames` again")


def write_jpeg(path: Path, rgb: Rgb, *, scale: float, quality: int) -> tuple[int, int]:
    """Write the picture at `scale`; returns its height and width. At full size `rgb` is used up."""
    # int() and OpenCV's default, bilinear without antialiasing: the official script's own steps,
    # so that pictures are those that published models have seen.
    height, width = max(1, int(rgb.shape[0] * scale)), max(1, int(rgb.shape[1] * scale))
    small = rgb if scale == 1 else np.asarray(cv2.resize(rgb, (width, height)), np.uint8)
    _, data = cv2.imencode(".jpg", _turned_to_bgr(small), [cv2.IMWRITE_JPEG_QUALITY, quality])
    write_atomic(path, data.data)
    return height, width


def _turned_to_bgr(rgb: Rgb) -> Rgb:
    """The same array, its channels in the other order: a second picture would be 25 MB at 4K."""
    for top in range(0, len(rgb), _ROWS_AT_ONCE):
        rows = rgb[top : top + _ROWS_AT_ONCE]
        rows[:] = cv2.cvtColor(rows, cv2.COLOR_RGB2BGR)
    return rgb
