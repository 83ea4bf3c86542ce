"""Frames that a proposer reads."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from egoexo_tools.errors import DataError
from egoexo_tools.proposers import Frame


def test_an_unreadable_or_resized_image_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "0.jpg"
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="is not a readable image"):
        Frame(path, 4, 4).rgb()
    cv2.imwrite(str(path), np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(DataError, match="has 4x6 pixels, the frames manifest says 4x4"):
        Frame(path, 4, 4).rgb()
