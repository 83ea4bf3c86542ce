"""Checkpoints of SAM 2.1 and of LM-EEC: every name, and every file that is something else."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from lm_eec_networks import SMALL, drawn_state, small_network  # noqa: E402

from egoexo_tools.errors import DataError  # noqa: E402
from omama.lm_eec.config import NetworkConfig  # noqa: E402
from omama.lm_eec.naming import file_names, to_file  # noqa: E402
from omama.lm_eec.network import build_network  # noqa: E402


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
def test_names(ours, theirs):
    assert file_names(ours) == (theirs,)


def test_a_network_is_written_and_read_in_the_files_names():
    network = small_network()
    state = to_file(network.state_dict())
    assert len(state) == 321
    again = build_network(SMALL, state).state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(again[name], tensor), name


def test_base_plus_has_the_published_number_of_parameters():
    """The random matrix of point positions is no parameter in theirs either."""
    with torch.device("meta"):
        from omama.lm_eec.network import LmEecNetwork

        network = LmEecNetwork(NetworkConfig.base_plus())
    assert sum(parameter.numel() for parameter in network.parameters()) == 83_604_226


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
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
def test_a_state_that_does_not_fit_is_refused_by_name(change, says):
    state = drawn_state(SMALL)
    change(state)
    with pytest.raises(DataError, match=re.escape(says)):
        build_network(SMALL, state)


def test_only_the_fusion_may_be_missing_where_it_is_to_be_trained():
    state = {k: v for k, v in drawn_state(SMALL).items() if not k.startswith("MV_MoE.")}
    network = build_network(SMALL, state, fusion=False)
    assert torch.equal(network.sam.no_object_pointer, state["no_obj_ptr"])
    del state["no_obj_ptr"]
    with pytest.raises(DataError, match="no_obj_ptr"):
        build_network(SMALL, state, fusion=False)


def test_another_width_is_refused():
    with pytest.raises(DataError, match="another variant"):
        build_network(replace(SMALL, embed_dim=32), drawn_state(SMALL))
