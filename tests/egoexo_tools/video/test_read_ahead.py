"""Items made ahead by threads: the same as one after the other, bounded, and stopped at once."""

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
    st.lists(st.lists(st.integers(), max_size=5), max_size=8),
    st.integers(1, 4),
    st.integers(1, 6),
)
@settings(max_examples=60)
def test_like_chain(lists: list[list[int]], threads: int, ahead: int) -> None:
    sources = [partial(source, items) for items in lists]
    assert list(in_order(sources, threads=threads, ahead=ahead)) == list(chain(*lists))


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_after_what_was_made_before_it(threads: int) -> None:
    sources: list[Callable[[], Iterator[int]]] = [
        partial(source, [0, 1]),
        partial(source, [2], OSError("second")),
        partial(source, [3], OSError("third")),
    ]
    taken = []
    with pytest.raises(OSError, match="second"):
        for item in in_order(sources, threads=threads, ahead=4):
            taken.append(item)
    assert taken == [0, 1, 2]


def test_no_more_is_made_than_is_asked_for() -> None:
    made = threading.Semaphore(0)
    count = [0] * 6

    def counted(place: int) -> Iterator[int]:
        for _ in range(5):
            count[place] += 1
            made.release()
            yield place

    items = in_order([partial(counted, place) for place in range(6)], threads=3, ahead=4)
    next(items)
    for _ in range(5):  # the one that was taken, and four ahead
        assert made.acquire(timeout=10)
    assert not made.acquire(timeout=0.2)
    for taken, _ in enumerate(items, 2):
        assert sum(count) <= taken + 5
    assert count == [5] * 6


def test_sources_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=10)

    def meeting(place: int) -> Iterator[int]:
        both.wait()
        yield place

    sources = [partial(meeting, place) for place in range(2)]
    assert list(in_order(sources, threads=2, ahead=2)) == [0, 1]


def test_closing_stops_every_thread() -> None:
    before = threading.active_count()
    items = in_order([partial(source, [1, 2, 3])] * 5, threads=3, ahead=3)
    assert next(items) == 1
    assert threading.active_count() > before
    items.close()
    assert threading.active_count() == before
