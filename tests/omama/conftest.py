"""A trained model of the squares that several test modules predict with."""

from dataclasses import replace
from pathlib import Path

import pytest
from square_trainings import CONFIG, train_run

from egoexo_tools.layout import DatasetRoot


@pytest.fixture(scope="session")
def checkpoint(featured_root: DatasetRoot) -> Path:
    """O-MaMa for ego2exo on rgb_grid features."""
    return train_run(featured_root, "trained", replace(CONFIG, epochs=4))
