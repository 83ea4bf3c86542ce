"""Learning rates of the network's parts, stochastic depth, recomputation in the backward pass."""

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

LAYER_DECAY = 0.9
"""Learning rate of a block of the trunk, relative to the block after it."""
FINAL_SHARE = 0.1
"""Learning rate at the end of a run, relative to its start."""
_ENCODER = "sam.vision_encoder."
_TRUNK = "sam.vision_encoder.backbone."


def parameter_groups(network: LmEecNetwork, config: LmEecTrainConfig) -> list[ParameterGroup]:
    """All trainable parameters, grouped by learning rate and weight decay, high rates first."""
    # No decay for biases and the scales of LayerNorm; those of 2d norms over maps do decay.
    undecayed = {name for name, _ in network.named_parameters() if "bias" in name}
    undecayed |= {
        f"{name}.weight" for name, module in network.named_modules() if type(module) is nn.LayerNorm
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if name in undecayed else config.weight_decay
            rate = config.learning_rate * _rate_share(name, network, config)
            groups.setdefault((rate, decay), []).append(parameter)
    return [
        ParameterGroup(parameters, rate, rate * FINAL_SHARE, weight_decay=decay)
        for (rate, decay), parameters in sorted(groups.items(), key=lambda group: -group[0][0])
    ]


def recompute_blocks(network: LmEecNetwork) -> None:
    """In training, keep only the inputs of the trunk's blocks and compute the rest again."""
    for block in network.sam.vision_encoder.backbone.blocks:
        block.gradient_checkpointing = True
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def add_stochastic_depth(network: LmEecNetwork) -> None:
    """In training, skip the two branches of a block for random pictures, later blocks more often.

    transformers' trunk has no stochastic depth, so hooks apply it to the branches' outputs.
    """
    backbone, highest = network.sam.vision_encoder.backbone, network.config.stochastic_depth
    if not highest:
        return
    counter = _PictureCounter()
    backbone.register_forward_pre_hook(counter.count, with_kwargs=True)
    last = max(1, len(backbone.blocks) - 1)
    for number, block in enumerate(backbone.blocks):
        drop = partial(_drop, counter=counter, rate=highest * number / last)
        block.attn.register_forward_hook(drop)
        block.mlp.register_forward_hook(drop)


@dataclass
class _PictureCounter:
    """Number of pictures in the trunk: its attention sees windows, several of each picture."""

    pictures: int = 1

    def count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.pictures = len(args[0] if args else kwargs["pixel_values"])


def _drop(
    module: nn.Module, args: Any, output: torch.Tensor, *, counter: _PictureCounter, rate: float
) -> torch.Tensor:
    if not module.training or not rate:
        return output
    # Divided by the probability of staying, so that the expectation does not change.
    pictures = counter.pictures
    factors = torch.full((pictures,), 1 - rate, device=output.device).bernoulli() / (1 - rate)
    by_window = factors.repeat_interleave(len(output) // pictures)
    return output * by_window.to(output.dtype).view(-1, *[1] * (output.ndim - 1))


def _rate_share(name: str, network: LmEecNetwork, config: LmEecTrainConfig) -> float:
    """Learning rate of a parameter, relative to `config.learning_rate`."""
    if not name.startswith(_ENCODER):
        return 1.0
    blocks = sum(network.config.blocks)
    part = name.removeprefix(_TRUNK).split(".")
    exponent = 0  # the neck, and the trunk's position embeddings
    if name.startswith(_TRUNK) and part[0] == "patch_embed":
        exponent = blocks + 1
    elif name.startswith(_TRUNK) and part[0] == "blocks":
        exponent = blocks - int(part[1])
    return config.image_encoder_share * LAYER_DECAY**exponent
