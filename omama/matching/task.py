"""O-MaMa for the training loop: batches of pairs, the loss, and validation."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import cast

import numpy as np
from accelerate import Accelerator
from torch import nn

from egoexo_tools.arrays import Int64
from omama.dataset import Dataset
from omama.features.store import FeatureStore
from omama.matching.config import TrainConfig
from omama.matching.loading import epoch_batches, frames_to_load, load_batches
from omama.matching.model import OMama
from omama.matching.model_files import METHOD
from omama.matching.objective import Objective, first_bad_pair
from omama.matching.samples import Bucket, NegativeSampling
from omama.matching.val_scores import ValidationSettings, score_val
from omama.task import LoopConfig, ParameterGroup, Task, ValScore


@dataclass(frozen=True)
class TrainingData:
    """Train and val pairs, and the features of their frames."""

    train: Dataset
    val: Dataset
    train_store: FeatureStore
    val_store: FeatureStore

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything a run learns from: pairs, the masks of their frames, the backbone."""
        digest = hashlib.sha256(self.train_store.key.name.encode())
        for part in (self.train, self.val):
            digest.update("\n".join(part.pairs.ids).encode())
            digest.update(part.pairs.state.tobytes())
            for masks in (part.frames.masks, part.frames.proposals):
                digest.update(masks.start.tobytes())
                # Mapped gigabytes: hashed in place, not copied.
                digest.update(np.ascontiguousarray(masks.boxes).data)
        return digest.hexdigest()[:16]


def loop_config(config: TrainConfig) -> LoopConfig:
    """The settings of the loop."""
    return LoopConfig(
        epochs=config.epochs,
        accumulate=config.accumulate,
        average_decay=config.average_decay,
        val_every_steps=config.val_every_steps,
        patience=config.patience,
    )


@dataclass(frozen=True)
class MatchingTraining:
    """The training of one direction on this rank."""

    objective: Objective
    config: TrainConfig
    data: TrainingData
    accelerator: Accelerator

    def make_task(self, *, keeps_start: bool, averages_start: bool) -> Task[list[Bucket]]:
        """The task of the loop; for the arguments see `Task`."""
        config, data, objective = self.config, self.data, self.objective
        pairs, val_pairs = len(data.train.pairs), len(data.val.pairs)
        rank_pairs = math.ceil(pairs / self.accelerator.num_processes)
        source = "read from the cache" if data.train_store.is_cache else "computed when needed"
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
            # All ranks have equally many batches, or some would wait for gradients forever.
            batches_per_epoch=math.ceil(rank_pairs / config.batch_pairs),
            batches=self._load,
            to_device=lambda buckets, device: [bucket.to(device) for bucket in buckets],
            validate=self._validate,
            describe_batch=self._describe,
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
                f"{self.image_features_per_epoch} image features an epoch, {source}"
            ),
        )

    @cached_property
    def image_features_per_epoch(self) -> int:
        """Number of images whose features this rank reads or computes in an epoch."""
        loads = frames_to_load(self.data.train.pairs, self._epoch_batches(0))
        return sum(frames.size for frames in loads)

    def _epoch_batches(self, epoch: int) -> list[Int64]:
        """This rank's batches of an epoch (from 0), as positions of pairs."""
        return epoch_batches(
            self.data.train.pairs,
            seed=self.config.seed,
            epoch=epoch,
            batch_size=self.config.batch_pairs,
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
        )

    def _load(self, epoch: int, first: int) -> Iterator[tuple[list[Bucket], int]]:
        config, data = self.config, self.data
        batches = self._epoch_batches(epoch)[first:]

        def rng(number: int) -> np.random.Generator:
            # Each batch has its own generator, so that a run resumed within an epoch draws the
            # candidates of an undisturbed one.
            seeds = (config.seed, epoch, first + number, self.accelerator.process_index)
            return np.random.default_rng(seeds)

        sampling = NegativeSampling(
            config.candidates, config.negative_max_iou, config.reference_behaviour
        )
        loaded = load_batches(
            data.train.frames,
            data.train.pairs,
            batches,
            data.train_store,
            sampling=sampling,
            rng=rng,
        )
        return zip(loaded, (batch.size for batch in batches), strict=True)

    def _validate(self, model: nn.Module) -> ValScore:
        settings = ValidationSettings(
            batch_pairs=self.config.batch_pairs,
            device=self.accelerator.device,
            trained_head=self.objective.trains_visibility,
            bf16=self.config.precision == "bf16",
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
        )
        data = self.data
        validation = score_val(cast(OMama, model), data.val, data.val_store, settings)
        calibration = validation.calibration
        accuracy = (
            {}
            if calibration is None
            else {"val_visibility_accuracy": calibration.balanced_accuracy}
        )
        return ValScore(
            iou=validation.iou,
            logged=accuracy,
            # Already computed; the loop asks for it if this is the best validation.
            calibrate=None if calibration is None else calibration.to_dict,
            baselines={"knn": validation.knn_iou},
        )

    def _describe(self, buckets: Sequence[Bucket]) -> str:
        pair = first_bad_pair(self.objective.model, buckets)
        return f"pair {self.data.train.pairs.ids[pair]}"
