"""What the hands do in a lively take: harder to follow over time than a calm one.

Round after round, two look-alikes cross, each ending where the other one stood; then the left hand
takes an object away, out of every camera's view, and brings it back some seconds later to another
place, while the right hand moves a third object about without a rest. Meanwhile the head turns
quickly from one place to another (`cameras.HeadMotion`).
"""

from collections.abc import Iterator

import numpy as np

from egoexo_tools.synthetic.moves import Move, Placement, free_place
from egoexo_tools.synthetic.objects import LOOK_ALIKES, Appearance

_CROSS_SECONDS = 1.2
_CARRY_SECONDS = 0.9
_BEND = 0.14
"""Of both ways of a crossing: two things that pass each other keep their distance."""
_PAUSE_SECONDS = 0.1


def draw_lively_moves(
    rng: np.random.Generator,
    objects: list[Appearance],
    placements: list[Placement],
    seconds: float,
) -> list[Move]:
    """The moves of a take, by start; those that do not fit into `seconds` are left out."""
    table = _Table(rng, objects, list(placements))
    now, found = float(rng.uniform(0.1, 0.3)), list[Move]()
    for number in range(int(seconds // _CROSS_SECONDS) + 1):
        first = number % LOOK_ALIKES
        crossing = list(table.cross(now, first, len(objects) - LOOK_ALIKES + first))
        now = crossing[0].end_seconds + _PAUSE_SECONDS
        away, back = table.trip(now)
        handled = list(table.handle(now, back.end_seconds, busy=away.item))
        fits = [part for part in (crossing, [away, back]) if part[-1].end_seconds <= seconds]
        found += [move for part in fits for move in part]
        found += [move for move in handled if move.end_seconds <= seconds]
        now = back.end_seconds + _PAUSE_SECONDS
        if now > seconds:
            break
    return sorted(found, key=lambda move: move.start_seconds)


class _Table:
    """Where things are, as moves are drawn one after the other."""

    def __init__(
        self, rng: np.random.Generator, objects: list[Appearance], places: list[Placement]
    ) -> None:
        self._rng = rng
        self._objects = objects
        self._places = places

    def cross(self, start: float, one: int, other: int) -> Iterator[Move]:
        """Two things change places, at the same time, each passing the other on the right."""
        goals = {one: self._places[other], other: self._places[one]}
        for item, goal in goals.items():
            self._places[item] = goal
            yield Move(item, start, goal, _CROSS_SECONDS, left=item == other, bend=_BEND)

    def trip(self, start: float) -> tuple[Move, Move]:
        """The left hand takes something away, and back to another place."""
        item = int(self._rng.choice(self._single() or [0]))
        behind = Placement(self._rng.uniform(-0.3, 0.3), -1.5, self._rng.uniform(0, 2 * np.pi))
        away = Move(item, start, behind, _CARRY_SECONDS, left=True)
        self._places[item] = behind
        stays = self._rng.uniform(1.5, 3.5)
        back = Move(item, away.end_seconds + stays, self._free(item), _CARRY_SECONDS, left=True)
        self._places[item] = back.goal
        return away, back

    def handle(self, start: float, end: float, *, busy: int) -> Iterator[Move]:
        """The right hand moves one thing after the other, each two or three times in a row."""
        now = start
        while now < end:
            free = [item for item in self._single() if item != busy]
            if not free:
                return
            item = int(self._rng.choice(free))
            for _ in range(int(self._rng.integers(2, 4))):
                seconds = self._rng.uniform(0.7, 1.1)
                if now + seconds > end:
                    return
                self._places[item] = self._free(item)
                yield Move(item, now, self._places[item], seconds)
                now += seconds + 0.05

    def _single(self) -> list[int]:
        """What has no look-alike, so that these cross from where they stand."""
        return list(range(LOOK_ALIKES, len(self._objects) - LOOK_ALIKES))

    def _free(self, item: int) -> Placement:
        return free_place(self._rng, self._objects[item], self._objects, self._places, skip=item)
