"""O-MaMa as the training loop sees it: batches of pairs, the loss, and validation."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from egoexo_tools.arrays import Int64
from omama.dataset import Dataset
from omama.features.store import FeatureStore
from omama.matching.config import TrainConfig
from omama.matching.loading import backbone_passes, epoch_batches, load_batches
from omama.matching.model import OMama
from omama.matching.model_files import METHOD
from omama.matching.objective import Objective, first_bad_pair
from omama.matching.samples import Bucket, NegativeSampling
from omama.matching.val_scores import ValidationSettings, score_val
from omama.task import LoopConfig, ParameterGroup, Task, ValScore


@dataclass(frozen=True)
class TrainingData:
    """Train and val pairs, with where the features of their frames come from."""

    train: Dataset
    val: Dataset
    train_store: FeatureStore
    val_store: FeatureStore

    @cached_property
    def fingerprint(self) -> str:
        """Changes with what a run learns from: pairs, the masks of their frames, the backbone."""
        digest = hashlib.sha256(self.train_store.key.name.encode())
        for part in (self.train, self.val):
            digest.update("\n".join(part.pairs.ids).encode())
            digest.update(part.pairs.state.tobytes())
            for masks in (part.frames.masks, part.frames.proposals):
                digest.update(masks.start.tobytes())
                digest.update(
                    np.ascontiguousarray(masks.boxes).data
                )  # not copied: gigabytes, mapped
        return digest.hexdigest()[:16]


def loop_config(config: TrainConfig) -> LoopConfig:
    """What of the settings concerns the loop."""
    return LoopConfig(
        epochs=config.epochs,
        accumulate=config.accumulate,
        average_decay=config.average_decay,
        val_every_steps=config.val_every_steps,
        patience=config.patience,
    )


def make_task(
    objective: Objective,
    config: TrainConfig,
    data: TrainingData,
    accelerator: Accelerator,
    *,
    keeps_start: bool,
    averages_start: bool,
) -> Task[list[Bucket]]:
    """One direction's training on this rank; the last two: see `Task`."""
    pairs, val_pairs = len(data.train.pairs), len(data.val.pairs)
    passes = image_features_per_epoch(config, data, accelerator)
    source = "read from the cache" if data.train_store.is_cache else "computed as they come"
    group = ParameterGroup(
        parameters=[p for p in objective.parameters() if p.requires_grad],
        learning_rate=config.learning_rate,
        final_learning_rate=config.final_learning_rate,
        weight_decay=config.weight_decay,
    )
    return Task(
        method=METHOD,
        module=objective,
        model=objective.model,
        groups=[group],
        epoch_samples=pairs,
        batches_per_epoch=math.ceil(
            math.ceil(pairs / accelerator.num_processes) / config.batch_pairs
        ),
        batches=partial(_batches, config=config, data=data, accelerator=accelerator),
        to_device=_to_device,
        validate=partial(
            _validate, objective=objective, config=config, data=data, accelerator=accelerator
        ),
        describe_batch=partial(_describe, model=objective.model, ids=data.train.pairs.ids),
        config=objective.model.config.to_dict(),
        settings=config.to_dict(),
        features=asdict(data.train_store.key),
        fingerprint=data.fingerprint,
        unit="pair",
        measures_start=True,
        keeps_start=keeps_start,
        averages_start=averages_start,
        introduction=(
            f"{pairs} train pairs, {val_pairs} val pairs; "
            f"{passes} image features an epoch, {source}"
        ),
    )


def image_features_per_epoch(
    config: TrainConfig, data: TrainingData, accelerator: Accelerator
) -> int:
    """Image features that this rank reads or computes in an epoch."""
    return backbone_passes(data.train.pairs, _epoch_batches(0, config, data, accelerator))


def _epoch_batches(
    epoch: int, config: TrainConfig, data: TrainingData, accelerator: Accelerator
) -> list[Int64]:
    """This rank's batches of an epoch (counted from 0), as indices of pairs."""
    return epoch_batches(
        data.train.pairs,
        seed=config.seed,
        epoch=epoch,
        batch_size=config.batch_pairs,
        rank=accelerator.process_index,
        ranks=accelerator.num_processes,
    )


def _batches(
    epoch: int, first: int, *, config: TrainConfig, data: TrainingData, accelerator: Accelerator
) -> Iterator[tuple[list[Bucket], int]]:
    batches = _epoch_batches(epoch, config, data, accelerator)[first:]

    def rng(number: int) -> np.random.Generator:
        # A batch has its generator by its place in the epoch, so that a run resumed in the
        # middle draws what it would have drawn.
        seeds = (config.seed, epoch, first + number, accelerator.process_index)
        return np.random.default_rng(seeds)

    sampling = NegativeSampling(
        config.candidates, config.negative_max_iou, config.reference_behaviour
    )
    loaded = load_batches(
        data.train.frames, data.train.pairs, batches, data.train_store, sampling=sampling, rng=rng
    )
    return zip(loaded, (batch.size for batch in batches), strict=True)


def _to_device(buckets: list[Bucket], device: torch.device) -> list[Bucket]:
    return [bucket.to(device) for bucket in buckets]


def _validate(
    model: nn.Module,
    *,
    objective: Objective,
    config: TrainConfig,
    data: TrainingData,
    accelerator: Accelerator,
) -> ValScore:
    """Val pairs score the model and calibrate it."""
    how = ValidationSettings(
        batch_pairs=config.batch_pairs,
        device=accelerator.device,
        trained_head=objective.trains_visibility,
        bf16=config.precision == "bf16",
        rank=accelerator.process_index,
        ranks=accelerator.num_processes,
    )
    omama = cast(OMama, model)
    found = score_val(omama, data.val, data.val_store, how)

    calibration = found.calibration
    return ValScore(
        iou=found.iou,
        logged={"val_visibility_accuracy": calibration.balanced_accuracy} if calibration else {},
        calibrate=None if calibration is None else calibration.to_dict,
        untrained={"knn": found.knn_iou},
    )


def _describe(buckets: Sequence[Bucket], *, model: OMama, ids: Sequence[str]) -> str:
    return f"pair {ids[first_bad_pair(model, buckets)]}"
