"""Networks out of files: SAM 2.1's, the authors' two kinds, and our own checkpoints.

Every file is read by `torch.load(weights_only=True)` (checkpoint.load_file), and strictly: what
does not fit is named. A file of something else is told in one sentence what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from egoexo_tools.errors import DataError
from omama.checkpoint import Checkpoint, is_ours, load_checkpoint, load_file
from omama.lm_eec.config import NetworkConfig
from omama.lm_eec.naming import FUSION_PREFIX
from omama.lm_eec.network import LmEecNetwork, build_network

METHOD = "lm-eec"
WANTED = "sam2.1_hiera_base_plus.pt or a checkpoint of LM-EEC"
_WIDTH = "image_encoder.trunk.patch_embed.proj.weight"
# What SAM 2.1 has and SAM 2 has not.
_NEW_IN_2_1 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight")
# First-stage channels of the variants that LM-EEC was not made for; of 96 there are two.
_OTHER_VARIANTS = {144: "large", 96: "small or tiny"}


@dataclass(frozen=True)
class LoadedNetwork:
    """A network, and what its file says beside the weights."""

    network: LmEecNetwork
    checkpoint: Checkpoint | None
    """Our own file's contents; None for SAM 2.1's and the authors'."""


def load_network(path: Path | str, *, to_train: bool = False) -> LoadedNetwork:
    """The network of a file, in evaluation mode on the CPU.

    Only a network that is to be trained may lack the fusion, as SAM 2.1's own file does: it is
    drawn then, from torch's current seed. Raises DataError for any other file.
    """
    path = Path(path)
    content = load_file(path)
    if is_ours(content):
        return _ours(path)
    state = _state(content, path)
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


def describe(config: NetworkConfig) -> dict[str, Any]:
    """The configuration as a checkpoint keeps it."""
    return asdict(config)


def _ours(path: Path) -> LoadedNetwork:
    checkpoint = load_checkpoint(path, method=METHOD)
    try:
        values: dict[str, Any] = {
            field.name: _unlisted(checkpoint.config[field.name]) for field in fields(NetworkConfig)
        }
        config = NetworkConfig(**values)
        network = LmEecNetwork(config)
        network.load_state_dict(dict(checkpoint.weights))
    except (KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"{path} does not fit its own settings: {error}") from error
    return LoadedNetwork(network.eval(), checkpoint)


def _unlisted(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _state(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The tensors by SAM 2.1's names; DataError for a file that is of another kind."""
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise DataError(f"{path} holds no weights by name; give {WANTED}")
    state = {str(key).removeprefix("module."): value for key, value in content.items()}
    if "pos_embed_T" in state:
        raise DataError(f"{path} is a checkpoint of O-MaMa, which has no memory; give {WANTED}")
    if _WIDTH not in state:
        raise DataError(f"{path} is no SAM 2.1: it lacks {_WIDTH}; give {WANTED}")
    missing = [key for key in _NEW_IN_2_1 if key not in state]
    if len(missing) == len(_NEW_IN_2_1):
        raise DataError(f"{path} is SAM 2, not SAM 2.1: it lacks {missing[0]}; give {WANTED}")
    return state


def _config_of(state: Mapping[str, torch.Tensor], path: Path) -> NetworkConfig:
    width = int(state[_WIDTH].shape[0])
    if width in _OTHER_VARIANTS:
        raise DataError(f"{path} is SAM 2.1 {_OTHER_VARIANTS[width]}, not base-plus; give {WANTED}")
    for config in (NetworkConfig.base_plus(), NetworkConfig.tiny()):
        if config.embed_dim == width:
            return config
    raise DataError(f"{path} has a trunk of {width} channels, base-plus has 112; give {WANTED}")
