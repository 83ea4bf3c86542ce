"""Reads the pictures that `frames` and `import images` wrote.

Pictures from outside are `outside.pictures`' to read: these are our own files.
"""

from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from egoexo_tools.errors import DataError

Picture: TypeAlias = NDArray[np.uint8]
"""(H, W, 3), in the order red, green, blue."""


def open_picture(path: Path) -> Picture:
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
