"""Settings that several methods share: plain dataclasses, the choice of features, common options.

Imports neither numpy nor torch: commands read defaults and help texts from here.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from egoexo_tools.errors import DataError, SettingsError

HW = tuple[int, int]
"""(rows, columns) of tokens, or (height, width) in pixels."""

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
        names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
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


def defaults_of(record: type) -> dict[str, Any]:
    """Default by field name; fields without a default are left out.

    A file that lacks a field is older than the field: the default stands for its value.
    """
    defaults = {}
    for field in fields(record):
        if field.default is not MISSING:
            defaults[field.name] = field.default
        elif field.default_factory is not MISSING:
            defaults[field.name] = field.default_factory()
    return defaults


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

    backbone: str | None = None
    """Backbone, a name in BACKBONES; None: the checkpoint's, or DEFAULT_BACKBONE without one."""
    weights: Path | None = None
    """The backbone's original checkpoint file, for a backbone that needs one."""
    feature_precision: str | None = None
    """Precision of the backbone, `fp32` or `bf16`; None: the checkpoint's, or fp32 without one."""
    cached: bool = True
    """Read features from the cache of `omama features`; False: run the backbone when needed."""

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

    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16")
    """Allowed values of `model_precision`."""

    model_precision: str = "fp32"
    """Precision of a trained model when it predicts: `fp32` or `bf16`."""
    reference_behaviour: bool = False
    """Predict as the authors' code does, errors included."""
    size: str = "official"
    """Size of predicted masks: `official` (long side 480), or `image` (the kept image's size)."""
    batch_pairs: int = 64
    """Pairs that are predicted at once."""
    run_name: str | None = None
    """Name of a prediction in progress bars and exclusions; None: the run's usual name."""
    init: Path | None = None
    """Checkpoint to start training from, ours or the authors'."""
    resume: bool = False
    """Continue from the run's last checkpoint, if its data is unchanged."""
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
