"""Moves of objects on a table: placements, moves by a hand, and an object raised to the face.

The moves of a calm take are drawn here, those of a lively take in `lively`. Units are metres,
seconds and radians.
"""

from dataclasses import dataclass

import numpy as np

from egoexo_tools.arrays import Float64
from egoexo_tools.synthetic.cameras import smoothstep
from egoexo_tools.synthetic.objects import SMALL_OBJECT, Appearance
from egoexo_tools.synthetic.solids import SHEET

_SPREAD = (0.5, 0.36)
"""Objects stand within this half width and half depth around the centre of the table."""
GAP = 0.012
MOVE_SECONDS = 1.5
FACE_PLACE = (0.0, -0.36, 0.40)
"""Where the left hand holds an object: in front of the face, above the view of the exo cameras."""
_RAISE_SECONDS, _HOLD_SECONDS = 1.0, 2.0


@dataclass(frozen=True)
class Placement:
    """Where an object stands: x, y of its centre on the table, and its rotation about z."""

    x: float
    y: float
    yaw: float


@dataclass(frozen=True)
class Move:
    """A hand carries an object from its place to another one."""

    item: int
    """Index of the object."""
    start_seconds: float
    goal: Placement
    seconds: float = MOVE_SECONDS
    left_hand: bool = False
    bend: float = 0.0
    """Distance of the path's middle to the right of the straight line."""

    @property
    def end_seconds(self) -> float:
        return self.start_seconds + self.seconds


@dataclass(frozen=True)
class Raise:
    """The left hand raises an object to the face, holds it and puts it back."""

    item: int
    start_seconds: float

    def progress(self, seconds: float) -> float:
        """How far the object is raised at this time, 0 to 1."""
        up = (seconds - self.start_seconds) / _RAISE_SECONDS
        down = up - 1 - _HOLD_SECONDS / _RAISE_SECONDS
        return smoothstep(float(np.clip(up, 0, 1) - np.clip(down, 0, 1)))


def free_place(
    rng: np.random.Generator,
    item: Appearance,
    objects: list[Appearance],
    placements: list[Placement],
    skip: int | None = None,
) -> Placement:
    """A random place without overlap with other objects; after 80 tries the least crowded one."""
    best, best_room = Placement(0, 0, 0), -np.inf
    for _ in range(80):
        place = Placement(
            x=rng.uniform(-1, 1) * _SPREAD[0],
            y=rng.uniform(-1, 1) * _SPREAD[1],
            yaw=rng.uniform(0, 2 * np.pi),
        )
        room = min(
            (
                np.hypot(place.x - other.x, place.y - other.y) - item.radius - objects[n].radius
                for n, other in enumerate(placements)
                if n != skip
            ),
            default=np.inf,
        )
        if room > best_room:
            best, best_room = place, room
        if room > GAP:
            break
    return best


def draw_moves(
    rng: np.random.Generator,
    objects: list[Appearance],
    placements: list[Placement],
    seconds: float,
    away: Float64,
) -> list[Move]:
    """Successive moves, about one every two seconds, each of another object.

    The first one puts the small object behind the tallest one; `away` (2,) is the direction in
    which the first exo camera looks.
    """
    small = len(objects) + SMALL_OBJECT
    tallest = _tallest(objects)
    remaining = [item for item in range(len(objects)) if item not in {small, tallest}]
    order = [small, *rng.permutation(remaining).tolist()]
    count = min(int(seconds // 2), len(order))
    moves, current = [], list(placements)
    for number, item in enumerate(order[:count]):
        if item == small:
            front = placements[tallest]
            step = away * (0.8 * objects[tallest].radius + objects[small].radius + GAP)
            goal = Placement(front.x + step[0], front.y + step[1], front.yaw)
        else:
            goal = free_place(rng, objects[item], objects, current, skip=item)
        current[item] = goal
        start = number * seconds / count + rng.uniform(0.05, 0.3)
        moves.append(Move(item=item, start_seconds=start, goal=goal))
    return moves


def draw_raise(
    rng: np.random.Generator, objects: list[Appearance], moves: list[Move], seconds: float
) -> Raise | None:
    """Raises an object that is not moved, not the tallest and not flat, if there is one."""
    start = rng.uniform(0.1, 0.5)
    excluded = {move.item for move in moves} | {_tallest(objects)}
    free = [n for n, item in enumerate(objects) if n not in excluded and item.kind != SHEET]
    if seconds < start + _RAISE_SECONDS or not free:
        return None
    return Raise(item=int(rng.choice(free)), start_seconds=start)


def place_during_move(start: Placement, move: Move, progress: float) -> tuple[Placement, float]:
    """The placement at this progress (0..1) of a move, and how high the object is lifted."""
    smooth = smoothstep(min(max(progress, 0.0), 1.0))
    goal = move.goal
    turn = (goal.yaw - start.yaw + np.pi) % (2 * np.pi) - np.pi
    arc = float(np.sin(np.pi * smooth))
    x, y = start.x + smooth * (goal.x - start.x), start.y + smooth * (goal.y - start.y)
    if move.bend:
        distance = max(float(np.hypot(goal.x - start.x, goal.y - start.y)), 1e-6)
        x += arc * move.bend * (goal.y - start.y) / distance
        y -= arc * move.bend * (goal.x - start.x) / distance
    return Placement(x=x, y=y, yaw=start.yaw + smooth * turn), 0.1 * arc


def _tallest(objects: list[Appearance]) -> int:
    return max(range(len(objects)), key=lambda item: objects[item].height)
