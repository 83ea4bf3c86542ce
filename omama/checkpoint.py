"""Checkpoints in and out: the authors' state dicts, and our own files with everything to resume.

Files come from outside: every load is `torch.load(weights_only=True)`, which runs no code.
"""

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egoexo_tools.errors import DataError
from egoexo_tools.layout import atomic_path
from egoexo_tools.vocab import Direction, View
from omama.config import HW
from omama.matching.config import MODEL_WIDTH, ModelConfig
from omama.matching.model import OMama

FORMAT = "omama-checkpoint"
VERSION = 1

_FRAMES: Mapping[View, HW] = {View.EGO: (704, 704), View.EXO: (540, 960)}
_GRIDS: Mapping[int, tuple[View, HW]] = {
    (h // patch) * (w // patch): (view, (h // patch, w // patch))
    for patch in (14, 16, 32)
    for view, (h, w) in _FRAMES.items()
}
"""Number of position embeddings → the view and grid that it stands for."""
_PATCHES_OF_PUBLISHED = "2500 (ego) and 2584 (exo)"


@dataclass(frozen=True)
class Checkpoint:
    """Our own file: the model, and what training needs to go on as if never stopped."""

    model_config: ModelConfig
    model: Mapping[str, Tensor]
    """State dict."""
    train_config: Mapping[str, Any] = field(default_factory=dict)
    backbone: Mapping[str, Any] = field(default_factory=dict)
    """Name, weights hash, patch size: what the features were made with."""
    optimizer: Mapping[str, Any] | None = None
    epoch: int = 0
    step: int = 0
    """Optimizer steps done."""
    val_iou: float | None = None
    best_val_iou: float | None = None
    visibility_threshold: float | None = None
    """Confidence above which an object counts as visible, chosen on val."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that a trainer wants back."""

    def build_model(self) -> OMama:
        """The model with its weights, in evaluation mode on the CPU."""
        model = OMama(self.model_config)
        model.load_state_dict(dict(self.model))
        return model.eval()


def load_official(path: Path | str, *, direction: Direction | None = None) -> OMama:
    """The authors' state dict → a model in evaluation mode on the CPU.

    The direction follows from the position embeddings; the visibility head may be missing.
    Raises DataError for another direction than `direction`, another width, or another file.
    """
    path = Path(path)
    state = _state_dict(_load(path), path)
    config = _official_config(state, path)
    _check_direction(config, direction, path)
    model = OMama(config)
    _check_keys(model, state, path)
    model.load_state_dict(state)
    return model.eval()


def save_official(model: OMama, path: Path | str) -> None:
    """Write the model as the authors' state dict: float32 tensors on the CPU, nothing else."""
    if model.projection is not None:
        raise DataError(
            f"a model with a projection ({model.config.feature_width} to {model.config.width}) "
            "does not fit the authors' format; keep it in our own checkpoint"
        )
    state = {key: value.detach().float().cpu().clone() for key, value in model.state_dict().items()}
    with atomic_path(Path(path)) as partial:
        torch.save(state, partial)


def save_checkpoint(checkpoint: Checkpoint, path: Path | str) -> None:
    """Write our own file, atomically. TypeError for a value that could not be read back."""
    content = {item.name: getattr(checkpoint, item.name) for item in fields(checkpoint)}
    content["model_config"] = checkpoint.model_config.to_dict()
    content["model"] = {key: value.detach().cpu() for key, value in checkpoint.model.items()}
    with atomic_path(Path(path)) as partial:
        torch.save({"format": FORMAT, "version": VERSION, **_plain(content)}, partial)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read our own file, tensors on the CPU. Raises DataError for any other."""
    path = Path(path)
    content = _load(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(
            f"{path} is no checkpoint of this program; if it is the authors', give it as --init"
        )
    if content.get("version") != VERSION:
        raise DataError(
            f"{path} has checkpoint version {content.get('version')}, this program reads {VERSION}"
        )
    names = {item.name for item in fields(Checkpoint)}
    values = {key: value for key, value in content.items() if key in names}
    values["model_config"] = ModelConfig.from_dict(values.get("model_config", {}))
    try:
        return Checkpoint(**values)
    except TypeError as error:
        raise DataError(f"{path} lacks a part of a checkpoint: {error}") from error


def load_model(path: Path | str, *, direction: Direction | None = None) -> OMama:
    """A model of either kind of file, in evaluation mode on the CPU; as `load_official`."""
    path = Path(path)
    content = _load(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return load_official(path, direction=direction)
    checkpoint = load_checkpoint(path)
    _check_direction(checkpoint.model_config, direction, path)
    try:
        return checkpoint.build_model()
    except RuntimeError as error:
        raise DataError(f"{path} does not fit its own settings: {error}") from error


def _load(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"there is no checkpoint {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} is no PyTorch checkpoint, or holds more than tensors and plain values; "
            "load it where you trust it and save its state dict alone"
        ) from error


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict itself, out of the wrappings that training scripts put around it."""
    for key in ("model_state_dict", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise DataError(f"{path} holds no state dict of tensors")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _official_config(state: Mapping[str, Tensor], path: Path) -> ModelConfig:
    dest, source = state.get("pos_embed_T"), state.get("pos_embed_Q")
    if dest is None or source is None or dest.ndim != 3 or source.ndim != 3:
        raise DataError(f"{path} is no O-MaMa checkpoint: it lacks pos_embed_T and pos_embed_Q")
    width = dest.shape[2]
    if width != MODEL_WIDTH or source.shape[2] != MODEL_WIDTH:
        raise DataError(
            f"{path} has width {width}, the published model's is {MODEL_WIDTH}; give a checkpoint "
            "of that width, or load our own format"
        )
    views = [_GRIDS.get(positions.shape[1]) for positions in (source, dest)]
    counts = f"{source.shape[1]} source and {dest.shape[1]} destination positions"
    if views[0] is None or views[1] is None or views[0][0] is views[1][0]:
        raise DataError(
            f"{path} has {counts}, which name no direction; the published models have "
            f"{_PATCHES_OF_PUBLISHED}"
        )
    config = ModelConfig.official(
        Direction.EGO2EXO if views[0][0] is View.EGO else Direction.EXO2EGO,
        visibility_head=any(key.startswith("mlp_visible.") for key in state),
    )
    return replace(config, source_grid_hw=views[0][1], dest_grid_hw=views[1][1])


def _check_direction(config: ModelConfig, wanted: Direction | None, path: Path) -> None:
    if wanted is not None and config.direction != wanted:
        raise DataError(
            f"{path} was trained for {config.direction}, not {wanted}; give the checkpoint of "
            f"{wanted}, or run with --direction {config.direction}"
        )


def _check_keys(model: OMama, state: Mapping[str, Tensor], path: Path) -> None:
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    came = {key: tuple(value.shape) for key, value in state.items()}
    wrong = sorted(key for key in {*wanted, *came} if wanted.get(key) != came.get(key))
    if wrong:
        key = wrong[0]
        raise DataError(
            f"{path} is no O-MaMa checkpoint: {len(wrong)} of its tensors do not fit, the first "
            f"{key} ({came.get(key, 'missing')}, wanted {wanted.get(key, 'none')})"
        )


def _plain(value: Any) -> Any:
    """Mappings and dataclasses as dicts; TypeError for what a weights-only load would refuse."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if value is None or isinstance(value, bool | bytes | Tensor):
        return value
    for kind in (int, float, str):
        # Also numpy's float64 and StrEnum members, which pickle as more than plain values.
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"a checkpoint holds plain values and tensors, not {type(value).__name__}")
