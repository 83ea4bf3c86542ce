"""Renders a camera's images of a scene: room, table with shadows, solids, colour rendition.

Coordinates are as in solids.py. The image of a static camera is redrawn only where something moved.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egoexo_tools.arrays import Bytes, Float64, Int32
from egoexo_tools.synthetic.cameras import Camera
from egoexo_tools.synthetic.solids import FRUSTUM, SHEET, cast_room, cast_solids

TABLE_HALF = (0.82, 0.62)
"""Half the table's width (x) and depth (y), in metres."""
_ROOM_SHRINK = 4
"""The room is drawn at this fraction of the size and enlarged: out of focus, and cheap."""

Rect = tuple[int, int, int, int]
"""y0, y1, x0, x1 in pixels; y1 and x1 are exclusive."""


@dataclass(frozen=True)
class Textures:
    """Textures of solids, table and room; all sides are powers of two."""

    solids: Bytes
    """(count, side, side, 3), periodic."""
    table: Bytes
    """(height, width, 3) for the whole table, row 0 on the wearer's side."""
    room: Bytes
    """(1, side, side, 3) for walls and floor, periodic."""


class Painter:
    """Renders frames of one size: `rgb` (H, W, 3) uint8 and object `ids` (H, W) uint8, 0 = none."""

    def __init__(self, height: int, width: int, textures: Textures) -> None:
        self.rgb = np.zeros((height, width, 3), np.uint8)
        self.ids = np.zeros((height, width), np.uint8)
        self._textures = textures
        self._depth = np.empty((height, width), np.float32)
        self._light = np.zeros((height, width, 3), np.uint8)
        self._room = np.zeros((height, width, 3), np.uint8)
        self._camera: Camera | None = None

    def paint(
        self, camera: Camera, solids: NDArray[np.void], table: Bytes, rect: Rect | None = None
    ) -> None:
        """Draw the scene into `rect`, by default the whole frame.

        solids: (n,) of solids.SOLID. table: as Textures.table, including shadows.
        """
        height, width = self.ids.shape
        if camera is not self._camera:
            self._set_camera(camera)
        y0, y1, x0, x1 = rect or (0, height, 0, width)
        if y0 >= y1 or x0 >= x1:
            return
        patch = self._room[y0:y1, x0:x1].copy()
        # The table is flat, so a homography draws it; BORDER_TRANSPARENT keeps the room around it.
        cv2.warpPerspective(
            table,
            self._table_to_patch(camera, table, y0, x0),
            (x1 - x0, y1 - y0),
            dst=patch,
            borderMode=cv2.BORDER_TRANSPARENT,
        )
        ids, depth = self.ids[y0:y1, x0:x1], self._depth[y0:y1, x0:x1]
        ids[:], depth[:] = 0, np.inf
        cast_solids(
            patch, ids, depth, np.array([y0, x0]), np.array([height / 2, width / 2]),
            camera.origin, camera.rotation, np.float32(camera.focal),
            np.ascontiguousarray(solids).view(np.float32).reshape(len(solids), -1),
            np.stack([bounds(camera, solid, height, width) for solid in solids]),
            self._textures.solids,
        )  # fmt: skip
        balanced = cv2.transform(patch, camera.rendition.matrix)
        light = cv2.multiply(balanced, self._light[y0:y1, x0:x1], scale=1 / 255)
        self.rgb[y0:y1, x0:x1] = cv2.LUT(light, camera.rendition.curve)

    def _set_camera(self, camera: Camera) -> None:
        """Draw what depends on the camera alone: the room and the vignetting."""
        height, width = self.ids.shape
        small = np.empty((-(-height // _ROOM_SHRINK), -(-width // _ROOM_SHRINK), 3), np.uint8)
        focal = np.float32(camera.focal / _ROOM_SHRINK)
        cast_room(small, camera.origin, camera.rotation, focal, self._textures.room)
        cv2.resize(small, (width, height), dst=self._room)
        if self._camera is None or camera.rendition != self._camera.rendition:
            # Vignetting grows with the squared distance from the centre.
            y = (np.arange(height) + 0.5 - height / 2) ** 2
            x = (np.arange(width) + 0.5 - width / 2) ** 2
            share = (y[:, None] + x) / ((height**2 + width**2) / 4)  # (H, W), 1 in the corners
            light = np.round(255 * (1 - camera.rendition.vignetting * share)).astype(np.uint8)
            self._light = np.repeat(light[..., None], 3, axis=2)  # (H, W, 3)
        self._camera = camera

    def _table_to_patch(self, camera: Camera, table: Bytes, y0: int, x0: int) -> Float64:
        """(3, 3): (x, y, 1) in the table's texture → (x, y, 1) in the patch, up to scale."""
        height, width = self.ids.shape
        rows, columns = table.shape[:2]
        half_x, half_y = TABLE_HALF
        to_metres = np.array(
            [[2 * half_x / columns, 0, -half_x], [0, 2 * half_y / rows, -half_y], [0, 0, 1]]
        )
        rotation, origin = camera.rotation.astype(np.float64), camera.origin.astype(np.float64)
        plane = np.stack([rotation[:, 0], rotation[:, 1], -rotation @ origin], axis=1)
        pinhole = np.array(
            [[camera.focal, 0, width / 2 - x0], [0, camera.focal, height / 2 - y0], [0, 0, 1]]
        )
        # Coordinates here refer to the corners of pixels, in OpenCV to their centres.
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        return np.asarray(np.linalg.inv(half) @ pinhole @ plane @ to_metres @ half)


def bounds(
    camera: Camera, solid: np.void, height: int, width: int, *, margin: float = 0.0
) -> Int32:
    """The Rect in the frame that contains a solid.

    With a margin in metres, it also contains the solid enlarged by it, and the solid's shadow.
    """
    size = solid["size"].astype(np.float64)
    if solid["kind"] == FRUSTUM:
        size = np.array([max(size[0], size[1])] * 2 + [size[2]])
    elif solid["kind"] == SHEET:
        size = size * (1 + solid["wave"][0])
    corners = solid["rotation"] @ (size[:, None] * _SIGNS) + solid["centre"][:, None]
    if margin:
        low, high = corners.min(axis=1) - margin, corners.max(axis=1) + margin
        low[2] = min(low[2], 0.0)  # down to the table, where the shadow is
        corners = np.where(_SIGNS < 0, low[:, None], high[:, None])
    in_camera = camera.rotation @ (corners - camera.origin[:, None])
    if (in_camera[2] < 0.02).any():  # partly behind the camera
        return np.array([0, height, 0, width], np.int32)
    x = camera.focal * in_camera[0] / in_camera[2] + width / 2
    y = camera.focal * in_camera[1] / in_camera[2] + height / 2
    ends = np.array([y.min() - 1, y.max() + 2, x.min() - 1, x.max() + 2])
    limits = np.array([height, height, width, width])
    return np.asarray(np.minimum(np.maximum(ends, 0), limits), dtype=np.int32)


_SIGNS = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1)
