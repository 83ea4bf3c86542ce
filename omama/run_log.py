"""The log of a training run: log.jsonl, TensorBoard, and a progress bar.

`log.jsonl` has one JSON object a line. After a step, its keys are step, epoch, loss, lr,
pairs_per_second (or clips_per_second) and the parts of the loss; after a validation, step, epoch,
val_iou and the method's other values, such as val_visibility_accuracy. A first line of step 0 may
contain the val IoU before training: knn_val_iou, and start_val_iou if the initial weights are
usable. A run that resumes at step s removes the lines after s, so that the file reads as if the run
had not stopped.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from egoexo_tools.layout import write_atomic
from egoexo_tools.running.progress import open_progress, print_line
from egoexo_tools.runs import TENSORBOARD, RunFolder


class RunLog:
    """The log of a run that starts or resumes at step `step`, after `seen_samples` of `total`.

    `unit` is the name of a sample. With `active` False (on further ranks) nothing is logged.
    """

    def __init__(
        self,
        folder: Path,
        *,
        step: int,
        seen_samples: int,
        total: int,
        unit: str,
        active: bool,
        quiet: bool,
    ) -> None:
        self._active = active
        self._rate = f"{unit}s_per_second"
        self._path = RunFolder(folder).log
        self._quiet = quiet or not active
        self._bar = open_progress(
            total=total,
            initial=seen_samples,
            desc=f"train {folder.name}",
            unit=unit,
            smoothing=0.05,
            quiet=self._quiet,
        )
        self._last = time.perf_counter()
        if not active:
            return
        folder.mkdir(parents=True, exist_ok=True)
        _cut_after(self._path, step)
        self._file = self._path.open("a", encoding="utf-8")
        # Slow to import (seconds in some installations), and needed only here.
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        if self._active:
            self._file.close()
            self._board.close()

    def say(self, text: str) -> None:
        """Print a line above the bar, unless quiet."""
        if not self._quiet:
            print_line(text)

    def step(
        self,
        *,
        step: int,
        epoch: int,
        loss: float,
        lr: float,
        samples: int,
        parts: Mapping[str, float],
    ) -> None:
        """Log an optimizer step over `samples` samples of all ranks."""
        now = time.perf_counter()
        rate = samples / max(now - self._last, 1e-9)
        self._last = now
        self._bar.update(samples)
        self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self._write(
            {"step": step, "epoch": epoch, "loss": loss, "lr": lr, self._rate: rate, **parts}
        )

    def validation(self, *, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Log the values of a validation after this step."""
        text = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        self.say(f"epoch {epoch}, step {step}: {text}")
        self._write({"step": step, "epoch": epoch, **values})
        self._last = time.perf_counter()  # the rate of the next step excludes validation

    def _write(self, line: dict[str, Any]) -> None:
        if not self._active:
            return
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()  # so that people can follow the run, and a killed one loses nothing
        for name, value in line.items():
            if name not in {"step", "epoch"}:
                self._board.add_scalar(name, value, line["step"])


def missing_improvements(start: Mapping[str, float], best_iou: float, best_step: int) -> list[str]:
    """A warning for each value before training that a finished run does not exceed.

    `start` is the val IoU before the first step, by name: of the initial weights (`start`) and of
    methods without training. `best_step` is 0 if no validation matches the initial weights.
    """
    warnings = []
    if "start" in start and best_step == 0:
        warnings.append(
            f"no validation matches the val IoU {best_iou:.3f} of the initial weights; the best "
            "checkpoint is the initial one. Try a lower learning rate or fewer epochs"
        )
    for name, iou in start.items():
        if name != "start" and best_iou < iou:
            warnings.append(
                f"the best val IoU is {best_iou:.3f}; {name}, without training, has {iou:.3f}. "
                f"Predict with {name}, or train longer or another model"
            )
    return warnings


def _cut_after(path: Path, step: int) -> None:
    """Remove the lines of later steps, and all lines if the run starts again."""
    if not path.exists():
        return
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                lines.append(line + "\n")
        except (ValueError, KeyError):
            continue  # a killed run may leave half a line
    write_atomic(path, "".join(lines) if step else "")
