"""Our checkpoint files: a method's weights, and what training needs to go on as if never stopped.

The envelope knows no method: whose weights they are (`method`), the settings that fix their shapes
(`config`) and the state of training are typed, the rest is the method's own. A file is one dict of
plain values and tensors with the keys `format`, `version`, `method`, `model_config`, `model`,
`train_config`, `backbone`, `optimizer`, `epoch`, `step`, `val_iou`, `best_val_iou`,
`visibility_threshold`, `decision` and `extra`. Files come from outside: every load is
`torch.load(weights_only=True)`, which runs no code.
"""

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egoexo_tools.errors import DataError
from egoexo_tools.layout import atomic_path

FORMAT = "omama-checkpoint"
VERSION = 1
FIRST_METHOD = "o-mama"
"""What a file without `method` is of: it was written when there was but one."""


@dataclass(frozen=True)
class TrainState:
    """Where training stood when the file was written."""

    fingerprint: str = ""
    """Of the data and features that it learns from; a run resumes on the same only."""
    best_iou: float = -1.0
    stale: int = 0
    """Validations since the best one."""
    stopped: bool = False
    """Patience came to its end: there is nothing to resume."""
    ranks: int = 1
    optimizer: Mapping[str, Any] | None = None
    """State dict; None in the best checkpoint, which nobody resumes from."""
    average: Mapping[str, Any] | None = None
    """State dict of the averaged weights, where they are averaged."""
    best_step: int = 0
    start: Mapping[str, float] = field(default_factory=dict)
    """Val IoU before the first step, by name; empty where it was not measured."""


@dataclass(frozen=True)
class Checkpoint:
    """One file. Mappings hold plain values: numbers, text, lists, dicts, tensors."""

    config: Mapping[str, Any]
    """The model's settings, from which it is built again."""
    weights: Mapping[str, Tensor]
    """State dict."""
    method: str = FIRST_METHOD
    train_config: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, Any] = field(default_factory=dict)
    """Name, weights hash, patch size: what the backbone's features were made with, if any."""
    epoch: int = 0
    step: int = 0
    """Optimizer steps done."""
    val_iou: float | None = None
    """Of these weights, where they were validated."""
    calibration: Mapping[str, Any] | None = None
    """How a score becomes a confidence, chosen on val; its `threshold` is in the score's units."""
    decision: Mapping[str, Any] | None = None
    """Parameters of choosing candidates over time, chosen on val."""
    state: TrainState = TrainState()


def save_checkpoint(checkpoint: Checkpoint, path: Path | str) -> None:
    """Write it, atomically. TypeError for a value that could not be read back."""
    state, calibration = checkpoint.state, checkpoint.calibration
    content = {
        "method": checkpoint.method,
        "model_config": checkpoint.config,
        "model": {key: value.detach().cpu() for key, value in checkpoint.weights.items()},
        "train_config": checkpoint.train_config,
        "backbone": checkpoint.features,
        "optimizer": state.optimizer,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "val_iou": checkpoint.val_iou,
        "best_val_iou": state.best_iou,
        "visibility_threshold": calibration["threshold"] if calibration else None,
        "decision": checkpoint.decision,
        "extra": {
            "fingerprint": state.fingerprint,
            "best_iou": state.best_iou,
            "stale": state.stale,
            "best_step": state.best_step,
            "start": state.start,
            "stopped": state.stopped,
            "ranks": state.ranks,
            "calibration": calibration,
            "average": state.average,
        },
    }
    with atomic_path(Path(path)) as partial:
        write_file({"format": FORMAT, "version": VERSION, **_plain(content)}, partial)


def write_file(content: Any, path: Path) -> None:
    """torch.save; OSError where there is no room, KeyboardInterrupt where it was interrupted."""
    try:
        # To an open file: torch's own writer forgets why it could not write.
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        # Torch ends its archive whatever has happened, and that fails in its turn.
        if isinstance(error.__context__, OSError | KeyboardInterrupt):
            raise error.__context__ from None
        raise


def load_checkpoint(path: Path | str, *, method: str | None = None) -> Checkpoint:
    """Read it, tensors on the CPU.

    Raises DataError for any other file, and for one of another method than `method`.
    """
    path = Path(path)
    content = load_file(path)
    if not is_ours(content):
        raise DataError(
            f"{path} is no checkpoint of this program; if it is the authors', give it as --init"
        )
    if content.get("version") != VERSION:
        raise DataError(
            f"{path} has checkpoint version {content.get('version')}, this program reads {VERSION}"
        )
    checkpoint = _parse(content, path)
    if method is not None and checkpoint.method != method:
        raise DataError(
            f"{path} is a checkpoint of {checkpoint.method}, not of {method}; give one of "
            f"{method}, or run {checkpoint.method}"
        )
    return checkpoint


def load_file(path: Path) -> Any:
    """Any PyTorch file of tensors and plain values, on the CPU; DataError for another one."""
    if not path.is_file():
        raise DataError(f"there is no checkpoint {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} is no PyTorch checkpoint, or holds more than tensors and plain values; "
            "load it where you trust it and save its state dict alone"
        ) from error


def is_ours(content: Any) -> bool:
    """Whether what `load_file` gave is one of our own files, of whatever version."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def _parse(content: Mapping[str, Any], path: Path) -> Checkpoint:
    # Files of before may lack a part of training's state, never the model.
    extra = content.get("extra") or {}
    known = {name: extra[name] for name in _STATE_IN_EXTRA if name in extra}
    try:
        return Checkpoint(
            config=content["model_config"],
            weights=content["model"],
            method=content.get("method", FIRST_METHOD),
            train_config=content.get("train_config") or {},
            features=content.get("backbone") or {},
            epoch=int(content.get("epoch", 0)),
            step=int(content.get("step", 0)),
            val_iou=content.get("val_iou"),
            calibration=extra.get("calibration"),
            decision=content.get("decision"),
            state=TrainState(**known, optimizer=content.get("optimizer")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} lacks a part of a checkpoint: {error}") from error


_STATE_IN_EXTRA = (
    "fingerprint",
    "best_iou",
    "stale",
    "best_step",
    "start",
    "stopped",
    "ranks",
    "average",
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
