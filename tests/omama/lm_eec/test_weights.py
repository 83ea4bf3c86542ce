"""Checkpoint files: SAM 2.1's, the authors' two kinds, ours, and others."""

import re

import pytest
import torch
from lm_eec_networks import random_state, save_network, small_network

from egoexo_tools.errors import DataError
from omama.checkpoint import Checkpoint, save_checkpoint
from omama.lm_eec.config import NetworkConfig
from omama.lm_eec.weights import load_network

TINY = NetworkConfig.tiny()
WIDTH = "image_encoder.trunk.patch_embed.proj.weight"


@pytest.fixture(scope="module")
def state():
    return random_state(TINY)


def without_fusion(state):
    return {key: value for key, value in state.items() if not key.startswith("MV_MoE.")}


def save(tmp_path, content):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "optimizer": {}, "epoch": 3, "loss": {}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
    ],
    ids=["bare", "checkpoint.pt", "<epoch>.pth"],
)
def test_the_authors_files_are_read(tmp_path, state, wrap):
    loaded = load_network(save(tmp_path, wrap(state)))
    assert loaded.checkpoint is None and loaded.network.config == TINY
    assert torch.equal(loaded.network.fusion.conv1[0].weight, state["MV_MoE.conv1.0.weight"])


def test_sam_without_a_fusion_is_only_for_training(tmp_path, state):
    path = save(tmp_path, {"model": without_fusion(state)})
    network = load_network(path, to_train=True).network
    assert torch.equal(network.sam.no_object_pointer, state["no_obj_ptr"])
    with pytest.raises(DataError, match="without LM-EEC's fusion: train it first"):
        load_network(path)


def test_our_checkpoint_is_read(tmp_path):
    network = small_network()
    loaded = load_network(save_network(tmp_path / "own.pt", network))
    assert loaded.network.config == network.config
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value)


def changed(state, **tensors):
    return {**state, **{WIDTH if k == "width" else k: v for k, v in tensors.items()}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda s: {
                k: v
                for k, v in s.items()
                if not k.startswith(("no_obj_embed_spatial", "obj_ptr_tpos"))
            },
            "is SAM 2, not SAM 2.1",
        ),
        (lambda s: changed(s, width=torch.zeros(144, 3, 7, 7)), "is SAM 2.1 large, not base-plus"),
        (lambda s: changed(s, width=torch.zeros(96, 3, 7, 7)), "small or tiny, not base-plus"),
        (lambda s: changed(s, width=torch.zeros(8, 3, 7, 7)), "8 channels, base-plus has 112"),
        (lambda s: {"pos_embed_T": torch.zeros(1), "pos_embed_Q": torch.zeros(1)}, "of O-MaMa"),
        (lambda s: {"fc.weight": torch.zeros(1)}, "is not a SAM 2.1 checkpoint"),
        (lambda s: {"epoch": 3}, "holds no weights by name"),
        (lambda s: {k: v for k, v in s.items() if k != "no_obj_ptr"}, "lack no_obj_ptr"),
        (lambda s: {k: v for k, v in s.items() if k != "MV_MoE.mlp1.0.bias"}, "lack MV_MoE.mlp1"),
    ],
)
def test_other_files_are_rejected_with_a_message(tmp_path, state, content, message):
    path = save(tmp_path, content(state))
    for to_train in (False, True):
        with pytest.raises(DataError, match=re.escape(message)) as caught:
            load_network(path, to_train=to_train)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_checkpoint_of_another_method_is_rejected(tmp_path):
    save_checkpoint(Checkpoint({}, {}, method="o-mama"), tmp_path / "other.pt")
    with pytest.raises(DataError, match="a checkpoint of o-mama, not of lm-eec"):
        load_network(tmp_path / "other.pt")


def test_a_file_with_code_is_rejected(tmp_path):
    path = save(tmp_path, {"model": re.compile("x")})
    with pytest.raises(DataError, match="more than tensors"):
        load_network(path)
