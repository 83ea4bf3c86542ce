"""Settings that several methods share: plain dataclasses, the choice of features, common options.

Imports neither numpy nor torch: commands read defaults and help texts from here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from egoexo_tools.errors import DataError, SettingsError

HW = tuple[int, int]
"""(rows, columns) of tokens, or (height, width) in pixels."""

PRECISIONS = ("fp32", "bf16")
"""Of a network's forward pass. fp32 is what published numbers were made with; bf16 (autocast) is
several times as fast on a GPU and changes a similarity by some thousandths."""
AUTO_PRECISIONS = ("auto", *PRECISIONS)
"""`auto`: bf16 on a GPU, fp32 elsewhere."""

MASK_SIZES = ("official", "image")
"""Size of predicted masks: the official evaluator's (long side 480), or the kept image's."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Red, green, blue in [0, 1]: backbones expect input that is normalised with these. Defined here,
so that a network can be copied into another project without the code that reads pictures."""


class PlainSettings:
    """Base of settings dataclasses: conversion to a dict of plain values and back."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, so that `torch.load(weights_only=True)` and JSON read it."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; lists (from JSON) become tuples. Raises DataError."""
        names = {item.name for item in fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(values) - names):
            raise DataError(
                f"{cls.__name__} has no setting {', '.join(unknown)}; there are "
                f"{', '.join(sorted(names))}. The file may come from another version"
            )
        plain = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        try:
            return cls(**plain)
        except TypeError as error:
            raise DataError(
                f"{cls.__name__} cannot be made from these settings: {error}"
            ) from error


def check_positive(name: str, value: int) -> None:
    """Raises DataError for anything but an integer of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise DataError(f"{name}={value!r}; it must be an integer of at least 1")


DEFAULT_BACKBONE = "dinov2"
"""As published."""
LEARNED_BACKBONE = "efficientnet-lite0"
"""Its weights come with the group `model`: nothing is fetched, and a CPU is enough."""


@dataclass(frozen=True)
class Features:
    """The frozen backbone, and where its features come from."""

    backbone: str | None = field(
        default=None, metadata={"choices": "omama.features.registry:BACKBONES"}
    )
    """Backbone of the features; None: the checkpoint's in prediction, otherwise dinov2."""
    weights: Path | None = None
    """The backbone's original checkpoint file, for a backbone that needs one."""
    feature_precision: str | None = field(
        default=None, metadata={"choices": "omama.config:PRECISIONS"}
    )
    """Precision of the backbone; None: the checkpoint's in prediction, otherwise fp32."""
    cached: bool = field(default=True, metadata={"option": "--cached/--on-the-fly"})
    """Read features from the cache of `omama features`, or run the backbone when needed."""

    @property
    def settings(self) -> dict[str, str | None]:
        """Values for status files. `cached` is absent: it does not change the features."""
        return {
            "backbone": self.backbone,
            "weights": str(self.weights) if self.weights else None,
            "feature_precision": self.feature_precision or "fp32",
        }


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """Options that the methods share: choices of training and prediction beside the settings."""

    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    """Allowed values of `model_precision`."""

    model_precision: str = field(
        default="fp32", metadata={"choices": "omama.config:PRECISIONS", "option": "--precision"}
    )
    """Precision of the model."""
    reference_behaviour: bool = False
    """Predict as the authors' code does, errors included."""
    size: str = field(default="official", metadata={"choices": "omama.config:MASK_SIZES"})
    """Size of predicted masks: the official evaluator's (long side 480), or the kept image's."""
    batch_pairs: int = 64
    """Pairs in a batch."""
    run_name: str | None = None
    """Name of a prediction in progress bars and exclusions; None: the run's usual name."""
    init: Path | None = None
    """Checkpoint to start training from, ours or the authors'."""
    resume: bool = False
    """Continue from the run's last checkpoint, if its data is unchanged."""
    overwrite: bool = False
    """Start training again if the data of the run to resume has changed."""
    quiet: bool = False
    """Show no progress."""

    def __post_init__(self) -> None:
        if self.size not in MASK_SIZES:
            raise SettingsError(f"size={self.size!r}; use {' or '.join(MASK_SIZES)}")
        if self.model_precision not in self.precisions:
            raise SettingsError(
                f"precision {self.model_precision!r}; use {' or '.join(self.precisions)}"
            )
        check_positive("batch_pairs", self.batch_pairs)
