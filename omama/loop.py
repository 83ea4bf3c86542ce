"""The training loop: steps, validations, checkpoints, resuming, early stopping.

The loop knows no model: a method describes itself as an `omama.task.Task`. The loop writes
`checkpoint_best.pt` (by val IoU), `checkpoint_last.pt` (all that a resumed run needs), `log.jsonl`
and TensorBoard files into the run's folder.

Nothing here is random. If a task's batches are a function of (seed, epoch, number, rank), a run
that stops at any step and resumes has the same losses as an undisturbed one, to the last bit.
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
from egoexo_tools.runs import CHECKPOINT_BEST, CHECKPOINT_LAST, RunFolder
from omama.checkpoint import Checkpoint, TrainState, load_checkpoint, save_checkpoint
from omama.run_log import RunLog, missing_improvements
from omama.stopping import stop_on_signals
from omama.task import Batch, LoopConfig, Task, ValScore

logger = logging.getLogger(__name__)

SAVE_SECONDS = 300.0
"""Seconds between two saves of the last checkpoint: a killed run loses at most this work."""


@dataclass(frozen=True)
class StepLog:
    """Log values of one optimizer step: means over its batches."""

    loss: float
    samples: int
    """Number of samples on this rank."""
    learning_rate: float
    """Learning rate of the first parameter group."""
    parts: Mapping[str, float]
    """Further values by name: parts of the loss, and the norm of the gradients if it is limited."""


@dataclass
class LoopState:
    """Progress of a run; checkpoint_last.pt contains all of it."""

    step: int = 0
    """Number of optimizer steps done."""
    best_iou: float = -1.0
    stale: int = 0
    """Validations since the best one."""
    best_step: int = 0
    start: Mapping[str, float] = field(default_factory=dict)
    """Val IoU before the first step, by name: of methods without training, and of the initial
    weights as `start`."""


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
        # Its module is a copy of the model that has the averaged weights.
        self.average = (
            AveragedModel(task.model, multi_avg_fn=get_ema_multi_avg_fn(config.average_decay))
            if config.average_decay
            else None
        )
        if self.average is not None and task.averages_start:
            self.average.n_averaged.fill_(1)  # 0 would replace the initial weights at step 1
        self.steps_per_epoch: int = math.ceil(task.batches_per_epoch / config.accumulate)
        self.total_steps: int = config.epochs * self.steps_per_epoch

    @property
    def validated_model(self) -> nn.Module:
        """The model that is validated and saved as the best: the average, if there is one."""
        return self.task.model if self.average is None else self.average.module

    def resume(self, *, overwrite: bool = False) -> None:
        """Continue from the last checkpoint, if there is one.

        Raises SettingsError if it was trained with other settings, or on other data; with
        `overwrite` training starts again on other data.
        """
        path = self.folder / CHECKPOINT_LAST
        if not path.is_file():
            return
        saved = load_checkpoint(path, method=self.task.method)
        state = saved.state
        if state.fingerprint != self.task.fingerprint:
            if not overwrite:
                raise SettingsError(
                    f"{path} was trained on other data (pairs, frames or features); train again "
                    "into a run of another name, or replace this one with --overwrite"
                )
            logger.warning(
                "%s was trained on other data (pairs, frames or features); training starts again",
                path,
            )
            return
        old = {**saved.train_config, "ranks": state.ranks}
        new = {**self.task.settings, "ranks": self.accelerator.num_processes}
        if changed := setting_changes(old, new):
            raise SettingsError(
                f"{path} was trained with {changed}; resume with the same settings, or start "
                "again (`omama train` without --resume, `egoexo-tools run` with --overwrite)"
            )
        # The shape of a model depends on --init too, which is not a training setting.
        if changed := setting_changes(saved.config, self.task.config):
            raise SettingsError(
                f"{path} holds a model with {changed}; resume with the same --init, or start again"
            )
        self.task.model.load_state_dict(dict(saved.weights))
        self.optimizer.load_state_dict(dict(state.optimizer or {}))
        if self.average is not None:
            self.average.load_state_dict(dict(state.average or {}))
        # After an early stop no step is left, although the step number is lower.
        step = self.total_steps if state.stopped else saved.step
        self.progress = LoopState(
            step, state.best_iou, state.stale, state.best_step, dict(state.start)
        )

    def run(self, *, quiet: bool = False, stop_after: int | None = None) -> Path:
        """Train to the end, an early stop, or a signal; returns the path of the best checkpoint.

        `stop_after` ends the run after that many steps. Raises DataError if the loss is not finite,
        and KeyboardInterrupt after a signal, when everything is saved.
        """
        if self.progress.step < self.total_steps:
            finished = self._run(quiet, stop_after)
            if finished and self.accelerator.is_main_process:
                state = self.progress
                for text in missing_improvements(state.start, state.best_iou, state.best_step):
                    logger.warning("%s: %s", self.folder.name, text)
        return self.folder / CHECKPOINT_BEST

    def _run(self, quiet: bool, stop_after: int | None) -> bool:
        """Whether the run is finished, which an early stop counts as."""
        wrapped = self.accelerator.prepare(self.task.module)
        first, saved = self.progress.step, time.monotonic()
        if first == 0 and self.accelerator.is_main_process:
            RunFolder(self.folder).remove_results()
        log = RunLog(
            self.folder,
            step=first,
            seen_samples=round(self.task.epoch_samples * first / self.steps_per_epoch),
            total=self.task.epoch_samples * self.config.epochs,
            unit=self.task.unit,
            active=self.accelerator.is_main_process,
            quiet=quiet,
        )
        val_every = self.config.val_every_steps or self.steps_per_epoch
        with log, stop_on_signals() as stopping:
            if self.task.introduction:
                log.say(self.task.introduction)
            if self.task.measures_start and first == 0:
                self._measure_start(log)
            for values in self._steps(wrapped):
                self.progress.step += 1
                step = self.progress.step
                log.step(
                    step=step,
                    epoch=self._epoch(step),
                    loss=values.loss,
                    lr=values.learning_rate,
                    samples=values.samples * self.accelerator.num_processes,
                    parts=values.parts,
                )
                validates = step % val_every == 0 or step == self.total_steps
                early_stop = validates and self._validate(log)
                interrupted = self._any_rank_stops(stopping)
                ends = early_stop or interrupted or step - first == stop_after
                if validates or ends or time.monotonic() - saved > SAVE_SECONDS:
                    self._save_last(stopped=early_stop)
                    saved = time.monotonic()
                if interrupted:
                    self.accelerator.wait_for_everyone()  # until the checkpoint is written
                    raise KeyboardInterrupt
                if ends:
                    return early_stop or step >= self.total_steps
        return True

    def _steps(self, wrapped: nn.Module) -> Iterator[StepLog]:
        """The optimizer steps from the current one to the last."""
        accumulate, per_epoch = self.config.accumulate, self.task.batches_per_epoch
        while self.progress.step < self.total_steps:
            epoch, steps_done = divmod(self.progress.step, self.steps_per_epoch)
            batches = self.task.batches(epoch, steps_done * accumulate)
            for first in range(steps_done * accumulate, per_epoch, accumulate):
                count = min(accumulate, per_epoch - first)
                yield self._step(wrapped, islice(batches, count), count)

    def _step(
        self, wrapped: nn.Module, batches: Iterator[tuple[Batch, int]], count: int
    ) -> StepLog:
        """One optimizer step over `count` batches."""
        self.task.module.train()
        # Each group's rate goes from its first at step 0 to its final one at the last step.
        weight = self.config.schedule(self.progress.step / max(1, self.total_steps - 1))
        for group, in_optimizer in zip(self.task.groups, self.optimizer.param_groups, strict=True):
            start, end = group.learning_rate, group.final_learning_rate
            in_optimizer["lr"] = end + (start - end) * weight
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
            parameters = [p for group in self.task.groups for p in group.parameters]
            norm = nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
            parts["gradient_norm"] = float(norm)  # before scaling
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.task.model)
        return StepLog(loss=loss, samples=samples, learning_rate=rate, parts=parts)

    def _add_gradients(
        self, wrapped: nn.Module, batch: Batch, count: int
    ) -> tuple[float, Mapping[str, torch.Tensor]]:
        """Loss and its parts of a batch; its gradients are added with the weight 1 / count."""
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

    def _any_rank_stops(self, stopping: threading.Event) -> bool:
        """Whether any rank got a signal. All stop at the same step: a rank that goes on would wait
        for the others forever."""
        if self.accelerator.num_processes == 1:
            return stopping.is_set()
        flag = torch.tensor([float(stopping.is_set())], device=self.accelerator.device)
        return float(self.accelerator.reduce(flag, "sum")) > 0

    def _validate(self, log: RunLog) -> bool:
        """Validate and save the best model; True if `patience` is exceeded."""
        score, state = self.task.validate(self.validated_model), self.progress
        # At equal IoU the trained weights are preferred to the initial ones: their visibility head
        # is trained.
        if score.iou > state.best_iou or (score.iou == state.best_iou and state.best_step == 0):
            state.best_iou, state.best_step, state.stale = score.iou, state.step, 0
            self._save_best(score)
        else:
            state.stale += 1
        values = {"val_iou": score.iou, **score.logged}
        log.validation(step=state.step, epoch=self._epoch(state.step), values=values)
        patience = self.config.patience
        return patience is not None and state.stale >= patience

    def _measure_start(self, log: RunLog) -> None:
        """Val IoU of the initial weights and of methods without training."""
        score = self.task.validate(self.validated_model)
        self.progress.start = {**score.baselines}
        if self.task.keeps_start:
            self.progress.start = {"start": score.iou, **score.baselines}
            self.progress.best_iou = score.iou
            self._save_best(score)
        values = {f"{name}_val_iou": iou for name, iou in self.progress.start.items()}
        log.validation(step=0, epoch=0, values=values)

    def _save_best(self, score: ValScore) -> None:
        # On all ranks, because they calibrate together.
        calibration = score.calibrate() if score.calibrate else None
        if self.accelerator.is_main_process:
            checkpoint = self._checkpoint(self.validated_model, self._state())
            checkpoint = replace(checkpoint, val_iou=score.iou, calibration=calibration)
            save_checkpoint(checkpoint, self.folder / CHECKPOINT_BEST)

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

    def _epoch(self, step: int) -> int:
        """The epoch, from 1, of optimizer step `step` (from 1)."""
        return (max(step, 1) - 1) // self.steps_per_epoch + 1
