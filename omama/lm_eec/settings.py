"""The choices of LM-EEC: how to predict, and how to train. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from egoexo_tools.errors import SettingsError
from omama.config import MASK_SIZES, PlainSettings, check_positive

PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class LmEecOptions:
    """Choices beside the settings of training."""

    model_precision: str = "auto"
    """`fp32`, `bf16` (autocast), or `auto`: bf16 on CUDA."""
    reference_behaviour: bool = False
    """Predict as the released code does where it is wrong: docs/lm-eec.md lists what differs."""
    size: str = "official"
    """Predicted masks at the official evaluator's size (long side 480), or at the kept image's."""
    batch_pairs: int = 32
    """Tracks side by side, and pictures encoded at once."""
    run_name: str | None = None
    init: Path | None = None
    """SAM 2.1 base-plus, or a checkpoint of LM-EEC, to train on from."""
    resume: bool = False
    """Go on from the run's last checkpoint, if there is one of the same data."""
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.size not in MASK_SIZES:
            raise SettingsError(f"size={self.size!r}; use {' or '.join(MASK_SIZES)}")
        if self.model_precision not in PRECISIONS:
            raise SettingsError(
                f"precision {self.model_precision!r}; use {' or '.join(PRECISIONS)}"
            )
        check_positive("batch_pairs", self.batch_pairs)


@dataclass(frozen=True)
class LmEecTrainConfig(PlainSettings):
    """The published recipe; a step is 64 clips, here in eight batches of one GPU."""

    epochs: int = 60
    batch_pairs: int = 8
    """Clips in a batch."""
    accumulate: int = 8
    """Batches in a step."""
    clips_per_track: int = 2
    """Clips that an epoch draws from each track."""
    learning_rate: float = 5e-6
    image_encoder_share: float = 0.6
    """Of the learning rate, for the neck; each block of the trunk learns at 0.9 of the next."""
    weight_decay: float = 0.1
    clip_norm: float = 0.1
    average_decay: float = 0.0
    val_clips: int = 256
    """Val tracks whose first frames are followed at a validation, spread over all."""
    val_every_steps: int | None = None
    patience: int | None = None
    augment: bool = True
    recompute: bool = True
    """Compute the encoder's blocks again in the backward pass: a third more work, and eight clips
    fit a GPU with 80 GB."""
    precision: str = "auto"
    """`fp32`, `bf16` (autocast), or `auto`: bf16 on CUDA."""
    seed: int = 123
    reference_behaviour: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_pairs", "accumulate", "clips_per_track", "val_clips"):
            check_positive(name, getattr(self, name))
        if self.precision not in PRECISIONS:
            raise SettingsError(f"precision={self.precision!r}; use {', '.join(PRECISIONS)}")
