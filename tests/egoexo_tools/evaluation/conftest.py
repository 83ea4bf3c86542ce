"""The tiny root and the ground truth of its val take."""

from pathlib import Path

import pytest
from tiny_root import make_tiny_root

from egoexo_tools.evaluation.ground_truth import write_ground_truth
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.vocab import Direction, Split


@pytest.fixture
def root(tmp_path: Path) -> DatasetRoot:
    return make_tiny_root(tmp_path / "root")


@pytest.fixture
def truth(root: DatasetRoot, tmp_path: Path) -> Path:
    out = tmp_path / "gt.json"
    return write_ground_truth(root, direction=Direction.EXO2EGO, split=Split.VAL, out=out).path
