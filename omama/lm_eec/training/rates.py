"""How fast each part of the network learns, and what is dropped and computed twice meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from omama.lm_eec.network import LmEecNetwork
from omama.lm_eec.settings import LmEecTrainConfig
from omama.task import ParameterGroup

# Each block of the trunk learns at this share of the next one's rate.
LAYER_DECAY = 0.9
# The last rate of a run against its first.
FINAL_SHARE = 0.1
_ENCODER = "sam.vision_encoder."
_TRUNK = "sam.vision_encoder.backbone."


def parameter_groups(network: LmEecNetwork, config: LmEecTrainConfig) -> list[ParameterGroup]:
    """All parameters that learn, by rate and weight decay; the rest of the network first."""
    undecayed = _undecayed(network)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if name in undecayed else config.weight_decay
            rate = config.learning_rate * _share(name, network, config)
            groups.setdefault((rate, decay), []).append(parameter)
    return [
        ParameterGroup(parameters, rate, rate * FINAL_SHARE, weight_decay=decay)
        for (rate, decay), parameters in sorted(groups.items(), key=lambda group: -group[0][0])
    ]


def recompute_blocks(network: LmEecNetwork) -> None:
    """In training the trunk's blocks keep their inputs alone, and compute the rest again."""
    for block in network.sam.vision_encoder.backbone.blocks:
        block.gradient_checkpointing = True
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def add_stochastic_depth(network: LmEecNetwork) -> None:
    """In training a block's two branches are left out for some pictures, the later the likelier.

    transformers' trunk has no stochastic depth, so that it is added to what the branches answer.
    """
    backbone, highest = network.sam.vision_encoder.backbone, network.config.stochastic_depth
    if not highest:
        return
    here = _Here()
    backbone.register_forward_pre_hook(here.count, with_kwargs=True)
    last = max(1, len(backbone.blocks) - 1)
    for number, block in enumerate(backbone.blocks):
        drop = partial(_drop, here=here, rate=highest * number / last)
        block.attn.register_forward_hook(drop)
        block.mlp.register_forward_hook(drop)


@dataclass
class _Here:
    """How many pictures are in the trunk: attention sees windows, several of each picture."""

    pictures: int = 1

    def count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.pictures = len(args[0] if args else kwargs["pixel_values"])


def _drop(
    module: nn.Module, args: Any, output: torch.Tensor, *, here: _Here, rate: float
) -> torch.Tensor:
    if not module.training or not rate:
        return output
    kept = torch.full((here.pictures,), 1 - rate, device=output.device).bernoulli() / (1 - rate)
    windows = kept.repeat_interleave(len(output) // here.pictures)
    return output * windows.to(output.dtype).view(-1, *[1] * (output.ndim - 1))


def _share(name: str, network: LmEecNetwork, config: LmEecTrainConfig) -> float:
    """Of the learning rate, for one parameter."""
    if not name.startswith(_ENCODER):
        return 1.0
    blocks = sum(network.config.blocks)
    part = name.removeprefix(_TRUNK).split(".")
    exponent = 0
    if name.startswith(_TRUNK) and part[0] == "patch_embed":
        exponent = blocks + 1
    elif name.startswith(_TRUNK) and part[0] == "blocks":
        exponent = blocks - int(part[1])
    return config.image_encoder_share * LAYER_DECAY**exponent


def _undecayed(network: LmEecNetwork) -> set[str]:
    """Biases, and what a plain LayerNorm scales by; those over channels of maps do decay."""
    norms = {
        f"{name}.weight" for name, module in network.named_modules() if type(module) is nn.LayerNorm
    }
    return norms | {name for name, _ in network.named_parameters() if "bias" in name}
