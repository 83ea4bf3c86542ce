"""Small LM-EEC networks with random weights that make every part matter; shared by its tests."""

from dataclasses import replace
from functools import cache

import torch

from omama.checkpoint import Checkpoint, save_checkpoint
from omama.lm_eec.config import NetworkConfig
from omama.lm_eec.naming import to_file
from omama.lm_eec.network import build_network
from omama.lm_eec.weights import METHOD

SMALL = replace(NetworkConfig.tiny(), image_size=64, attention_layers=1, attention_hidden=32)
"""Four by four tokens: a frame takes milliseconds."""


def random_state(config, *, seed=0):
    """Random weights in SAM 2.1's names, with open gates and a visible object."""
    generator = torch.Generator().manual_seed(seed)
    state = to_file(build_network(config, None).state_dict())
    for key in sorted(state):
        shape = state[key].shape
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            values /= max(1, shape[1:].numel()) ** 0.5
        else:
            values = 0.1 * values + (key.endswith("weight"))
        state[key] = values
    state["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += 3
    return state


@cache
def small_network():
    return build_network(SMALL, random_state(SMALL))


def save_network(path, network, config=None):
    """Write one of our checkpoints, with other settings than the network's if `config` is given."""
    config = config or network.config
    save_checkpoint(Checkpoint(config.to_dict(), network.state_dict(), METHOD), path)
    return path


def random_track(frames, *, seed=0, empty=(), size=SMALL.image_size):
    """Pictures of both views and source masks of one track; `empty` frames have no mask."""
    generator = torch.Generator().manual_seed(seed)
    source, dest = torch.randn((2, frames, 3, size, size), generator=generator)
    masks = (torch.rand((frames, size, size), generator=generator) > 0.6).float()
    masks[list(empty)] = 0
    return source, dest, masks
