"""Fixtures of LM-EEC's tests. All of them are skipped without transformers."""

import sys
from pathlib import Path

import pytest
from lm_eec_networks import save_network, small_network
from squares_root import make_squares_root
from tiny_root import make_tiny_root

sys.path.append(str(Path(__file__).parents[3] / "scripts"))  # plain_lm_eec, the slow twin


@pytest.fixture(autouse=True, scope="session")
def transformers():
    return pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory):
    """Two objects, three cameras; too short for training. Copy it before changing it."""
    return make_tiny_root(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def squares_root(tmp_path_factory):
    """A moving square in nine frames, for training. Copy it before changing it."""
    return make_squares_root(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint of `small_network`."""
    return save_network(tmp_path_factory.mktemp("weights") / "small.pt", small_network())


@pytest.fixture
def encoded_pictures(monkeypatch) -> list[int]:
    """Number of pictures in each pass of the encoder."""
    counts: list[int] = []
    network = type(small_network())
    encode = network.encode_images

    def count(self, images):
        counts.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(network, "encode_images", count)
    return counts
