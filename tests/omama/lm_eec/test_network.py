"""LM-EEC's network: the fusion against its slow twin, and the published size."""

import torch
from plain_lm_eec import plain_fusion

from omama.lm_eec.config import NetworkConfig
from omama.lm_eec.network import LmEecNetwork, ViewFusion


@torch.no_grad()
def test_fusion_equals_the_plain_twin():
    torch.manual_seed(0)
    fusion = ViewFusion(8)
    memory, view = torch.randn(2, 3, 8, 4, 5)
    torch.testing.assert_close(fusion(memory, view), plain_fusion(fusion, memory, view))
    assert sorted(fusion.state_dict()) == [
        "conv1.0.weight", "conv1.2.weight", "conv2.0.weight", "conv2.2.weight",
        "mlp1.0.bias", "mlp1.0.weight", "mlp1.2.bias", "mlp1.2.weight",
        "mlp2.0.bias", "mlp2.0.weight", "mlp2.2.bias", "mlp2.2.weight",
    ]  # fmt: skip


def test_base_plus_has_the_published_number_of_parameters():
    """The random matrix of point positions is not a parameter in the released code either."""
    with torch.device("meta"):
        network = LmEecNetwork(NetworkConfig.base_plus())
    assert sum(parameter.numel() for parameter in network.parameters()) == 83_604_226
