"""What a stage will cost before it begins: frames, bytes, time; and a disk that has too little.

Bytes are counted, or measured with the time on the first batch of the first unit, which runs
where the units will: in this process, in a worker, on the cluster. What that batch makes is
thrown away.
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
UNASKED_FRAMES = 2000
"""So many are tried out even if nobody wants to read about it: their bytes may not fit."""
_LOOK_AFTER_SECONDS = 5.0
_SLOW_SECONDS = 1.0
"""An item that took longer is not followed by a whole batch to be more exact."""


@dataclass(frozen=True)
class TimedBatch:
    """What the first batch came to."""

    frames: int
    seconds: float
    bytes: int = 0
    """Of the files that it would have made."""


@dataclass(frozen=True)
class CostEstimate:
    """What is to be done."""

    frames: int
    there: int
    """Frames that are done already and stay."""
    bytes: int
    seconds: float | None = None

    def text(self, stage: str, free_bytes: int) -> str:
        """One line."""
        kept = f" ({self.there:,} are there)" if self.there else ""
        timed = "" if self.seconds is None else f", about {duration_text(self.seconds)}"
        return (
            f"{stage}: {self.frames:,} frames to do{kept}, {size_text(self.bytes)} of the "
            f"{size_text(free_bytes)} that are free{timed}"
        )


def check_disk_space(
    stage: str, folder: Path, price: CostEstimate, cures: str, *, quiet: bool
) -> None:
    """Print it; DataError where the disk of `folder` has less."""
    free = free_bytes(folder)
    if price.bytes > free:
        raise DataError(
            f"{stage} of {price.frames:,} frames needs {size_text(price.bytes)} and the disk of "
            f"{folder} has {size_text(free)}; {cures}"
        )
    if not quiet:
        print_line(price.text(stage, free))


def time_batch(items: Sequence[T], work: Callable[[Sequence[T]], int], batch: int) -> TimedBatch:
    """Time `work` (which returns bytes) on some of the items.

    The first is not timed: loading a network and compiling loops are of the beginning. A second
    that is slow says enough; else a whole batch is worked on.
    """
    count, seconds = _timed(items[:1], work)
    size = 1
    for some in (items[1:2], items[2 : 2 + batch]):
        if not some:
            break
        count, seconds = _timed(some, work)
        size = len(some)
        if seconds > _SLOW_SECONDS:
            break
    return TimedBatch(size, seconds, count)


def _timed(items: Sequence[T], work: Callable[[Sequence[T]], int]) -> tuple[int, float]:
    started = time.perf_counter()
    return work(items), time.perf_counter() - started


def measure_sample(
    submit: TaskSubmitter, work: Callable[[T], TimedBatch], item: T
) -> TimedBatch | None:
    """`work` on one item where the units will run; None where that fails: its unit will say why."""
    try:
        future = submit(work, item)
        while not wait([future], timeout=_LOOK_AFTER_SECONDS).done:
            if submit.trouble() is not None:
                return None
        found: TimedBatch = future.result()
        return found
    except Exception:  # a missing picture, a worker that died: no price, but no end either
        return None


def concurrent_units(run: RunOptions, units: int) -> int:
    """How many units run side by side."""
    return 1 if run.executor == "inline" else min(run.workers or available_cores(), units)
