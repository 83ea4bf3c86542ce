"""Fixtures of the tests of egoexo_tools."""

import shutil
from pathlib import Path

import pytest
from tiny_root import make_tiny_root

from egoexo_tools.layout import DatasetRoot


@pytest.fixture(scope="session")
def root_template(tmp_path_factory: pytest.TempPathFactory) -> DatasetRoot:
    """The tiny root of squares; read it, do not write to it."""
    return make_tiny_root(tmp_path_factory.mktemp("template") / "root")


@pytest.fixture
def root(root_template: DatasetRoot, tmp_path: Path) -> DatasetRoot:
    """A copy of the tiny root that the test may change."""
    return DatasetRoot(Path(shutil.copytree(root_template.path, tmp_path / "root")))
