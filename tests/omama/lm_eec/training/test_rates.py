"""Learning rates of the parameters, recomputation, and stochastic depth."""

import copy
from dataclasses import replace

import pytest
import torch
from lm_eec_networks import SMALL, random_track, small_network

from omama.lm_eec.config import NetworkConfig
from omama.lm_eec.naming import file_names
from omama.lm_eec.network import LmEecNetwork
from omama.lm_eec.settings import LmEecTrainConfig
from omama.lm_eec.training.losses import clip_losses, run_clips
from omama.lm_eec.training.rates import add_stochastic_depth, parameter_groups, recompute_blocks


def test_base_plus_learns_with_the_published_rates():
    with torch.device("meta"):
        network = LmEecNetwork(NetworkConfig.base_plus())
    groups = parameter_groups(network, LmEecTrainConfig())
    names = {id(p): file_names(name)[0] for name, p in network.named_parameters()}
    rates = {names[id(p)]: group for group in groups for p in group.parameters}
    trunk = "image_encoder.trunk"
    expected = {
        "MV_MoE.mlp1.0.weight": (5e-6, 0.1),
        "MV_MoE.mlp1.0.bias": (5e-6, 0.0),
        "maskmem_tpos_enc": (5e-6, 0.1),
        "image_encoder.neck.convs.0.conv.weight": (3e-6, 0.1),
        f"{trunk}.pos_embed": (3e-6, 0.1),
        f"{trunk}.patch_embed.proj.weight": (3e-6 * 0.9**25, 0.1),
        f"{trunk}.blocks.0.mlp.layers.0.weight": (3e-6 * 0.9**24, 0.1),
        f"{trunk}.blocks.23.norm1.weight": (3e-6 * 0.9, 0.0),
        "memory_encoder.fuser.layers.0.norm.weight": (5e-6, 0.1),
        "sam_mask_decoder.output_upscaling.1.weight": (5e-6, 0.1),
        "memory_attention.norm.weight": (5e-6, 0.0),
    }
    for name, (rate, decay) in expected.items():
        group = rates[name]
        assert group.learning_rate == pytest.approx(rate), name
        assert group.final_learning_rate == pytest.approx(rate / 10)
        assert group.weight_decay == decay, name
    trainable = [p for p in network.parameters() if p.requires_grad]
    assert len(rates) == len(trainable)


def test_recomputation_does_not_change_gradients():
    clip = random_track(3)
    gradients = []
    for recompute in (False, True):
        network = copy.deepcopy(small_network()).train()
        if recompute:
            recompute_blocks(network)
        source, dest, masks = (part[None] for part in clip)
        loss = clip_losses(network, run_clips(network, source, dest, masks), masks).total
        loss.backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@torch.no_grad()
def test_stochastic_depth_skips_branches_of_whole_pictures():
    network = LmEecNetwork(replace(SMALL, stochastic_depth=0.5)).eval()
    pictures = torch.randn(6, 3, 64, 64)
    plain = network.encode_images(pictures).stride16
    add_stochastic_depth(network)
    torch.testing.assert_close(network.encode_images(pictures).stride16, plain)
    network.train()
    torch.manual_seed(0)
    last = network.sam.vision_encoder.backbone.blocks[-1]
    outputs = []
    last.mlp.register_forward_hook(lambda module, args, output: outputs.append(output))
    network.encode_images(pictures)
    dropped = (outputs[0] == 0).flatten(1)
    assert (dropped.all(1) | ~dropped.any(1)).all()
    assert 0 < dropped.all(1).sum() < 6
