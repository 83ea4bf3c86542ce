"""Estimates what a stage costs before it starts (frames, bytes, time) and checks the disk space.

Bytes are computed, or measured together with the time on the first batch of the first unit. That
batch runs where the units will run: in this process, in a worker, or on the cluster. Its outputs
are discarded.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from egoexo_tools.disk import free_bytes, size_text
from egoexo_tools.errors import DataError
from egoexo_tools.running.executors import TaskSubmitter, available_cores
from egoexo_tools.running.progress import duration_text, print_line
from egoexo_tools.running.records import RunOptions

T = TypeVar("T")
LARGE_JOB_FRAMES = 2000
"""From this many frames on the cost is measured even with --quiet: the disk may be too small."""
_POLL_SECONDS = 5.0
_SLOW_SECONDS = 1.0
"""If one item takes longer, no batch follows to make the estimate more exact."""


@dataclass(frozen=True)
class TimedBatch:
    """Measurements of the first batch."""

    frames: int
    seconds: float
    bytes: int = 0
    """Size of the files that it would write."""


@dataclass(frozen=True)
class CostEstimate:
    """What a stage has to do."""

    frames: int
    existing_frames: int
    """Frames that were processed before and are kept."""
    bytes: int
    seconds: float | None = None

    def text(self, stage: str, free: int) -> str:
        """One line; `free` is the free disk space in bytes."""
        existing = f" ({self.existing_frames:,} exist)" if self.existing_frames else ""
        duration = "" if self.seconds is None else f", about {duration_text(self.seconds)}"
        return (
            f"{stage}: {self.frames:,} frames to process{existing}, {size_text(self.bytes)} of "
            f"{size_text(free)} free{duration}"
        )


def check_disk_space(
    stage: str, folder: Path, cost: CostEstimate, advice: str, *, quiet: bool
) -> None:
    """Print the estimate; DataError with `advice` if the disk of `folder` has less free space."""
    free = free_bytes(folder)
    if cost.bytes > free:
        raise DataError(
            f"{stage} of {cost.frames:,} frames needs {size_text(cost.bytes)} and the disk of "
            f"{folder} has {size_text(free)}; {advice}"
        )
    if not quiet:
        print_line(cost.text(stage, free))


def time_batch(
    items: Sequence[T], work: Callable[[Sequence[T]], int], batch_size: int
) -> TimedBatch:
    """Time `work`, which returns bytes, on some of the items.

    The first item is not counted, because it includes loading a network and compiling loops. If
    the second item is slow, its time is the result; otherwise that of a whole batch.
    """
    timed = TimedBatch(1, 0.0)
    for number, batch in enumerate((items[:1], items[1:2], items[2 : 2 + batch_size])):
        if not batch:
            break
        start = time.perf_counter()
        size = work(batch)
        timed = TimedBatch(len(batch), time.perf_counter() - start, size)
        if number and timed.seconds > _SLOW_SECONDS:
            break
    return timed


def measure_sample(
    submit: TaskSubmitter, work: Callable[[T], TimedBatch], item: T
) -> TimedBatch | None:
    """`work` on one item where the units will run; None on failure, which its unit will report."""
    try:
        future = submit(work, item)
        while not wait([future], timeout=_POLL_SECONDS).done:
            if submit.problem() is not None:
                return None
        timed: TimedBatch = future.result()
        return timed
    except Exception:  # a missing picture, a dead worker: no estimate, but the stage goes on
        return None


def concurrent_units(run: RunOptions, units: int) -> int:
    """How many of the units run at the same time."""
    return 1 if run.executor == "inline" else min(run.workers or available_cores(), units)
