"""What a training run says while it runs: log.jsonl, TensorBoard, and a progress bar.

`log.jsonl` has one JSON object a line, with the keys that are known at that moment: step, epoch,
loss, lr, and the method's pairs_per_second (or clips_per_second) and parts of the loss; after a
validation also val_iou and the method's other values, such as val_visibility_accuracy. A first
line, of step 0, may have the val IoU before training: knn_val_iou, and start_val_iou where the
start is a model of worth. A run that resumes at step s drops the lines after s first, so that the
file reads as if it had never stopped.
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
    """Opened at step `step` of a run, `done` of its `total` samples behind it.

    `unit` is what a sample is called; `active` False (another rank than the first) does nothing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        step: int,
        done: int,
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
            initial=done,
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
        # A slow import (seconds with some installations) that only a training run needs.
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
        """A line above the bar, unless quiet."""
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
        """One optimizer step over `samples` samples (of all ranks)."""
        now = time.perf_counter()
        rate = samples / max(now - self._last, 1e-9)
        self._last = now
        self._bar.update(samples)
        self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self._write(
            {"step": step, "epoch": epoch, "loss": loss, "lr": lr, self._rate: rate, **parts}
        )

    def validation(self, *, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """What a validation after this step found, by the names that the log has for it."""
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        self.say(f"epoch {epoch}, step {step}: {shown}")
        self._write({"step": step, "epoch": epoch, **values})
        self._last = time.perf_counter()  # validation is not training time

    def _write(self, line: dict[str, Any]) -> None:
        if not self._active:
            return
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in line.items():
            if name not in {"step", "epoch"}:
                self._board.add_scalar(name, value, line["step"])


def shortfalls(start: Mapping[str, float], best_iou: float, best_step: int) -> list[str]:
    """A sentence for each thing that a finished run is not better than.

    `start` is val IoU before the first step, by name; step 0 is the best where none came up to it.
    """
    found = []
    if "start" in start and best_step == 0:
        found.append(
            f"no validation came up to the start's val IoU of {best_iou:.3f}; the best checkpoint "
            "is the start as it was. Try a lower learning rate or fewer epochs"
        )
    for name, iou in start.items():
        if name != "start" and best_iou < iou:
            found.append(
                f"the best val IoU is {best_iou:.3f}, that of {name}, which learns nothing, "
                f"{iou:.3f}; predict with {name}, or train longer or another model"
            )
    return found


def _cut_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue  # half a line of a killed run
    write_atomic(path, "".join(kept) if step else "")
