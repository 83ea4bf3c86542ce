"""Fixtures that several test modules use."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Exact answers of the reference systems; not part of the repository."""
    folder = SHARED / "goldens"
    if not folder.is_dir():
        pytest.skip(f"no goldens at {folder}")
    return folder


@pytest.fixture(scope="session")
def home_pairs() -> Path:
    """32 real pairs with their published scores; not part of the repository."""
    folder = SHARED / "fixtures" / "home_pairs"
    if not folder.is_dir():
        pytest.skip(f"no fixture at {folder}")
    return folder
