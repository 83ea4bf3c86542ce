"""Moves of the hands in a lively take, which is harder to track than a calm one.

In every round two look-alikes swap places. Then the left hand takes an object out of view of all
cameras and brings it back to another place a few seconds later, while the right hand keeps moving
other objects. The head turns quickly from one place to another (`cameras.HeadMotion`).
"""

from collections.abc import Iterator

import numpy as np

from egoexo_tools.synthetic.moves import Move, Placement, free_place
from egoexo_tools.synthetic.objects import LOOK_ALIKES, Appearance

_SWAP_SECONDS = 1.2
_CARRY_SECONDS = 0.9
_BEND = 0.14
"""Of both paths of a swap, so that the two objects keep their distance."""
_PAUSE_SECONDS = 0.1


def draw_lively_moves(
    rng: np.random.Generator, objects: list[Appearance], placements: list[Placement], seconds: float
) -> list[Move]:
    """The moves of a take, sorted by start, without those that end after `seconds`."""
    table = _Table(rng, objects, list(placements))
    time, moves = float(rng.uniform(0.1, 0.3)), list[Move]()
    for number in range(int(seconds // _SWAP_SECONDS) + 1):
        first = number % LOOK_ALIKES
        swap = list(table.swap(time, first, len(objects) - LOOK_ALIKES + first))
        time = swap[0].end_seconds + _PAUSE_SECONDS
        away, back = table.remove_and_return(time)
        right_hand_moves = list(table.keep_moving(time, back.end_seconds, excluded=away.item))
        for group in (swap, [away, back]):  # both moves of a group, or none
            if group[-1].end_seconds <= seconds:
                moves += group
        moves += [move for move in right_hand_moves if move.end_seconds <= seconds]
        time = back.end_seconds + _PAUSE_SECONDS
        if time > seconds:
            break
    return sorted(moves, key=lambda move: move.start_seconds)


class _Table:
    """The places of all objects while moves are drawn one after the other."""

    def __init__(
        self, rng: np.random.Generator, objects: list[Appearance], places: list[Placement]
    ) -> None:
        self._rng = rng
        self._objects = objects
        self._places = places
        # Look-alikes are only swapped, so that a swap starts at their own places.
        self._unique = list(range(LOOK_ALIKES, len(objects) - LOOK_ALIKES))

    def swap(self, start: float, first: int, second: int) -> Iterator[Move]:
        """Two objects change places at the same time, each passing the other on the right."""
        goals = {first: self._places[second], second: self._places[first]}
        for item, goal in goals.items():
            self._places[item] = goal
            yield Move(item, start, goal, _SWAP_SECONDS, left_hand=item == second, bend=_BEND)

    def remove_and_return(self, start: float) -> tuple[Move, Move]:
        """The left hand takes an object away and brings it back to another place."""
        item = int(self._rng.choice(self._unique or [0]))
        hidden = Placement(self._rng.uniform(-0.3, 0.3), -1.5, self._rng.uniform(0, 2 * np.pi))
        away = Move(item, start, hidden, _CARRY_SECONDS, left_hand=True)
        self._places[item] = hidden
        return_seconds = away.end_seconds + self._rng.uniform(1.5, 3.5)
        back = Move(item, return_seconds, self._free(item), _CARRY_SECONDS, left_hand=True)
        self._places[item] = back.goal
        return away, back

    def keep_moving(self, start: float, end: float, *, excluded: int) -> Iterator[Move]:
        """The right hand moves one object after the other, each two or three times in a row."""
        time = start
        free = [item for item in self._unique if item != excluded]
        while time < end and free:
            item = int(self._rng.choice(free))
            for _ in range(int(self._rng.integers(2, 4))):
                seconds = self._rng.uniform(0.7, 1.1)
                if time + seconds > end:
                    return
                self._places[item] = self._free(item)
                yield Move(item, time, self._places[item], seconds)
                time += seconds + 0.05

    def _free(self, item: int) -> Placement:
        return free_place(self._rng, self._objects[item], self._objects, self._places, skip=item)
