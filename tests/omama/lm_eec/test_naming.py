"""Names of tensors in the network and in files, and states that do not fit."""

import re
from dataclasses import replace

import pytest
import torch
from lm_eec_networks import SMALL, random_state, small_network

from egoexo_tools.errors import DataError
from omama.lm_eec.naming import file_names, to_file
from omama.lm_eec.network import build_network


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("fusion.conv1.0.weight", "MV_MoE.conv1.0.weight"),
        ("sam.no_object_pointer", "no_obj_ptr"),
        (
            "sam.vision_encoder.backbone.blocks.2.mlp.proj_out.bias",
            "image_encoder.trunk.blocks.2.mlp.layers.1.bias",
        ),
        ("sam.vision_encoder.neck.convs.3.bias", "image_encoder.neck.convs.3.conv.bias"),
        (
            "sam.memory_encoder.mask_downsampler.layers.3.layer_norm.weight",
            "memory_encoder.mask_downsampler.encoder.10.weight",
        ),
        ("sam.memory_encoder.memory_fuser.layers.1.scale", "memory_encoder.fuser.layers.1.gamma"),
        (
            "sam.mask_decoder.output_hypernetworks_mlps.3.proj_out.weight",
            "sam_mask_decoder.output_hypernetworks_mlps.3.layers.2.weight",
        ),
        ("sam.object_pointer_proj.layers.0.bias", "obj_ptr_proj.layers.1.bias"),
        ("sam.memory_attention.layer_norm.weight", "memory_attention.norm.weight"),
    ],
)
def test_tensors_have_sams_names_in_files(ours, theirs):
    assert file_names(ours) == (theirs,)


def test_a_network_survives_the_round_trip_through_file_names():
    network = small_network()
    state = to_file(network.state_dict())
    assert len(state) == 321
    again = build_network(SMALL, state).state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(again[name], tensor), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("no_obj_ptr"), "lack no_obj_ptr"),
        (lambda state: state.update(cat=torch.zeros(1)), "have the unknown cat"),
        (lambda state: state.pop("MV_MoE.mlp1.0.bias"), "lack MV_MoE.mlp1.0.bias"),
        (
            lambda state: state.update(no_obj_ptr=torch.zeros(1, 8)),
            "no_obj_ptr has the shape (1, 8), the network expects (1, 256)",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_rejected_with_a_name(change, message):
    state = random_state(SMALL)
    change(state)
    with pytest.raises(DataError, match=re.escape(message)):
        build_network(SMALL, state)


def test_only_the_fusion_may_be_missing_before_training():
    state = {k: v for k, v in random_state(SMALL).items() if not k.startswith("MV_MoE.")}
    network = build_network(SMALL, state, fusion=False)
    assert torch.equal(network.sam.no_object_pointer, state["no_obj_ptr"])
    del state["no_obj_ptr"]
    with pytest.raises(DataError, match="no_obj_ptr"):
        build_network(SMALL, state, fusion=False)


def test_another_width_is_rejected():
    with pytest.raises(DataError, match="another variant"):
        build_network(replace(SMALL, embed_dim=32), random_state(SMALL))
