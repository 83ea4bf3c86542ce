"""A method as the training loop sees it: a record of plain functions, and a run's settings.

A *batch* is what passes through the module at once, a *step* is one or more batches whose
gradients are added up; the last step of an epoch may have fewer. Started by torchrun, each rank
runs its own share of the batches.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import nn

Batch = TypeVar("Batch")


def cosine(part: float) -> float:
    """1 at the start (part 0) of a run, 0 at its end (part 1)."""
    return 0.5 * (1 + math.cos(math.pi * part))


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that learn at one rate."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float
    """At the first step."""
    final_learning_rate: float
    """At the last step."""
    weight_decay: float = 0.0


@dataclass(frozen=True)
class ValScore:
    """What one validation found; the same on all ranks."""

    iou: float
    logged: Mapping[str, float] = field(default_factory=dict)
    """What else goes to the log, by its name there."""
    calibrate: Callable[[], Mapping[str, Any] | None] | None = None
    """Asked, on all ranks, where this is the best one yet: how scores become confidences."""
    decision: Mapping[str, Any] | None = None
    """Parameters of choosing over time that these weights want."""
    untrained: Mapping[str, float] = field(default_factory=dict)
    """IoU of what learns nothing, on the same samples, by its name: `knn`."""


@dataclass(frozen=True)
class Task(Generic[Batch]):
    """A method as the loop sees it."""

    method: str
    module: nn.Module
    """`module(batch)` → the mean loss of a batch, a scalar to differentiate, and its parts by name
    (scalars for the log, may be empty). A module so that data parallelism can wrap it; it casts to
    bfloat16 itself, where it wants to, since only it knows what must not be cast."""
    model: nn.Module
    """The part of `module` whose weights are kept."""
    groups: Sequence[ParameterGroup]
    epoch_samples: int
    """Samples of an epoch, of all ranks; counted in `unit`s."""
    batches_per_epoch: int
    """Of this rank; all ranks have equally many, or some would wait for ever."""
    batches: Callable[[int, int], Iterator[tuple[Batch, int]]]
    """(epoch from 0, first batch from 0) → that batch and all after it, with their numbers of
    samples, made as they are asked for."""
    to_device: Callable[[Batch, torch.device], Batch]
    validate: Callable[[nn.Module], ValScore]
    """Of `model`, or of the average that lags behind it; on all ranks."""
    describe_batch: Callable[[Batch], str]
    """Which sample made the loss infinite, for the error: `pair …`."""
    config: Mapping[str, Any]
    """The model's settings, as a checkpoint keeps them."""
    settings: Mapping[str, Any]
    """Of training; a resumed run must have the same."""
    features: Mapping[str, Any]
    """Of what the module's inputs were made with; may be empty."""
    fingerprint: str
    """Of the data; a run starts anew where it changed."""
    unit: str = "pair"
    measures_start: bool = False
    """Validate before the first step too, and say at the end what training came to since."""
    keeps_start: bool = False
    """The weights at the start are a model of worth: the best one until another is better."""
    averages_start: bool = False
    """They are trained ones: a moving average of the weights begins with them, and so leaves them
    slowly, where otherwise it begins with those after the first step."""
    introduction: str = ""
    """A line that is shown at the start."""


@dataclass(frozen=True)
class LoopConfig:
    """How long and in which steps a run trains."""

    epochs: int
    accumulate: int = 1
    """Batches whose gradients are added up before a step."""
    average_decay: float = 0.0
    """Of a moving average of the weights, validated and kept in their place; 0: none."""
    clip_norm: float | None = None
    """Gradients of a larger norm, over all parameters, are scaled down to it; None: never."""
    val_every_steps: int | None = None
    """None: once an epoch."""
    patience: int | None = None
    """Validations without a better IoU before an early stop; None: never."""
    schedule: Callable[[float], float] = cosine
    """Part of the run that is done (0..1) → weight of each group's first rate against its last."""
