"""The interface between a method and the training loop: a record of functions, and loop settings.

A *batch* passes through the module at once. A *step* is one or more batches whose gradients are
added up; the last step of an epoch may have fewer. With torchrun, each rank has its own batches.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import nn

Batch = TypeVar("Batch")


def cosine_schedule(part: float) -> float:
    """1 at the start (part 0) of a run, 0 at its end (part 1), half a cosine in between."""
    return 0.5 * (1 + math.cos(math.pi * part))


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with the same learning rate and weight decay."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float
    """At the first step."""
    final_learning_rate: float
    """At the last step."""
    weight_decay: float = 0.0


@dataclass(frozen=True)
class ValScore:
    """Result of a validation; the same on all ranks."""

    iou: float
    """Mean IoU, by which the best checkpoint is chosen."""
    logged: Mapping[str, float] = field(default_factory=dict)
    """Further values for the log, by name."""
    calibrate: Callable[[], Mapping[str, Any] | None] | None = None
    """Returns the checkpoint's calibration; called on all ranks if this is the best validation."""
    baselines: Mapping[str, float] = field(default_factory=dict)
    """IoU of methods without training on the same samples, by name: `knn`."""


@dataclass(frozen=True)
class Task(Generic[Batch]):
    """Everything that the loop needs to know about a method."""

    method: str
    """Name in METHODS."""
    module: nn.Module
    """`module(batch)` → the mean loss of a batch, a scalar to differentiate, and its parts by name
    (scalars for the log, may be empty). A module, so that data parallelism can wrap it. It applies
    autocast itself, because only it knows which operations must stay in float32."""
    model: nn.Module
    """The part of `module` whose weights are saved."""
    groups: Sequence[ParameterGroup]
    """All trainable parameters."""
    epoch_samples: int
    """Number of samples in an epoch, over all ranks."""
    batches_per_epoch: int
    """Number of batches of this rank; it must be equal on all ranks, which wait for each other."""
    batches: Callable[[int, int], Iterator[tuple[Batch, int]]]
    """(epoch, first batch), both from 0 → this batch and all later ones of the epoch, each with its
    number of samples; made lazily."""
    to_device: Callable[[Batch, torch.device], Batch]
    validate: Callable[[nn.Module], ValScore]
    """Validates `model`, or the average of its weights; called on all ranks."""
    describe_batch: Callable[[Batch], str]
    """Names the sample of a batch whose loss is not finite, for the error message: `pair …`."""
    config: Mapping[str, Any]
    """The model's settings for the checkpoint."""
    settings: Mapping[str, Any]
    """The training settings; a resumed run must have equal ones."""
    features: Mapping[str, Any]
    """Key of the features that the module reads; may be empty."""
    fingerprint: str
    """Hash of the data; a run starts again if it has changed."""
    unit: str = "pair"
    """Name of a sample in the log."""
    measures_start: bool = False
    """Validate before the first step too, and warn at the end if it stayed better."""
    keeps_start: bool = False
    """The initial weights are usable: they are the best checkpoint until better ones come."""
    averages_start: bool = False
    """The initial weights are trained: the moving average starts with them. Otherwise it starts
    with the weights after the first step."""
    introduction: str = ""
    """Printed at the start."""


@dataclass(frozen=True)
class LoopConfig:
    """Settings of the loop."""

    epochs: int
    accumulate: int = 1
    """Batches in a step."""
    average_decay: float = 0.0
    """Decay of a moving average of the weights, which is validated and saved as the best
    checkpoint; 0: no average."""
    clip_norm: float | None = None
    """Largest norm of the gradients of all parameters; larger ones are scaled down; None: never."""
    val_every_steps: int | None = None
    """Steps between two validations; None: one validation an epoch."""
    patience: int | None = None
    """Validations without a better IoU before an early stop; None: never."""
    schedule: Callable[[float], float] = cosine_schedule
    """Completed part of the run (0..1) → weight of the initial learning rate against the final."""
