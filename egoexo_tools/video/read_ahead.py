"""Iterates over several generators in order while threads produce their items ahead of time."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Generic, TypeVar

Item = TypeVar("Item")


def in_order(
    sources: Sequence[Callable[[], Iterator[Item]]], *, threads: int, ahead: int
) -> Generator[Item, None, None]:
    """Yield the items of one source after the other, as `itertools.chain` would.

    `threads` sources run at a time, each in one thread. At most `ahead` items are buffered or in
    production, plus one of the source whose turn it is. An error in a source is raised after the
    source's items. Closing the generator stops all threads.
    """
    if threads == 1 or len(sources) < 2:
        yield from chain.from_iterable(source() for source in sources)
        return
    buffers = _Buffers[Item](len(sources), ahead)
    with ThreadPoolExecutor(min(threads, len(sources))) as pool:
        try:
            fills = [pool.submit(buffers.fill, n, source) for n, source in enumerate(sources)]
            for n, fill in enumerate(fills):
                yield from buffers.items(n)
                fill.result()
        finally:
            buffers.close()


class _Buffers(Generic[Item]):
    """One buffer for each source, with a common limit."""

    def __init__(self, count: int, ahead: int) -> None:
        self._buffers: list[deque[Item]] = [deque() for _ in range(count)]
        self._is_complete = [False] * count
        self._item_count = 0
        """Items that are buffered or in production."""
        self._ahead = ahead
        self._turn = 0
        self._closed = False
        self._changed = threading.Condition()

    def fill(self, n: int, source: Callable[[], Iterator[Item]]) -> None:
        """Put the source's items into its buffer, waiting for room before each."""
        try:
            if self._start_item(n):
                for item in source():
                    with self._changed:
                        self._buffers[n].append(item)
                        self._changed.notify_all()
                    del item  # it may be large, and the next one may take long
                    if not self._start_item(n):
                        return
        finally:
            with self._changed:
                self._item_count -= 1  # the item that was started and never came
                self._is_complete[n] = True
                self._changed.notify_all()

    def items(self, n: int) -> Iterator[Item]:
        """Take the items of a buffer until its source is complete."""
        self._turn = n
        while True:
            with self._changed:
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._buffers[n] or self._is_complete[n])
                if not self._buffers[n]:
                    return
                self._item_count -= 1
                self._changed.notify_all()
            yield self._buffers[n].popleft()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _start_item(self, n: int) -> bool:
        """Wait until there is room for one more item; False after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(n))
            self._item_count += 1
            return not self._closed

    def _has_room(self, n: int) -> bool:
        # The source whose turn it is must never wait for later ones: that would be a deadlock.
        is_awaited = n == self._turn and not self._buffers[n]
        return is_awaited or self._item_count < self._ahead
