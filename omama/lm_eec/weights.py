"""Networks from files: SAM 2.1's, the authors' two kinds, and our own checkpoints.

Every file is read by `torch.load(weights_only=True)` (checkpoint.load_file). Files of other
networks are rejected with a clear message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from egoexo_tools.errors import DataError
from omama.checkpoint import Checkpoint, is_ours, load_checkpoint, load_file
from omama.lm_eec.config import NetworkConfig
from omama.lm_eec.naming import FUSION_PREFIX
from omama.lm_eec.network import LmEecNetwork, build_network

METHOD = "lm-eec"
ACCEPTED_FILES = "sam2.1_hiera_base_plus.pt or a checkpoint of LM-EEC"
_ADVICE = f"give {ACCEPTED_FILES}"
_WIDTH = "image_encoder.trunk.patch_embed.proj.weight"
# Tensors of SAM 2.1 that SAM 2 does not have.
_NEW_IN_2_1 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight")
# Channels of the first stage → the variants that LM-EEC does not support.
_OTHER_VARIANTS = {144: "large", 96: "small or tiny"}


@dataclass(frozen=True)
class LoadedNetwork:
    """A network and the other content of its file."""

    network: LmEecNetwork
    checkpoint: Checkpoint | None
    """The checkpoint, if the file is one of ours; None for SAM 2.1's and the authors' files."""


def load_network(path: Path | str, *, to_train: bool = False) -> LoadedNetwork:
    """The network of a file, in evaluation mode on the CPU. Raises DataError for other files.

    With `to_train` the file may lack the fusion, as SAM 2.1's own file does: its weights are then
    random, from torch's current seed.
    """
    path = Path(path)
    content = load_file(path)
    if is_ours(content):
        return _load_ours(path)
    state = _read_state(content, path)
    config = _config_of(state, path)
    has_fusion = any(key.startswith(FUSION_PREFIX) for key in state)
    if not has_fusion and not to_train:
        raise DataError(
            f"{path} is SAM 2.1 without LM-EEC's fusion: train it first (omama train --method"
            f" {METHOD} --init {path.name}), or give the authors' checkpoint"
        )
    try:
        return LoadedNetwork(build_network(config, state, fusion=has_fusion), None)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _load_ours(path: Path) -> LoadedNetwork:
    checkpoint = load_checkpoint(path, method=METHOD)
    try:
        network = LmEecNetwork(NetworkConfig.from_dict(checkpoint.config))
        network.load_state_dict(dict(checkpoint.weights))
    except (DataError, RuntimeError) as error:
        raise DataError(f"{path} does not fit its own settings: {error}") from error
    return LoadedNetwork(network.eval(), checkpoint)


def _read_state(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The tensors by SAM 2.1's names; DataError for a file of another kind."""
    # SAM 2.1's file and the authors' checkpoints wrap the state; their exported weights do not.
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise DataError(f"{path} holds no weights by name; {_ADVICE}")
    # Weights that were saved from DistributedDataParallel have a prefix.
    state = {str(key).removeprefix("module."): value for key, value in content.items()}
    if "pos_embed_T" in state:
        raise DataError(f"{path} is a checkpoint of O-MaMa, not of LM-EEC; {_ADVICE}")
    if _WIDTH not in state:
        raise DataError(
            f"{path} is not a SAM 2.1 checkpoint: it lacks {_WIDTH}; give {ACCEPTED_FILES}"
        )
    missing = [key for key in _NEW_IN_2_1 if key not in state]
    if len(missing) == len(_NEW_IN_2_1):
        raise DataError(
            f"{path} is SAM 2, not SAM 2.1: it lacks {missing[0]}; give {ACCEPTED_FILES}"
        )
    return state


def _config_of(state: Mapping[str, torch.Tensor], path: Path) -> NetworkConfig:
    width = int(state[_WIDTH].shape[0])
    if width in _OTHER_VARIANTS:
        raise DataError(
            f"{path} is SAM 2.1 {_OTHER_VARIANTS[width]}, not base-plus; give {ACCEPTED_FILES}"
        )
    for config in (NetworkConfig.base_plus(), NetworkConfig.tiny()):
        if config.embed_dim == width:
            return config
    raise DataError(
        f"{path} has a trunk of {width} channels, base-plus has 112; give {ACCEPTED_FILES}"
    )
