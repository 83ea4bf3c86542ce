"""Estimates of a stage's time."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from egoexo_tools.running import disk_cost


@pytest.mark.parametrize(
    ("slow_items", "batches", "timed_frames"),
    [
        ({0}, [1, 1, 4], 4),  # the first item compiles loops
        ({0, 1}, [1, 1], 1),  # every item is slow
        (set(), [1, 1, 4], 4),
    ],
)
def test_the_first_item_is_not_part_of_the_time(
    slow_items: set[int], batches: list[int], timed_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(disk_cost, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    sizes: list[int] = []

    def work(batch: Sequence[int]) -> int:
        sizes.append(len(batch))
        clock[0] += sum(5.0 if item in slow_items else 0.01 for item in batch)
        return 7 * len(batch)

    timed = disk_cost.time_batch(range(20), work, 4)
    assert sizes == batches
    assert (timed.frames, timed.bytes) == (timed_frames, 7 * timed_frames)
    assert timed.seconds == pytest.approx(5.0 if 1 in slow_items else 0.04)
