"""Checkpoint files: a method's weights, and all that training needs to continue from them.

A file is one dict of plain values and tensors with the keys `format`, `version`, `method`,
`model_config`, `model`, `train_config`, `backbone`, `optimizer`, `epoch`, `step`, `val_iou`,
`best_val_iou`, `visibility_threshold`, `decision` and `extra`. This module knows no method: it
types the method's name, the model's settings and the state of training, and passes the rest
through. Every load is `torch.load(weights_only=True)`, which runs no code from the file.
"""

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egoexo_tools.errors import DataError
from egoexo_tools.layout import atomic_path

FORMAT = "omama-checkpoint"
VERSION = 1


@dataclass(frozen=True)
class TrainState:
    """State of training when the file was written."""

    fingerprint: str = ""
    """Hash of the data and features; a run resumes only on equal ones."""
    best_iou: float = -1.0
    """Best val IoU so far; -1 before the first validation."""
    stale: int = 0
    """Validations since the best one."""
    stopped: bool = False
    """Training was stopped early by `patience`: there is nothing to resume."""
    ranks: int = 1
    """Processes that trained together."""
    optimizer: Mapping[str, Any] | None = None
    """State dict; None in the best checkpoint, which is never resumed from."""
    average: Mapping[str, Any] | None = None
    """State dict of the averaged weights; None without averaging."""
    best_step: int = 0
    """Step of the best validation; 0: before training."""
    start: Mapping[str, float] = field(default_factory=dict)
    """Val IoU before the first step, by name; empty if it was not measured."""


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint file. Mappings hold plain values: numbers, text, lists, tensors."""

    config: Mapping[str, Any]
    """The model's settings, from which it can be built."""
    weights: Mapping[str, Tensor]
    """State dict of the model."""
    method: str
    """The method's name in METHODS."""
    train_config: Mapping[str, Any] = field(default_factory=dict)
    """The training settings."""
    features: Mapping[str, Any] = field(default_factory=dict)
    """FeatureKey of the backbone's features, as a dict; empty for a method without a backbone."""
    epoch: int = 0
    """Epoch of the last step, from 1."""
    step: int = 0
    """Number of optimizer steps done."""
    val_iou: float | None = None
    """Val IoU of these weights; None if they were not validated."""
    calibration: Mapping[str, Any] | None = None
    """How a score becomes a confidence, fitted on val; its `threshold` is in the score's units."""
    decision: Mapping[str, Any] | None = None
    """Parameters for choosing candidates over time, fitted on val."""
    state: TrainState = TrainState()


def save_checkpoint(checkpoint: Checkpoint, path: Path | str) -> None:
    """Write the file atomically. Raises TypeError for a value that could not be read back."""
    state, calibration = checkpoint.state, checkpoint.calibration
    extra = {item.name: getattr(state, item.name) for item in fields(state)}
    content = {
        "method": checkpoint.method,
        "model_config": checkpoint.config,
        "model": {key: value.detach().cpu() for key, value in checkpoint.weights.items()},
        "train_config": checkpoint.train_config,
        "backbone": checkpoint.features,
        "optimizer": extra.pop("optimizer"),
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "val_iou": checkpoint.val_iou,
        # These two repeat `extra`, for people who open the file to see its quality.
        "best_val_iou": state.best_iou,
        "visibility_threshold": calibration["threshold"] if calibration else None,
        "decision": checkpoint.decision,
        "extra": {**extra, "calibration": calibration},
    }
    with atomic_path(Path(path)) as partial:
        write_file({"format": FORMAT, "version": VERSION, **_plain(content)}, partial)


def write_file(content: Any, path: Path) -> None:
    """torch.save that raises OSError on a full disk and KeyboardInterrupt when interrupted."""
    try:
        # To an open file: torch's own writer loses the reason why it could not write.
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        # After an error torch still tries to end its archive; that fails too and hides the error.
        if isinstance(error.__context__, OSError | KeyboardInterrupt):
            raise error.__context__ from None
        raise


def load_checkpoint(path: Path | str, *, method: str | None = None) -> Checkpoint:
    """Read one of our checkpoints; tensors are on the CPU.

    Raises DataError for any other file, and for a checkpoint of another method than `method`.
    """
    path = Path(path)
    content = load_file(path)
    if not is_ours(content):
        raise DataError(
            f"{path} is not a checkpoint of this program; if it is the authors', give it as --init"
        )
    if content.get("version") != VERSION:
        raise DataError(
            f"{path} has checkpoint version {content.get('version')}, this program reads {VERSION}"
        )
    try:
        extra = dict(content["extra"])
        checkpoint = Checkpoint(
            config=content["model_config"],
            weights=content["model"],
            method=content["method"],
            train_config=content["train_config"],
            features=content["backbone"],
            epoch=content["epoch"],
            step=content["step"],
            val_iou=content["val_iou"],
            calibration=extra.pop("calibration"),
            decision=content["decision"],
            state=TrainState(**extra, optimizer=content["optimizer"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} lacks a part of a checkpoint: {error}") from error
    if method is not None and checkpoint.method != method:
        raise DataError(
            f"{path} is a checkpoint of {checkpoint.method}, not of {method}; give one of "
            f"{method}, or run {checkpoint.method}"
        )
    return checkpoint


def load_file(path: Path) -> Any:
    """Content of any PyTorch file of tensors and plain values, on the CPU; DataError otherwise."""
    if not path.is_file():
        raise DataError(f"the checkpoint {path} does not exist")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} is not a PyTorch checkpoint, or holds more than tensors and plain values; "
            "load it where you trust it and save its state dict alone"
        ) from error


def is_ours(content: Any) -> bool:
    """Whether the content of `load_file` is one of our checkpoints, of any version."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def _plain(value: Any) -> Any:
    """Mappings and dataclasses become dicts; TypeError for what a weights-only load refuses."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    # bool before int, whose subclass it is.
    if value is None or isinstance(value, bool | bytes | Tensor):
        return value
    for kind in (int, float, str):
        # Subclasses such as numpy's float64 and StrEnum members do not pickle as plain values.
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"a checkpoint holds plain values and tensors, not {type(value).__name__}")
