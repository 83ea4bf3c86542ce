"""The loop of a training run: steps, validations, checkpoints, resuming, stopping.

It knows no model. A method describes itself as an `omama.task.Task`; the loop runs its
batches through its module and leaves `checkpoint_best.pt` (by val IoU), `checkpoint_last.pt` (all
that a resumed run needs), `log.jsonl` and TensorBoard files in the run's folder.

Nothing here is random. Where a task's batches follow from (seed, epoch, number, rank) alone, a run
that stops at any step and resumes has the losses of an undisturbed one, to the last bit.
"""

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Generic

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.running.stage import setting_changes
from egoexo_tools.runs import CHECKPOINT_BEST, CHECKPOINT_LAST
from omama.checkpoint import Checkpoint, TrainState, load_checkpoint, save_checkpoint
from omama.run_log import RunLog, shortfalls
from omama.stopping import stop_on_signals
from omama.task import Batch, LoopConfig, Task, ValScore

logger = logging.getLogger(__name__)

SAVE_SECONDS = 300.0
"""How much work a killed run loses at most, besides what a validation saves."""


@dataclass(frozen=True)
class StepLog:
    """What the log says of one optimizer step: means over its batches."""

    loss: float
    samples: int
    """Of this rank."""
    learning_rate: float
    """Of the first group."""
    parts: Mapping[str, float]


@dataclass
class LoopState:
    """Where a run is; all of it is in checkpoint_last.pt."""

    step: int = 0
    best_iou: float = -1.0
    stale: int = 0
    """Validations since the best one."""
    best_step: int = 0
    start: Mapping[str, float] = field(default_factory=dict)
    """Val IoU before the first step, by name; what learns nothing, and `start`."""


class Loop(Generic[Batch]):
    """One training run on one rank: `resume` it or not, then `run` it."""

    def __init__(
        self, task: Task[Batch], config: LoopConfig, *, accelerator: Accelerator, folder: Path
    ) -> None:
        self.task = task
        self.config = config
        self.accelerator = accelerator
        self.folder = folder
        self.progress = LoopState()
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": list(group.parameters),
                    "lr": group.learning_rate,
                    "weight_decay": group.weight_decay,
                }
                for group in task.groups
            ],
            fused=True,
        )
        # Its module is a copy of the model, with weights that lag behind.
        self.average = (
            AveragedModel(task.model, multi_avg_fn=get_ema_multi_avg_fn(config.average_decay))
            if config.average_decay
            else None
        )
        if self.average is not None and task.averages_start:
            self.average.n_averaged.fill_(1)
        self.steps_per_epoch: int = math.ceil(task.batches_per_epoch / config.accumulate)
        self.total_steps: int = config.epochs * self.steps_per_epoch

    @property
    def validated_model(self) -> nn.Module:
        """What is validated and kept: the average of the weights, or the weights."""
        return self.task.model if self.average is None else self.average.module

    def resume(self) -> None:
        """Take up the last checkpoint; start anew where its data is no longer the task's.

        Raises SettingsError where it was trained with other settings.
        """
        path = self.folder / CHECKPOINT_LAST
        if not path.is_file():
            return
        saved = load_checkpoint(path, method=self.task.method)
        state = saved.state
        if state.fingerprint != self.task.fingerprint:
            logger.warning(
                "%s was trained on other data (pairs, frames or features); training starts anew",
                path,
            )
            return
        old = {**saved.train_config, "ranks": state.ranks}
        new = {**self.task.settings, "ranks": self.accelerator.num_processes}
        if changed := setting_changes(old, new):
            raise SettingsError(
                f"{path} was trained with {changed}; resume with the same settings, or start "
                "anew (`omama train` without --resume, `egoexo-tools run` with --overwrite)"
            )
        if changed := setting_changes(saved.config, self.task.config):
            raise SettingsError(
                f"{path} holds a model with {changed}; resume with the same --init, or start anew"
            )
        self.task.model.load_state_dict(dict(saved.weights))
        self.optimizer.load_state_dict(dict(state.optimizer or {}))
        if self.average is not None:
            self.average.load_state_dict(dict(state.average or {}))
        # A run that patience ended has no step left, whatever its number.
        done = self.total_steps if state.stopped else saved.step
        self.progress = LoopState(
            done, state.best_iou, state.stale, state.best_step, dict(state.start)
        )

    def run(self, *, quiet: bool = False, stop_after: int | None = None) -> Path:
        """To the end, an early stop, or a signal; the last checkpoint says where.

        `stop_after` ends after that many steps. Returns the path of the best checkpoint. Raises
        DataError where the loss is not finite, KeyboardInterrupt (everything is saved) after a
        signal.
        """
        if self.progress.step < self.total_steps:
            ended = self._run(quiet, stop_after)
            if ended and self.accelerator.is_main_process:
                progress = self.progress
                for sentence in shortfalls(progress.start, progress.best_iou, progress.best_step):
                    logger.warning("%s: %s", self.folder.name, sentence)
        return self.folder / CHECKPOINT_BEST

    def _run(self, quiet: bool, stop_after: int | None) -> bool:
        """Whether it came to its end, of which an early stop is one."""
        wrapped = self.accelerator.prepare(self.task.module)
        first, saved = self.progress.step, time.monotonic()
        with self._open_log(quiet) as log, stop_on_signals() as stopping:
            if self.task.measures_start and first == 0:
                self._measure_start(log)
            for step in self._steps(wrapped):
                self.progress.step += 1
                self._log_step(log, step)
                validated = self._is_validation_step(self.progress.step)
                done = validated and self._validate(log)
                interrupted = self._anyone_stops(stopping)
                stop = interrupted or self.progress.step - first == stop_after
                if validated or stop or time.monotonic() - saved > SAVE_SECONDS:
                    self._save_last(stopped=done)
                    saved = time.monotonic()
                if interrupted:
                    self.accelerator.wait_for_everyone()  # the checkpoint is in place
                    raise KeyboardInterrupt
                if done or stop:
                    return done or self.progress.step >= self.total_steps
        return True

    def _steps(self, wrapped: nn.Module) -> Iterator[StepLog]:
        """Optimizer steps from where the run is."""
        accumulate, per_epoch = self.config.accumulate, self.task.batches_per_epoch
        while self.progress.step < self.total_steps:
            epoch, done = divmod(self.progress.step, self.steps_per_epoch)
            batches = self.task.batches(epoch, done * accumulate)
            for first in range(done * accumulate, per_epoch, accumulate):
                count = min(accumulate, per_epoch - first)
                yield self._step(wrapped, islice(batches, count), count)

    def _step(
        self, wrapped: nn.Module, batches: Iterator[tuple[Batch, int]], count: int
    ) -> StepLog:
        self.task.module.train()
        self._set_rates()
        loss, samples = 0.0, 0
        parts: dict[str, float] = {}
        for number, (cpu_batch, size) in enumerate(batches):
            batch = self.task.to_device(cpu_batch, self.accelerator.device)
            # Ranks exchange gradients once a step, with its last batch.
            last = number == count - 1
            with nullcontext() if last else self.accelerator.no_sync(wrapped):
                value, named = self._add_gradients(wrapped, batch, count)
            loss += value / count
            for name, part in named.items():
                parts[name] = parts.get(name, 0.0) + float(part) / count
            samples += size
        rate = self.optimizer.param_groups[0]["lr"]
        if self.config.clip_norm is not None:
            parts["gradient_norm"] = self._clip(self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.task.model)
        return StepLog(loss=loss, samples=samples, learning_rate=rate, parts=parts)

    def _add_gradients(
        self, wrapped: nn.Module, batch: Batch, count: int
    ) -> tuple[float, Mapping[str, torch.Tensor]]:
        """The loss of one of a step's `count` batches, whose mean the step descends."""
        loss, parts = wrapped(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            rate = self.task.groups[0].learning_rate
            raise DataError(
                f"the loss became {value} at step {self.progress.step + 1}, at "
                f"{self.task.describe_batch(batch)}; look at its frames, or train with a lower "
                f"learning rate than {rate:g}"
            )
        self.accelerator.backward(loss / count)
        return value, parts

    def _set_rates(self) -> None:
        """Each group's rate, from its first at step 0 to its final one at the last step."""
        part = self.progress.step / max(1, self.total_steps - 1)
        weight = self.config.schedule(part)
        for group, in_optimizer in zip(self.task.groups, self.optimizer.param_groups, strict=True):
            start, end = group.learning_rate, group.final_learning_rate
            in_optimizer["lr"] = end + (start - end) * weight

    def _clip(self, norm: float) -> float:
        """Scale the gradients of all groups together; returns their norm before."""
        parameters = [p for group in self.task.groups for p in group.parameters]
        return float(nn.utils.clip_grad_norm_(parameters, norm))

    def _open_log(self, quiet: bool) -> RunLog:
        samples, step = self.task.epoch_samples, self.progress.step
        log = RunLog(
            self.folder,
            step=step,
            done=round(samples * step / self.steps_per_epoch),
            total=samples * self.config.epochs,
            unit=self.task.unit,
            active=self.accelerator.is_main_process,
            quiet=quiet,
        )
        if self.task.introduction:
            log.say(self.task.introduction)
        return log

    def _log_step(self, log: RunLog, step: StepLog) -> None:
        log.step(
            step=self.progress.step,
            epoch=self._epoch(self.progress.step),
            loss=step.loss,
            lr=step.learning_rate,
            samples=step.samples * self.accelerator.num_processes,
            parts=step.parts,
        )

    def _anyone_stops(self, stopping: threading.Event) -> bool:
        """Whether any rank got a signal: all leave at one step, or some would wait for ever."""
        if self.accelerator.num_processes == 1:
            return stopping.is_set()
        mine = torch.tensor([float(stopping.is_set())], device=self.accelerator.device)
        return float(self.accelerator.reduce(mine, "sum")) > 0

    def _validate(self, log: RunLog) -> bool:
        """Validate, keep the best model; True where patience is at an end."""
        found = self.task.validate(self.validated_model)
        step, best = self.progress.step, self.progress.best_iou
        # Of two equals the trained one: it knows more of visibility than its start.
        if found.iou > best or (found.iou == best and self.progress.best_step == 0):
            self.progress.best_iou, self.progress.stale = found.iou, 0
            self.progress.best_step = step
            self._save_best(found)
        else:
            self.progress.stale += 1
        values = {"val_iou": found.iou, **found.logged}
        log.validation(step=step, epoch=self._epoch(step), values=values)
        patience = self.config.patience
        return patience is not None and self.progress.stale >= patience

    def _measure_start(self, log: RunLog) -> None:
        """Val IoU of the weights as they are, and of what learns nothing, before the first step."""
        found = self.task.validate(self.validated_model)
        self.progress.start = {**found.untrained}
        if self.task.keeps_start:
            self.progress.start = {"start": found.iou, **found.untrained}
            self.progress.best_iou = found.iou
            self._save_best(found)
        values = {f"{name}_val_iou": iou for name, iou in self.progress.start.items()}
        log.validation(step=0, epoch=0, values=values)

    def _save_best(self, found: ValScore) -> None:
        # Not only where it is written: all ranks calibrate together.
        calibration = found.calibrate() if found.calibrate else None
        if self.accelerator.is_main_process:
            checkpoint = self._checkpoint(self.validated_model, self._state())
            scored = replace(
                checkpoint, val_iou=found.iou, calibration=calibration, decision=found.decision
            )
            save_checkpoint(scored, self.folder / CHECKPOINT_BEST)

    def _save_last(self, *, stopped: bool) -> None:
        if self.accelerator.is_main_process:
            state = replace(
                self._state(),
                stopped=stopped,
                optimizer=self.optimizer.state_dict(),
                average=None if self.average is None else self.average.state_dict(),
            )
            save_checkpoint(self._checkpoint(self.task.model, state), self.folder / CHECKPOINT_LAST)

    def _checkpoint(self, model: nn.Module, state: TrainState) -> Checkpoint:
        return Checkpoint(
            config=self.task.config,
            weights=model.state_dict(),
            method=self.task.method,
            train_config=self.task.settings,
            features=self.task.features,
            epoch=self._epoch(self.progress.step),
            step=self.progress.step,
            state=state,
        )

    def _state(self) -> TrainState:
        return TrainState(
            fingerprint=self.task.fingerprint,
            best_iou=self.progress.best_iou,
            stale=self.progress.stale,
            best_step=self.progress.best_step,
            start=self.progress.start,
            ranks=self.accelerator.num_processes,
        )

    def _is_validation_step(self, step: int) -> bool:
        every = self.config.val_every_steps or self.steps_per_epoch
        return step % every == 0 or step == self.total_steps

    def _epoch(self, step: int) -> int:
        """The epoch, from 1, that optimizer step `step` (from 1) belongs to."""
        return (max(step, 1) - 1) // self.steps_per_epoch + 1
