"""Moving a network to a GPU, and clear messages when the GPU's memory is too small or full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from egoexo_tools.errors import DataError
from omama.lm_eec.network import LmEecNetwork


def on_device(network: LmEecNetwork, device: torch.device) -> LmEecNetwork:
    """The network on the device; DataError if the GPU's memory has no room for it."""
    try:
        return network.to(device)
    except torch.OutOfMemoryError as error:
        # The size helps to choose a GPU; torch's own message is long and names an allocation.
        size = sum(value.nbytes for value in network.state_dict().values()) / 2**20
        raise DataError(
            f"the GPU has no room for the network's {size:.0f} MiB of weights: wait for the"
            " programs that use it, or choose another with CUDA_VISIBLE_DEVICES"
        ) from error


@contextmanager
def explain_full_gpu(work: str, smaller: str | None) -> Iterator[None]:
    """Turn a full GPU into a DataError that names the work and the options that need less memory.

    `smaller` are such options; None if there are none.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        other = "wait for the programs that use it, or use a larger GPU"
        advice = f"try {smaller}" if smaller else other
        raise DataError(f"the GPU ran out of memory with {work}; {advice}") from error
