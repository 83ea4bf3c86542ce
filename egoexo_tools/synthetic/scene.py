"""The scene of a take: objects on a table, the hands that move them, and their shadows.

`Scene.solids(frame_idx)` is the input of the renderer for an instant. Object n of the list has
object id n + 1, a hand has id 0.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egoexo_tools.arrays import Bytes, Float64
from egoexo_tools.synthetic.lively import draw_lively_moves
from egoexo_tools.synthetic.moves import (
    FACE_PLACE,
    Move,
    Placement,
    Raise,
    draw_moves,
    draw_raise,
    free_place,
    place_during_move,
)
from egoexo_tools.synthetic.objects import (
    TEXTURE_SIDE,
    Appearance,
    draw_objects,
    room_texture,
    table_colour,
    table_texture,
)
from egoexo_tools.synthetic.options import Motion
from egoexo_tools.synthetic.render import TABLE_HALF, Textures
from egoexo_tools.synthetic.solids import BOX, ELLIPSOID, FRUSTUM, SHEET, SOLID
from egoexo_tools.vocab import FPS

_SHADOW_SHAPE = (192, 256)
_SHADOW_LIGHT = 153
SHADOW_REACH = 0.09
"""How far the soft border of a shadow extends beyond the object's outline, in metres."""
_RIGHT_SHOULDER = np.array([0.3, -0.95, 0.3])
_LEFT_SHOULDER = np.array([-0.3, -0.95, 0.3])
_ARM_PIECES = 5
_SKIN = (206, 158, 132)


@dataclass(frozen=True)
class Scene:
    """The world of a take; `draw` creates one."""

    objects: tuple[Appearance, ...]
    placements: tuple[Placement, ...]
    moves: tuple[Move, ...]
    raised: Raise | None
    """None in lively takes and in those that are too short."""
    textures: Textures

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        *,
        count: int,
        seconds: float,
        away: Float64,
        motion: Motion = Motion.CALM,
    ) -> "Scene":
        """A random scene; `away` (2,) is the direction in which the first exo camera looks.

        In a calm scene the first move hides the small object behind the tallest one from that
        camera, and the left hand raises an object to the face, out of view of most cameras. For
        lively scenes see `lively`.
        """
        table = table_colour(rng)
        objects = draw_objects(rng, count, table)
        placements: list[Placement] = []
        for item in objects:
            placements.append(free_place(rng, item, objects, placements))
        raised = None
        if motion is Motion.LIVELY:
            moves = draw_lively_moves(rng, objects, placements, seconds)
        else:
            moves = draw_moves(rng, objects, placements, seconds, away)
            raised = draw_raise(rng, objects, moves, seconds)
        solid_textures = [item.texture() for item in objects]
        solid_textures.append(np.full((TEXTURE_SIDE, TEXTURE_SIDE, 3), _SKIN, np.uint8))
        textures = Textures(
            solids=np.stack(solid_textures),
            table=table_texture(rng, table),
            room=room_texture(rng)[None],
        )
        return cls(tuple(objects), tuple(placements), tuple(moves), raised, textures)

    def solids(self, frame_idx: int) -> NDArray[np.void]:
        """(n,) of solids.SOLID: the objects in order, then the hands that are in use."""
        seconds = frame_idx / FPS
        rows = [
            _solid(item, placement, 0.0, number)
            for number, (item, placement) in enumerate(
                zip(self.objects, self.placements, strict=True)
            )
        ]
        hands: dict[bool, list[NDArray[np.void]]] = {}
        places = list(self.placements)
        for move in self.moves:
            progress = (seconds - move.start_seconds) / move.seconds
            if progress <= 0:
                continue
            item = self.objects[move.item]
            placement, lift = place_during_move(places[move.item], move, progress)
            places[move.item] = move.goal
            rows[move.item] = _solid(item, placement, lift, move.item)
            if progress < 1:
                top = item.size[2] * (1 if item.kind == SHEET else 2)
                shoulder = _LEFT_SHOULDER if move.left_hand else _RIGHT_SHOULDER
                hands[move.left_hand] = _hand(
                    placement, top + lift, progress, len(self.objects), shoulder
                )
        if self.raised is not None and (progress := self.raised.progress(seconds)) > 0:
            item, start = self.objects[self.raised.item], self.placements[self.raised.item]
            placement = Placement(
                x=start.x + progress * (FACE_PLACE[0] - start.x),
                y=start.y + progress * (FACE_PLACE[1] - start.y),
                yaw=start.yaw,
            )
            lift = progress * FACE_PLACE[2]
            rows[self.raised.item] = _solid(item, placement, lift, self.raised.item)
            # The fist holds the object from the side, so that it is visible from the face.
            fist_place = Placement(placement.x - item.radius - 0.02, placement.y, 0.0)
            hands[True] = _hand(fist_place, lift, 0.5, len(self.objects), _LEFT_SHOULDER)
        return np.array([*rows, *hands.get(False, ()), *hands.get(True, ())], SOLID)


def shaded_table(table: Bytes, solids: NDArray[np.void]) -> Bytes:
    """The image of the table (H, W, 3) with soft shadows of the objects."""
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
        # Shifted away from the light, in proportion to the height.
        world += np.array([-0.4, 0.31]) * (solid["centre"][2] * 0.6)
        grid = (world / TABLE_HALF + 1) / 2 * [columns, rows]
        # Shadows that overlap do not become darker.
        cv2.fillConvexPoly(light, np.round(grid).astype(np.int32), _SHADOW_LIGHT)
    soft = cv2.resize(cv2.GaussianBlur(light, (0, 0), 2.6), table.shape[1::-1])
    return np.asarray(cv2.multiply(table, cv2.merge([soft] * 3), scale=1 / 255), dtype=np.uint8)


def _solid(item: Appearance, place: Placement, lift: float, number: int) -> NDArray[np.void]:
    cos, sin = np.cos(place.yaw), np.sin(place.yaw)
    # A sheet is drawn at height +size above its centre, so its centre is on the table.
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
    place: Placement, height: float, progress: float, texture: int, shoulder: Float64
) -> list[NDArray[np.void]]:
    """Fist and forearm over an object; at both ends of a move the hand is further up."""
    distance = max(0.0, 1 - 8 * min(progress, 1 - progress))
    fist = np.array([place.x, place.y - 0.02, height + 0.02 + 0.25 * distance])
    arm = fist - shoulder
    length = float(np.linalg.norm(arm))
    axis = arm / length
    across = np.cross(axis, [0.0, 0.0, 1.0])
    across /= np.linalg.norm(across)
    rotation = np.stack([across, np.cross(axis, across), axis], axis=1)
    common = {"object_id": 0, "texture": texture, "rotation": rotation}
    solids = [_row(kind=ELLIPSOID, size=(0.036, 0.03, 0.045), centre=fist, **common)]
    # In pieces, because a short piece has a small box in the image, which saves 3/4 of the rays.
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
