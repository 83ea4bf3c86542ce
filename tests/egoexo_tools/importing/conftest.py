"""Fixtures of the import tests."""

from pathlib import Path

import pytest
from own_pictures import SMALL, SMALL_SQUARE, save, save_picture

from egoexo_tools.layout import DatasetRoot


@pytest.fixture
def root(tmp_path: Path) -> DatasetRoot:
    """An empty root."""
    return DatasetRoot(tmp_path / "root")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tmp_path / "photos"


@pytest.fixture
def take(photos: Path) -> Path:
    """A take of 48x64 pictures with a 10x10 cup in both views."""
    take = photos / "kitchen"
    for camera in ("ego", "phone"):
        save_picture(take / camera / "1.png", **SMALL)
        save(take / camera / "1" / "cup.png", SMALL_SQUARE * 255)
    return take
