"""The loop of a training run: steps, validations, checkpoints, resuming, stopping.

Nothing here is random but what follows from (seed, epoch, batch, rank); see `schedule`.
"""

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.running.stage import differences
from omama.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from omama.dataset import Dataset
from omama.matching.config import TrainConfig
from omama.matching.loading import FeatureStore, load_batches
from omama.matching.model import OMama
from omama.matching.objective import Objective, first_bad_pair, memory_advice
from omama.matching.samples import Bucket, Draw
from omama.matching.schedule import backbone_passes, epoch_batches
from omama.matching.validation import HowToValidate, Validation, calibrate_on_train, validate
from omama.run_log import RunLog

logger = logging.getLogger(__name__)

Int: TypeAlias = NDArray[np.int64]
BEST, LAST = "checkpoint_best.pt", "checkpoint_last.pt"
SAVE_SECONDS = 300.0
"""How much work a killed run loses at most, besides what a validation saves."""


@dataclass
class Progress:
    """Where a run is; all of it is in checkpoint_last.pt."""

    step: int = 0
    best_iou: float = -1.0
    stale: int = 0
    """Validations since the best one."""


class Run:
    """One training run on one rank."""

    def __init__(
        self,
        accelerator: Accelerator,
        objective: Objective,
        config: TrainConfig,
        folder: Path,
        data: Dataset,
        val: Dataset,
        stores: Sequence[FeatureStore],
        fingerprint: str,
    ) -> None:
        self.accelerator = accelerator
        self.objective = objective
        self.config = config
        self.folder = folder
        self.data, self.val = data, val
        self.store, self.val_store = stores
        self.fingerprint = fingerprint
        self.progress = Progress()
        parameters = [p for p in objective.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        # Its module is a copy of the model, with weights that lag behind.
        self.average = (
            AveragedModel(objective.model, multi_avg_fn=get_ema_multi_avg_fn(config.average_decay))
            if config.average_decay
            else None
        )
        ranks = accelerator.num_processes
        batches = math.ceil(math.ceil(len(data.pairs) / ranks) / config.batch_pairs)
        self.steps_per_epoch: int = math.ceil(batches / config.accumulate)
        self.total_steps: int = config.epochs * self.steps_per_epoch

    @property
    def model(self) -> OMama:
        return self.objective.model

    @property
    def kept_model(self) -> OMama:
        """What is validated and kept: the average of the weights, or the weights."""
        return self.model if self.average is None else cast(OMama, self.average.module)

    @cached_property
    def features_per_epoch(self) -> int:
        """Image features that this rank reads or computes in an epoch."""
        return backbone_passes(self.data.pairs, self.batches(0))

    @property
    def draw(self) -> Draw:
        config = self.config
        return Draw(config.candidates, config.negative_max_iou, config.reference_behaviour)

    def batches(self, epoch: int) -> list[Int]:
        """This rank's batches of an epoch (counted from 0)."""
        return epoch_batches(
            self.data.pairs,
            seed=self.config.seed,
            epoch=epoch,
            batch_size=self.config.batch_pairs,
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
        )

    def fit(self, *, quiet: bool, stop_after: int | None) -> None:
        """To the end, an early stop, or a signal; the last checkpoint says where."""
        if self.progress.step < self.total_steps:
            with memory_advice(self.config.batch_pairs):
                self._fit(quiet, stop_after)

    def _fit(self, quiet: bool, stop_after: int | None) -> None:
        wrapped = self.accelerator.prepare(self.objective)
        first, saved = self.progress.step, time.monotonic()
        with self._open_log(quiet) as log, _stop_on_signals() as stopping:
            for loss, pairs in self._steps(wrapped):
                self.progress.step += 1
                self._log_step(log, loss, pairs)
                validated = self._is_validation_step(self.progress.step)
                done = validated and self._validate(log)
                interrupted = self._anyone_stops(stopping)
                stop = interrupted or self.progress.step - first == stop_after
                if validated or stop or time.monotonic() - saved > SAVE_SECONDS:
                    self._save(LAST, optimizer=self.optimizer.state_dict(), stopped=done)
                    saved = time.monotonic()
                if interrupted:
                    self.accelerator.wait_for_everyone()  # the checkpoint is in place
                    raise KeyboardInterrupt
                if done or stop:
                    return

    def resume(self) -> None:
        """Take up the last checkpoint; start anew where its data is no longer the root's."""
        path = self.folder / LAST
        if not path.is_file():
            return
        saved = load_checkpoint(path)
        if saved.extra.get("fingerprint") != self.fingerprint:
            logger.warning("%s was trained on other pairs or features; training starts anew", path)
            return
        ranks = self.accelerator.num_processes
        old = {**saved.train_config, "ranks": saved.extra.get("ranks", ranks)}
        if changed := differences(old, {**self.config.to_dict(), "ranks": ranks}):
            raise SettingsError(
                f"{path} was trained with {changed}; resume with the same settings, or start "
                "anew (`omama train` without --resume, `egoexo-tools run` with --overwrite)"
            )
        self.model.load_state_dict(dict(saved.model))
        self.optimizer.load_state_dict(dict(saved.optimizer or {}))
        if self.average is not None:
            self.average.load_state_dict(saved.extra["average"])
        best, stale = float(saved.extra["best_iou"]), int(saved.extra["stale"])
        self.progress = Progress(saved.step, best, stale)
        if saved.extra["stopped"]:
            self.progress.step = self.total_steps

    def _open_log(self, quiet: bool) -> RunLog:
        pairs = len(self.data.pairs)
        done = round(pairs * self.progress.step / self.steps_per_epoch)
        log = RunLog(
            self.folder,
            step=self.progress.step,
            pairs_done=done,
            pairs=pairs * self.config.epochs,
            active=self.accelerator.is_main_process,
            quiet=quiet,
        )
        source = "read from the cache" if self.store.is_cache else "computed as they come"
        log.say(
            f"{pairs} train pairs, {len(self.val.pairs)} val pairs; "
            f"{self.features_per_epoch} image features an epoch, {source}"
        )
        return log

    def _anyone_stops(self, stopping: threading.Event) -> bool:
        """Whether any rank got a signal: all leave at one step, or some would wait for ever."""
        if self.accelerator.num_processes == 1:
            return stopping.is_set()
        mine = torch.tensor([float(stopping.is_set())], device=self.accelerator.device)
        return float(self.accelerator.reduce(mine, "sum")) > 0

    def _log_step(self, log: RunLog, loss: float, pairs: int) -> None:
        step = self.progress.step
        log.step(
            step=step,
            epoch=self._epoch(step),
            loss=loss,
            lr=self._lr(step - 1),
            pairs=pairs * self.accelerator.num_processes,
        )

    def _steps(self, wrapped: torch.nn.Module) -> Iterator[tuple[float, int]]:
        """Optimizer steps from where the run is: the loss and the number of this rank's pairs."""
        accumulate = self.config.accumulate
        while self.progress.step < self.total_steps:
            epoch, done = divmod(self.progress.step, self.steps_per_epoch)
            batches = self.batches(epoch)[done * accumulate :]
            rng = partial(self._rng, epoch, done * accumulate)
            loaded = load_batches(
                self.data.frames, self.data.pairs, batches, self.store, draw=self.draw, rng=rng
            )
            for start in range(0, len(batches), accumulate):
                group = batches[start : start + accumulate]
                loss = self._step(wrapped, [next(loaded) for _ in group])
                yield loss, sum(batch.size for batch in group)

    def _step(self, wrapped: torch.nn.Module, group: Sequence[list[Bucket]]) -> float:
        self.objective.train()
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = self._lr(self.progress.step)
        total = 0.0
        for number, cpu_buckets in enumerate(group):
            buckets = [bucket.to(self.accelerator.device) for bucket in cpu_buckets]
            last = number == len(group) - 1
            with nullcontext() if last else self.accelerator.no_sync(wrapped):
                loss = wrapped(buckets)
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise self._not_finite(value, buckets)
                self.accelerator.backward(loss / len(group))
            total += value / len(group)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)
        return total

    def _not_finite(self, value: float, buckets: Sequence[Bucket]) -> DataError:
        pair = self.data.pairs.ids[first_bad_pair(self.model, buckets)]
        return DataError(
            f"the loss became {value} at step {self.progress.step + 1}, at pair {pair}; look "
            f"at its frames, or train with a lower learning rate than {self.config.learning_rate:g}"
        )

    def _validate(self, log: RunLog) -> bool:
        """Validate, keep the best model; True where patience is at an end."""
        how = HowToValidate(
            batch_pairs=self.config.batch_pairs,
            accelerator=self.accelerator,
            trained_head=self.objective.trains_visibility,
            bf16=self.config.precision == "bf16",
        )
        found = validate(self.kept_model, self.val, self.val_store, how)
        step = self.progress.step
        if found.iou > self.progress.best_iou:
            self.progress.best_iou, self.progress.stale = found.iou, 0
            calibration = found.calibration
            if calibration is None:
                calibration = calibrate_on_train(self.kept_model, self.data, self.store, how)
            self._save(BEST, replace(found, calibration=calibration))
        else:
            self.progress.stale += 1
        calibration = found.calibration
        accuracy = calibration.balanced_accuracy if calibration else None
        log.validation(
            step=step, epoch=self._epoch(step), val_iou=found.iou, val_visibility_accuracy=accuracy
        )
        patience = self.config.patience
        return patience is not None and self.progress.stale >= patience

    def _save(
        self,
        name: str,
        found: Validation | None = None,
        *,
        optimizer: dict[str, Any] | None = None,
        stopped: bool = False,
    ) -> None:
        if not self.accelerator.is_main_process:
            return
        calibration = found.calibration if found else None
        model = self.model if name == LAST else self.kept_model
        average = None if self.average is None or name != LAST else self.average.state_dict()
        checkpoint = Checkpoint(
            model_config=model.config,
            model=model.state_dict(),
            train_config=self.config.to_dict(),
            backbone=asdict(self.store.key),
            optimizer=optimizer,
            epoch=self._epoch(self.progress.step),
            step=self.progress.step,
            val_iou=found.iou if found else None,
            best_val_iou=self.progress.best_iou,
            visibility_threshold=calibration.threshold if calibration else None,
            extra={
                "fingerprint": self.fingerprint,
                "best_iou": self.progress.best_iou,
                "stale": self.progress.stale,
                "stopped": stopped,
                "ranks": self.accelerator.num_processes,
                "calibration": calibration.to_dict() if calibration else None,
                "average": average,
            },
        )
        save_checkpoint(checkpoint, self.folder / name)

    def _is_validation_step(self, step: int) -> bool:
        every = self.config.val_every_steps or self.steps_per_epoch
        return step % every == 0 or step == self.total_steps

    def _lr(self, step: int) -> float:
        """Cosine from the first step (0) to the last."""
        start, end = self.config.learning_rate, self.config.final_learning_rate
        part = step / max(1, self.total_steps - 1)
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * part))

    def _rng(self, epoch: int, skipped: int, batch: int) -> np.random.Generator:
        rank = self.accelerator.process_index
        return np.random.default_rng((self.config.seed, epoch, skipped + batch, rank))

    def _epoch(self, step: int) -> int:
        """The epoch, from 1, that optimizer step `step` (from 1) belongs to."""
        return (max(step, 1) - 1) // self.steps_per_epoch + 1


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set: the step ends, the checkpoint is written."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
