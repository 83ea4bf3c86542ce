"""Writes the images of extracted frames, and reads the images under a dataset root.

Images from outside a root are read by `parsing.pictures`.
"""

from pathlib import Path

import cv2
import numpy as np

from egoexo_tools.arrays import Rgb
from egoexo_tools.errors import DataError
from egoexo_tools.layout import write_atomic
from egoexo_tools.running.pictures import picture_digest

_ROWS_AT_ONCE = 128


def read_image(path: Path) -> Rgb:
    """An image of the root as RGB; DataError if it is missing or unreadable."""
    # For a path that does not exist, OpenCV would print a warning.
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if bgr is not None:
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
    if path.is_file():
        raise DataError(f"{path} is not a readable image; run `egoexo-tools frames --overwrite`")
    raise DataError(f"{path} is missing; run `egoexo-tools frames` again")


def write_jpeg(path: Path, rgb: Rgb, *, scale: float, quality: int) -> tuple[tuple[int, int], str]:
    """Write the image at `scale`, which at 1 overwrites `rgb`; returns (height, width), digest."""
    # int() and OpenCV's default, bilinear without antialiasing, are the steps of the official
    # script, so the images are those that published models were trained on.
    height, width = max(1, int(rgb.shape[0] * scale)), max(1, int(rgb.shape[1] * scale))
    scaled = rgb if scale == 1 else np.asarray(cv2.resize(rgb, (width, height)), np.uint8)
    # To BGR in place, in strips: a second image would take 25 MB at 4K.
    for top in range(0, len(scaled), _ROWS_AT_ONCE):
        rows = scaled[top : top + _ROWS_AT_ONCE]
        rows[:] = cv2.cvtColor(rows, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", scaled, [cv2.IMWRITE_JPEG_QUALITY, quality])
    write_atomic(path, data.data)
    return (height, width), picture_digest(data.data)
