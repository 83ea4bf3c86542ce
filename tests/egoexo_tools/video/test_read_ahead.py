"""Items produced ahead by threads have the order of `chain`, a bound, and end on close."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egoexo_tools.video.read_ahead import in_order


def source(items: list[int], error: Exception | None = None) -> Iterator[int]:
    yield from items
    if error is not None:
        raise error


@given(
    st.lists(st.lists(st.integers(), max_size=5), max_size=8), st.integers(1, 4), st.integers(1, 6)
)
@settings(max_examples=60)
def test_items_come_in_the_order_of_chain(lists: list[list[int]], threads: int, ahead: int) -> None:
    sources = [partial(source, items) for items in lists]
    assert list(in_order(sources, threads=threads, ahead=ahead)) == list(chain(*lists))


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_is_raised_after_the_items_before_it(threads: int) -> None:
    sources: list[Callable[[], Iterator[int]]] = [
        partial(source, [0, 1]),
        partial(source, [2], OSError("second")),
        partial(source, [3], OSError("third")),
    ]
    items = []
    with pytest.raises(OSError, match="second"):
        for item in in_order(sources, threads=threads, ahead=4):
            items.append(item)
    assert items == [0, 1, 2]


def test_production_ahead_is_limited() -> None:
    produced = threading.Semaphore(0)
    counts = [0] * 6

    def count_items(n: int) -> Iterator[int]:
        for _ in range(5):
            counts[n] += 1
            produced.release()
            yield n

    items = in_order([partial(count_items, n) for n in range(6)], threads=3, ahead=4)
    next(items)
    for _ in range(5):  # the item that was returned, and four ahead
        assert produced.acquire(timeout=10)
    assert not produced.acquire(timeout=0.2)
    for returned_count, _ in enumerate(items, 2):
        assert sum(counts) <= returned_count + 5
    assert counts == [5] * 6


def test_sources_work_at_the_same_time() -> None:
    barrier = threading.Barrier(2, timeout=10)

    def meet(n: int) -> Iterator[int]:
        barrier.wait()
        yield n

    sources = [partial(meet, n) for n in range(2)]
    assert list(in_order(sources, threads=2, ahead=2)) == [0, 1]


def test_closing_stops_every_thread() -> None:
    thread_count = threading.active_count()
    items = in_order([partial(source, [1, 2, 3])] * 5, threads=3, ahead=3)
    assert next(items) == 1
    assert threading.active_count() > thread_count
    items.close()
    assert threading.active_count() == thread_count
