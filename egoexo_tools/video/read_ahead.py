"""The items of several generators, in order, made by threads ahead of whoever takes them."""

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
    """Yield what each source gives, one source after the other, as `itertools.chain` would.

    `threads` sources are at work at a time, each in one thread. At most `ahead` items wait or
    are in the making, and one of the source whose turn it is. An error in a source is raised
    when its turn comes, after its items; no thread works on once the generator is closed.
    """
    if threads == 1 or len(sources) < 2:
        yield from chain.from_iterable(source() for source in sources)
        return
    shelf = _Shelf[Item](len(sources), ahead)
    with ThreadPoolExecutor(min(threads, len(sources))) as pool:
        try:
            work = [pool.submit(shelf.fill, place, source) for place, source in enumerate(sources)]
            for place, done in enumerate(work):
                yield from shelf.taken(place)
                done.result()
        finally:
            shelf.close()


class _Shelf(Generic[Item]):
    """A place for each source, on which its items wait."""

    def __init__(self, places: int, ahead: int) -> None:
        self._waiting: list[deque[Item]] = [deque() for _ in range(places)]
        self._is_complete = [False] * places
        self._held = 0
        """Items that wait or are in the making."""
        self._ahead = ahead
        self._turn = 0
        self._closed = False
        self._changed = threading.Condition()

    def fill(self, place: int, source: Callable[[], Iterator[Item]]) -> None:
        """Put what the source gives on its place, each when there is room."""
        try:
            if self._begin_next(place):
                for item in source():
                    with self._changed:
                        self._waiting[place].append(item)
                        self._changed.notify_all()
                    del item  # It may be large, and the next one may take long.
                    if not self._begin_next(place):
                        return
        finally:
            with self._changed:
                self._held -= 1  # the one that was begun and never came
                self._is_complete[place] = True
                self._changed.notify_all()

    def taken(self, place: int) -> Iterator[Item]:
        """Take the items of a place until its source has no more."""
        self._turn = place
        while True:
            with self._changed:
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting[place] or self._is_complete[place])
                if not self._waiting[place]:
                    return
                self._held -= 1
                self._changed.notify_all()
            yield self._waiting[place].popleft()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _begin_next(self, place: int) -> bool:
        """Wait until there is room for one more; False once all is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(place))
            self._held += 1
            return not self._closed

    def _has_room(self, place: int) -> bool:
        # The source whose turn it is must not wait for those behind it, or all would stand still.
        is_awaited = place == self._turn and not self._waiting[place]
        return is_awaited or self._held < self._ahead
