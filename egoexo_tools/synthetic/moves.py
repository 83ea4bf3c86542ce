"""How things are moved about a table: placements, the hands' moves, the raised object.

What a calm take's hands do is drawn here; `lively` draws more. Metres, seconds, radians.
"""

from dataclasses import dataclass

import numpy as np

from egoexo_tools.arrays import Float64
from egoexo_tools.synthetic.objects import SMALL_ONE, Appearance
from egoexo_tools.synthetic.solids import SHEET

_SPREAD = (0.5, 0.36)
"""Objects stand within this half width and depth of the table's middle, in metres."""
GAP = 0.012
MOVE_SECONDS = 1.5
LOOK_AT = (0.0, -0.36, 0.40)
"""Where the left hand holds an object to look at: before the face, above what exo cameras see."""
_RAISE_SECONDS, _HOLD_SECONDS = 1.0, 2.0


@dataclass(frozen=True)
class Placement:
    """Where an object stands: x, y of its centre on the table, and its turn about z."""

    x: float
    y: float
    yaw: float


@dataclass(frozen=True)
class Move:
    """A hand carries one object from where it is to another place."""

    item: int
    start_seconds: float
    goal: Placement
    seconds: float = MOVE_SECONDS
    left: bool = False
    """Which hand."""
    bend: float = 0.0
    """How far the middle of the way lies to the right of the straight line, in metres."""

    @property
    def end_seconds(self) -> float:
        return self.start_seconds + self.seconds


@dataclass(frozen=True)
class Look:
    """The left hand raises one object to the face, holds it and puts it back."""

    item: int
    start_seconds: float

    def raised(self, seconds: float) -> float:
        """How far it is raised at this time, 0 to 1."""
        since = seconds - self.start_seconds
        down = since - _RAISE_SECONDS - _HOLD_SECONDS
        part = np.clip(since / _RAISE_SECONDS, 0, 1) - np.clip(down / _RAISE_SECONDS, 0, 1)
        return float(part * part * (3 - 2 * part))


def free_place(
    rng: np.random.Generator,
    item: Appearance,
    objects: list[Appearance],
    taken: list[Placement],
    skip: int | None = None,
) -> Placement:
    """A random place that overlaps no other object; after many tries the least crowded one."""
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
                for n, other in enumerate(taken)
                if n != skip
            ),
            default=np.inf,
        )
        if room > best_room:
            best, best_room = place, room
        if room > GAP:
            break
    return best


def _behind(tall: Appearance, small: Appearance, place: Placement, away: Float64) -> Placement:
    step = away * (0.8 * tall.radius + small.radius + GAP)
    return Placement(place.x + step[0], place.y + step[1], place.yaw)


def draw_moves(
    rng: np.random.Generator,
    objects: list[Appearance],
    placements: list[Placement],
    seconds: float,
    away: Float64,
) -> list[Move]:
    """One move after the other, about one every two seconds, each of another object."""
    small = len(objects) + SMALL_ONE
    tallest = max(range(len(objects)), key=lambda item: objects[item].height)
    others = [item for item in range(len(objects)) if item not in {small, tallest}]
    order = [small, *rng.permutation(others).tolist()]
    count = min(int(seconds // 2), len(order))
    moves, now = [], list(placements)
    for number, item in enumerate(order[:count]):
        if item == small:
            goal = _behind(objects[tallest], objects[small], placements[tallest], away)
        else:
            goal = free_place(rng, objects[item], objects, now, skip=item)
        now[item] = goal
        start = number * seconds / count + rng.uniform(0.05, 0.3)
        moves.append(Move(item=item, start_seconds=start, goal=goal))
    return moves


def draw_look(
    rng: np.random.Generator, objects: list[Appearance], moves: list[Move], seconds: float
) -> Look | None:
    """An object that no move carries and that is neither the tallest nor flat."""
    start = rng.uniform(0.1, 0.5)
    tallest = max(range(len(objects)), key=lambda item: objects[item].height)
    busy = {move.item for move in moves} | {tallest}
    free = [n for n, item in enumerate(objects) if n not in busy and item.kind != SHEET]
    if seconds < start + _RAISE_SECONDS or not free:
        return None
    return Look(item=int(rng.choice(free)), start_seconds=start)


def on_the_way(start: Placement, move: Move, progress: float) -> tuple[Placement, float]:
    """The placement at this part (0..) of a move, and how high the object is lifted."""
    part = min(max(progress, 0.0), 1.0)
    smooth = part * part * (3 - 2 * part)
    goal = move.goal
    turn = (goal.yaw - start.yaw + np.pi) % (2 * np.pi) - np.pi
    arc = float(np.sin(np.pi * smooth))
    x, y = start.x + smooth * (goal.x - start.x), start.y + smooth * (goal.y - start.y)
    if move.bend:
        way = max(float(np.hypot(goal.x - start.x, goal.y - start.y)), 1e-6)
        x += arc * move.bend * (goal.y - start.y) / way
        y -= arc * move.bend * (goal.x - start.x) / way
    return Placement(x=x, y=y, yaw=start.yaw + smooth * turn), 0.1 * arc
