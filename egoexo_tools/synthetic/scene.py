"""One take's scene: the objects on the table, the hand that moves some of them, their shadows.

`Scene.solids(frame_idx)` is all that the renderer needs to know of an instant; object number n
of the list has object id n + 1, the hand has id 0.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egoexo_tools.synthetic.objects import (
    SMALL_ONE,
    TEXTURE_SIDE,
    Appearance,
    draw_objects,
    room_texture,
    table_colour,
    table_texture,
)
from egoexo_tools.synthetic.options import FPS
from egoexo_tools.synthetic.render import TABLE_HALF, Textures
from egoexo_tools.synthetic.solids import BOX, ELLIPSOID, FRUSTUM, SHEET, SOLID

_SPREAD = (0.5, 0.36)
"""Objects stand within this half width and depth of the table's middle, in metres."""
_GAP = 0.012
_SHADOW_SHAPE = (192, 256)
_SHADOW_LIGHT = 153
SHADOW_REACH = 0.09
"""How far a shadow's soft border reaches beyond the object's outline, in metres."""
_MOVE_SECONDS = 1.5
_RIGHT_SHOULDER = np.array([0.3, -0.95, 0.3])
_LEFT_SHOULDER = np.array([-0.3, -0.95, 0.3])
_LOOK_AT = (0.0, -0.36, 0.40)
"""Where the left hand holds an object to look at: before the face, above what exo cameras see."""
_RAISE_SECONDS, _HOLD_SECONDS = 1.0, 2.0
_ARM_PIECES = 5
_SKIN = (206, 158, 132)


@dataclass(frozen=True)
class Placement:
    """Where an object stands: x, y of its centre on the table, and its turn about z."""

    x: float
    y: float
    yaw: float


@dataclass(frozen=True)
class Move:
    """The hand carries one object from its placement to another."""

    item: int
    start_seconds: float
    goal: Placement


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


@dataclass(frozen=True)
class Scene:
    """A take's world; `draw` makes one."""

    objects: tuple[Appearance, ...]
    placements: tuple[Placement, ...]
    moves: tuple[Move, ...]
    look: Look | None
    """None in takes too short for it."""
    textures: Textures

    @classmethod
    def draw(
        cls, rng: np.random.Generator, *, count: int, seconds: float, away: NDArray[np.float64]
    ) -> "Scene":
        """A random scene; `away` (2,) is the direction in which the first exo camera looks.

        The hand's first move takes the small object behind the tallest one, out of that
        camera's sight; the other hand raises an object to the face, out of most cameras' view.
        """
        table = table_colour(rng)
        objects = draw_objects(rng, count, table)
        placements: list[Placement] = []
        for item in objects:
            placements.append(_free_place(rng, item, objects, placements))
        moves = _draw_moves(rng, objects, placements, seconds, away)
        look = _draw_look(rng, objects, moves, seconds)
        pictures = [item.texture() for item in objects]
        pictures.append(np.full((TEXTURE_SIDE, TEXTURE_SIDE, 3), _SKIN, np.uint8))
        textures = Textures(
            solids=np.stack(pictures),
            table=table_texture(rng, table),
            room=room_texture(rng)[None],
        )
        return cls(tuple(objects), tuple(placements), tuple(moves), look, textures)

    def solids(self, frame_idx: int) -> NDArray[np.void]:
        """(n,) of render.SOLID: the objects in order, then the hands that are at work."""
        seconds = frame_idx / FPS
        rows = [
            _solid(item, placement, 0.0, number)
            for number, (item, placement) in enumerate(
                zip(self.objects, self.placements, strict=True)
            )
        ]
        hand: list[NDArray[np.void]] = []
        for move in self.moves:
            progress = (seconds - move.start_seconds) / _MOVE_SECONDS
            if progress <= 0:
                continue
            placement, lift = _on_the_way(self.placements[move.item], move.goal, progress)
            rows[move.item] = _solid(self.objects[move.item], placement, lift, move.item)
            if progress < 1:
                top = self.objects[move.item].size[2] * (
                    1 if self.objects[move.item].kind == SHEET else 2
                )
                hand = _hand(placement, top + lift, progress, len(self.objects), _RIGHT_SHOULDER)
        if self.look is not None and (part := self.look.raised(seconds)) > 0:
            item, start = self.objects[self.look.item], self.placements[self.look.item]
            placement = Placement(
                x=start.x + part * (_LOOK_AT[0] - start.x),
                y=start.y + part * (_LOOK_AT[1] - start.y),
                yaw=start.yaw,
            )
            lift = part * _LOOK_AT[2]
            rows[self.look.item] = _solid(item, placement, lift, self.look.item)
            # The fist holds it from the side, so that the face sees it.
            beside = Placement(placement.x - item.radius - 0.02, placement.y, 0.0)
            hand += _hand(beside, lift, 0.5, len(self.objects), _LEFT_SHOULDER)
        return np.array([*rows, *hand], SOLID)


def shaded_table(table: NDArray[np.uint8], solids: NDArray[np.void]) -> NDArray[np.uint8]:
    """The table's picture (H, W, 3) with the soft shadows of the objects."""
    rows, columns = _SHADOW_SHAPE
    light = np.full(_SHADOW_SHAPE, 255, np.uint8)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    for solid in solids[solids["object_id"] > 0]:
        size = solid["size"]
        if solid["kind"] == BOX:
            outline = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * size[:2]
        else:
            radii = [max(size[0], size[1])] * 2 if solid["kind"] == FRUSTUM else size[:2]
            outline = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii
        world = outline @ solid["rotation"][:2, :2].T + solid["centre"][:2]
        world += np.array([-0.4, 0.31]) * (solid["centre"][2] * 0.6)
        grid = (world / TABLE_HALF + 1) / 2 * [columns, rows]
        cv2.fillConvexPoly(light, np.round(grid).astype(np.int32), _SHADOW_LIGHT)
    soft = cv2.resize(cv2.GaussianBlur(light, (0, 0), 2.6), table.shape[1::-1])
    return np.asarray(cv2.multiply(table, cv2.merge([soft] * 3), scale=1 / 255), dtype=np.uint8)


def _free_place(
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
        if room > _GAP:
            break
    return best


def _behind(
    tall: Appearance, small: Appearance, place: Placement, away: NDArray[np.float64]
) -> Placement:
    step = away * (0.8 * tall.radius + small.radius + _GAP)
    return Placement(place.x + step[0], place.y + step[1], place.yaw)


def _draw_moves(
    rng: np.random.Generator,
    objects: list[Appearance],
    placements: list[Placement],
    seconds: float,
    away: NDArray[np.float64],
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
            goal = _free_place(rng, objects[item], objects, now, skip=item)
        now[item] = goal
        start = number * seconds / count + rng.uniform(0.05, 0.3)
        moves.append(Move(item=item, start_seconds=start, goal=goal))
    return moves


def _draw_look(
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


def _on_the_way(start: Placement, goal: Placement, progress: float) -> tuple[Placement, float]:
    """The placement at this part (0..) of a move, and how high the object is lifted."""
    part = min(max(progress, 0.0), 1.0)
    smooth = part * part * (3 - 2 * part)
    turn = (goal.yaw - start.yaw + np.pi) % (2 * np.pi) - np.pi
    placement = Placement(
        x=start.x + smooth * (goal.x - start.x),
        y=start.y + smooth * (goal.y - start.y),
        yaw=start.yaw + smooth * turn,
    )
    return placement, 0.1 * float(np.sin(np.pi * smooth))


def _solid(item: Appearance, place: Placement, lift: float, number: int) -> NDArray[np.void]:
    cos, sin = np.cos(place.yaw), np.sin(place.yaw)
    # A sheet's solid is its upper side at +size; its centre lies on the table.
    middle = lift if item.kind == SHEET else item.size[2] + lift
    return _row(
        kind=item.kind,
        object_id=number + 1,
        texture=number,
        size=item.size,
        centre=(place.x, place.y, middle),
        rotation=np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]),
        wave=item.wave,
    )


def _hand(
    place: Placement, height: float, progress: float, texture: int, shoulder: NDArray[np.float64]
) -> list[NDArray[np.void]]:
    """Fist and forearm over an object; at a move's ends the hand comes from above and goes."""
    away = max(0.0, 1 - 8 * min(progress, 1 - progress))
    fist = np.array([place.x, place.y - 0.02, height + 0.02 + 0.25 * away])
    arm = fist - shoulder
    length = float(np.linalg.norm(arm))
    axis = arm / length
    across = np.cross(axis, [0.0, 0.0, 1.0])
    across /= np.linalg.norm(across)
    rotation = np.stack([across, np.cross(axis, across), axis], axis=1)
    common = {"object_id": 0, "texture": texture, "rotation": rotation}
    solids = [_row(kind=ELLIPSOID, size=(0.036, 0.03, 0.045), centre=fist, **common)]
    # In pieces, because a short piece has a small box in the picture: four times fewer rays.
    ends = np.linspace(0, 1, _ARM_PIECES + 1)
    for start, end in zip(ends, ends[1:], strict=False):
        radii = [0.042 - 0.018 * part for part in (start, end)]
        solids.append(
            _row(
                kind=FRUSTUM,
                size=(*radii, length * (end - start) / 2),
                centre=shoulder + arm * (start + end) / 2,
                **common,
            )
        )
    return solids


def _row(**values: object) -> NDArray[np.void]:
    row = np.zeros((), SOLID)
    for name, value in values.items():
        row[name] = value
    return row
