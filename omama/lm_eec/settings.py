"""Options and training settings of LM-EEC. Imports no torch, so that commands can read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from egoexo_tools.errors import SettingsError
from omama.config import AUTO_PRECISIONS, MethodOptions, PlainSettings, check_positive


@dataclass(frozen=True, kw_only=True)
class LmEecOptions(MethodOptions):
    """Options of training and prediction that are not part of the training settings."""

    precisions: ClassVar[tuple[str, ...]] = AUTO_PRECISIONS

    model_precision: str = field(
        default="auto",
        metadata={"choices": "omama.config:AUTO_PRECISIONS", "option": "--precision"},
    )
    """Precision of the network; auto is bf16 on a GPU and fp32 elsewhere."""
    reference_behaviour: bool = False
    """Predict as the released code does, errors included; docs/lm-eec.md lists the differences."""
    batch_pairs: int = 32
    """Tracks that are predicted side by side, and pictures that are encoded at once."""


@dataclass(frozen=True)
class LmEecTrainConfig(PlainSettings):
    """Training settings; the defaults are the published recipe (64 clips a step) on one GPU."""

    epochs: int = 60
    """Number of epochs."""
    batch_pairs: int = 8
    """Clips in a batch."""
    accumulate: int = 8
    """Batches in a step."""
    clips_per_track: int = 2
    """Clips that an epoch draws from each track."""
    learning_rate: float = 5e-6
    """Learning rate of AdamW at the start."""
    image_encoder_share: float = 0.6
    """Learning rate of the image encoder's neck, relative to `learning_rate`; each block of the
    trunk has 0.9 of the rate of the block after it."""
    weight_decay: float = 0.1
    """Weight decay of AdamW."""
    clip_norm: float = 0.1
    """Largest norm of the gradients; larger ones are scaled down."""
    average_decay: float = 0.0
    """Decay of a moving average of the weights, such as 0.995, which is validated and kept in their
    place; 0: no average."""
    val_clips: int = 256
    """Number of val tracks whose first frames a validation predicts."""
    val_every_steps: int | None = None
    """Steps between two validations; None: one validation an epoch."""
    patience: int | None = None
    """Validations without a better IoU before training stops early; None: never."""
    augment: bool = True
    """Augment the clips: rotation, shear, mirroring and colour jitter."""
    recompute: bool = True
    """Compute the encoder's blocks again in the backward pass: a third more work, but eight clips
    fit a GPU with 80 GB."""
    precision: str = field(default="auto", metadata={"choices": "omama.config:AUTO_PRECISIONS"})
    """Precision of the network; auto is bf16 on a GPU and fp32 elsewhere."""
    seed: int = 123
    """Seed of everything that is drawn at random."""
    reference_behaviour: bool = False
    """Train as the released code does, errors included; docs/lm-eec.md lists the differences."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_pairs", "accumulate", "clips_per_track", "val_clips"):
            check_positive(name, getattr(self, name))
        # None has a meaning for these: once an epoch, and never.
        for name in ("val_every_steps", "patience"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if self.precision not in AUTO_PRECISIONS:
            raise SettingsError(f"precision={self.precision!r}; use {', '.join(AUTO_PRECISIONS)}")
