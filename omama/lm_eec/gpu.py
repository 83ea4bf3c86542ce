"""The network on a device, and one sentence where the device is too small or too full for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from egoexo_tools.errors import DataError
from omama.lm_eec.network import LmEecNetwork


def on_device(network: LmEecNetwork, device: torch.device) -> LmEecNetwork:
    """The network, moved; DataError where the GPU has no room for it."""
    try:
        return network.to(device)
    except torch.OutOfMemoryError as error:
        size = sum(value.nbytes for value in network.state_dict().values()) / 2**20
        raise DataError(
            f"the GPU has no room for the network's {size:.0f} MiB of weights: wait for what else"
            " runs on it, or choose another with CUDA_VISIBLE_DEVICES"
        ) from error


@contextmanager
def explain_full_gpu(doing: str, smaller: str | None) -> Iterator[None]:
    """Turns a full GPU into DataError: what was done, and the options that need less of it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        advice = f"try {smaller}" if smaller else "wait for what else runs on it, or use a larger"
        raise DataError(f"the GPU ran out of memory with {doing}; {advice}") from error
