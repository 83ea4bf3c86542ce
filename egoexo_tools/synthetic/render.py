"""Ray casting of a scene of simple solids into pixels and object ids, a rectangle at a time.

A solid is a row of floats (see SOLID) in its own frame of metres: a box, a frustum (cylinder,
cup, cone), an ellipsoid, or a sheet with a wavy round outline. Textures repeat every
TILE_METRES. Coordinates: world x to the right of the wearer, y away from them, z up, the table
top at z = 0; camera x right, y down, z forward; image points at pixel centres.
"""

import math
from dataclasses import dataclass

import numpy as np
from numba import float32, njit
from numpy.typing import NDArray

from egoexo_tools.synthetic.cameras import Camera

BOX, FRUSTUM, ELLIPSOID, SHEET = range(4)
SOLID = np.dtype(
    [
        ("kind", "f4"),
        ("object_id", "f4"),  # 1.. for annotated objects; 0 for a hand
        ("texture", "f4"),
        ("size", "f4", 3),  # half extents; a frustum: bottom radius, top radius, half height
        ("centre", "f4", 3),
        ("rotation", "f4", (3, 3)),  # object to world
        ("wave", "f4", 3),  # of a sheet's outline: amplitude, count, phase
    ]
)
TILE_METRES = 0.24
TABLE_HALF = (0.82, 0.62)
_TILES = np.float32(1 / TILE_METRES)
_ROOM_TILE = np.float32(1.5)
_AMBIENT, _DIFFUSE = 0.68, 0.34
_LIGHT = (0.36, -0.28, 0.89)
_ROOM_LOW, _ROOM_HIGH = (-3.0, -3.0, -0.75), (3.0, 3.0, 2.1)
_LUT_SIZE = 1024

# Like njit, with the reorderings that leave infinities and NaN alone: rays parallel to a face
# divide by zero, and the comparisons that follow rely on the result.
_compiled = njit(
    cache=True, nogil=True, error_model="numpy", fastmath={"contract", "arcp", "nsz", "reassoc"}
)


@dataclass
class Textures:
    """What solids, table and room are covered with; all sides are powers of two."""

    solids: NDArray[np.uint8]
    """(count, side, side, 3), periodic."""
    table: NDArray[np.uint8]
    """(1, height, width, 3) over the whole table."""
    room: NDArray[np.uint8]
    """(1, side, side, 3) on walls and floor, periodic."""


@dataclass
class Canvas:
    """One camera's picture: rgb (H, W, 3) uint8 and object ids (H, W) uint8, 0 for none."""

    rgb: NDArray[np.uint8]
    ids: NDArray[np.uint8]

    @classmethod
    def empty(cls, height: int, width: int) -> "Canvas":
        return cls(np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8))


def render(
    canvas: Canvas,
    camera: Camera,
    solids: NDArray[np.void],
    textures: Textures,
    shadow: NDArray[np.float32],
    *,
    rect: tuple[int, int, int, int] | None = None,
) -> None:
    """Draw a scene into rect (y0, y1, x0, x1; default all) of the canvas.

    solids: (n,) of SOLID. shadow: (rows, columns) light left on the table, 0..1.
    """
    height, width = canvas.ids.shape
    y0, y1, x0, x1 = rect or (0, height, 0, width)
    boxes = np.stack([bounds(camera, solid, height, width) for solid in solids])
    flat = np.ascontiguousarray(solids).view(np.float32).reshape(len(solids), -1)
    rendition = camera.rendition
    _cast(
        canvas.rgb, canvas.ids, y0, y1, x0, x1,
        camera.origin, camera.rotation, np.float32(camera.focal),
        flat, boxes, textures.solids, textures.table, textures.room, shadow,
        rendition.matrix, rendition.lut(_LUT_SIZE), np.float32(rendition.vignetting),
    )  # fmt: skip


def bounds(
    camera: Camera, solid: np.void, height: int, width: int, *, margin: float = 0.0
) -> NDArray[np.int32]:
    """The pixels (y0, y1, x0, x1) outside which a solid cannot show, cut to the frame.

    With a margin in metres, the solid grown by it and its shadow on the table are inside too.
    """
    size = solid["size"].astype(np.float64)
    if solid["kind"] == FRUSTUM:
        size = np.array([max(size[0], size[1])] * 2 + [size[2]])
    elif solid["kind"] == SHEET:
        size = size * (1 + solid["wave"][0])
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1)
    corners = solid["rotation"] @ (size[:, None] * signs) + solid["centre"][:, None]
    if margin:
        low, high = corners.min(axis=1) - margin, corners.max(axis=1) + margin
        low[2] = min(low[2], 0.0)
        corners = np.where(signs < 0, low[:, None], high[:, None])
    seen = camera.rotation @ (corners - camera.origin[:, None])
    if (seen[2] < 0.02).any():
        return np.array([0, height, 0, width], np.int32)
    x = camera.focal * seen[0] / seen[2] + width / 2
    y = camera.focal * seen[1] / seen[2] + height / 2
    low_high = [y.min() - 1, y.max() + 2, x.min() - 1, x.max() + 2]
    return np.clip(low_high, 0, [height, height, width, width]).astype(np.int32)


@_compiled
def _cast(
    rgb, ids, y0, y1, x0, x1, origin, rotation, focal, solids, boxes,
    textures, table, room, shadow, matrix, lut, vignetting,
):  # fmt: skip
    """The pixel loop; every array is float32 but the pictures, and boxes (n, 4) int32."""
    height, width = ids.shape
    near = np.empty((len(solids), 3), np.float32)  # the camera's place in each solid's frame
    for i in range(len(solids)):
        ox, oy, oz = origin[0] - solids[i, 6], origin[1] - solids[i, 7], origin[2] - solids[i, 8]
        for k in range(3):
            near[i, k] = ox * solids[i, 9 + k] + oy * solids[i, 12 + k] + oz * solids[i, 15 + k]
    active = np.empty(len(solids), np.int64)
    dimming = float32(vignetting / (0.25 * (width * width + height * height)))
    for y in range(y0, y1):
        count = 0
        for i in range(len(solids)):
            if boxes[i, 0] <= y < boxes[i, 1]:
                active[count] = i
                count += 1
        cy = float32(y + 0.5 - 0.5 * height)
        for x in range(x0, x1):
            cx = float32(x + 0.5 - 0.5 * width)
            a, b = cx / focal, cy / focal
            dx = rotation[0, 0] * a + rotation[1, 0] * b + rotation[2, 0]
            dy = rotation[0, 1] * a + rotation[1, 1] * b + rotation[2, 1]
            dz = rotation[0, 2] * a + rotation[1, 2] * b + rotation[2, 2]
            best, hit = float32(1e9), -1
            u = v = nx = ny = nz = float32(0)
            for j in range(count):
                i = active[j]
                if x < boxes[i, 2] or x >= boxes[i, 3]:
                    continue
                lx = dx * solids[i, 9] + dy * solids[i, 12] + dz * solids[i, 15]
                ly = dx * solids[i, 10] + dy * solids[i, 13] + dz * solids[i, 16]
                lz = dx * solids[i, 11] + dy * solids[i, 14] + dz * solids[i, 17]
                t, tu, tv, mx, my, mz = _hit(
                    solids, i, near[i, 0], near[i, 1], near[i, 2], lx, ly, lz
                )
                if 0 < t < best:
                    best, hit, u, v = t, i, tu, tv
                    nx, ny, nz = mx, my, mz
            if hit >= 0:
                i = hit
                ids[y, x] = np.uint8(solids[i, 1])
                wx = nx * solids[i, 9] + ny * solids[i, 10] + nz * solids[i, 11]
                wy = nx * solids[i, 12] + ny * solids[i, 13] + nz * solids[i, 14]
                wz = nx * solids[i, 15] + ny * solids[i, 16] + nz * solids[i, 17]
                facing = wx * _LIGHT[0] + wy * _LIGHT[1] + wz * _LIGHT[2]
                shade = float32(_AMBIENT + _DIFFUSE * max(facing, 0.0))
                red, green, blue = _texel(textures, int(solids[i, 2]), u * _TILES, v * _TILES)
            else:
                ids[y, x] = 0
                red, green, blue, shade = _backdrop(
                    origin[0], origin[1], origin[2], dx, dy, dz, table, room, shadow
                )
            shade = shade * (float32(1) - dimming * (cx * cx + cy * cy))
            for c in range(3):
                light = shade * (matrix[c, 0] * red + matrix[c, 1] * green + matrix[c, 2] * blue)
                step = int(light * float32((_LUT_SIZE - 1) / 255))
                rgb[y, x, c] = lut[c, min(max(step, 0), _LUT_SIZE - 1)]


# What follows: ray and solid, both in the solid's frame → distance (-1: none), the texture point
# in metres, the normal.


@_compiled
def _hit(solids, i, ox, oy, oz, dx, dy, dz):
    kind = int(solids[i, 0])
    a, b, c = solids[i, 3], solids[i, 4], solids[i, 5]
    if kind == BOX:
        return _hit_box(a, b, c, ox, oy, oz, dx, dy, dz)
    if kind == FRUSTUM:
        return _hit_frustum(a, b, c, ox, oy, oz, dx, dy, dz)
    if kind == ELLIPSOID:
        return _hit_ellipsoid(a, b, c, ox, oy, oz, dx, dy, dz)
    return _hit_sheet(a, b, c, solids[i, 18], solids[i, 19], solids[i, 20], ox, oy, oz, dx, dy, dz)


@_compiled
def _hit_box(sx, sy, sz, ox, oy, oz, dx, dy, dz):
    zero, one = float32(0), float32(1)
    ix, iy, iz = one / dx, one / dy, one / dz
    enter_x = -ox * ix - sx * abs(ix)
    enter_y = -oy * iy - sy * abs(iy)
    enter_z = -oz * iz - sz * abs(iz)
    leave = min(-ox * ix + sx * abs(ix), -oy * iy + sy * abs(iy), -oz * iz + sz * abs(iz))
    t = max(enter_x, enter_y, enter_z)
    if not t <= leave:
        return -one, zero, zero, zero, zero, zero
    px, py, pz = ox + t * dx, oy + t * dy, oz + t * dz
    if t == enter_z:
        return t, px, py, zero, zero, -one if dz > 0 else one
    if t == enter_x:
        return t, py, pz + sz + sx, -one if dx > 0 else one, zero, zero
    return t, px, pz + sz + sy, zero, -one if dy > 0 else one, zero


@_compiled
def _hit_frustum(r0, r1, h, ox, oy, oz, dx, dy, dz):
    zero, one, half = float32(0), float32(1), float32(0.5)
    slope = (r1 - r0) * half / h
    middle = (r0 + r1) * half
    radius_o, radius_d = middle + slope * oz, slope * dz
    t_top = (h - oz) / dz
    px, py = ox + t_top * dx, oy + t_top * dy
    if dz < 0 and px * px + py * py <= r1 * r1:
        return t_top, px, py, zero, zero, one
    a = dx * dx + dy * dy - radius_d * radius_d
    b = ox * dx + oy * dy - radius_o * radius_d
    c = ox * ox + oy * oy - radius_o * radius_o
    inside = b * b - a * c
    if not inside >= 0:
        return -one, zero, zero, zero, zero, zero
    t = (-b - math.sqrt(inside)) / a
    pz = oz + t * dz
    if not abs(pz) <= h:
        return -one, zero, zero, zero, zero, zero
    px, py = ox + t * dx, oy + t * dy
    radius = math.sqrt(px * px + py * py)
    return t, math.atan2(py, px) * middle, pz, px / radius, py / radius, zero


@_compiled
def _hit_ellipsoid(sx, sy, sz, ox, oy, oz, dx, dy, dz):
    zero, one = float32(0), float32(1)
    ax, ay, az = ox / sx, oy / sy, oz / sz
    bx, by, bz = dx / sx, dy / sy, dz / sz
    a = bx * bx + by * by + bz * bz
    b = ax * bx + ay * by + az * bz
    inside = b * b - a * (ax * ax + ay * ay + az * az - one)
    if not inside >= 0:
        return -one, zero, zero, zero, zero, zero
    t = (-b - math.sqrt(inside)) / a
    px, py, pz = ax + t * bx, ay + t * by, az + t * bz
    around = math.atan2(py, px) * sx
    up = math.asin(min(max(pz, -one), one)) * sz
    nx, ny, nz = px / sx, py / sy, pz / sz
    length = math.sqrt(nx * nx + ny * ny + nz * nz)
    return t, around, up, nx / length, ny / length, nz / length


@_compiled
def _hit_sheet(sx, sy, sz, amplitude, waves, phase, ox, oy, oz, dx, dy, dz):
    zero, one = float32(0), float32(1)
    t = (sz - oz) / dz
    px, py = ox + t * dx, oy + t * dy
    qx, qy = px / sx, py / sy
    edge = one + amplitude * math.sin(waves * math.atan2(qy, qx) + phase)
    if not qx * qx + qy * qy <= edge * edge:
        return -one, zero, zero, zero, zero, zero
    return t, px, py, zero, zero, one


@_compiled
def _backdrop(ox, oy, oz, dx, dy, dz, table, room, shadow):
    """The table, or else the wall or floor of the room around it → red, green, blue, shade."""
    half, one = float32(0.5), float32(1)
    if dz < 0:
        t = -oz / dz
        u = half + half * (ox + t * dx) * float32(1 / TABLE_HALF[0])
        v = half + half * (oy + t * dy) * float32(1 / TABLE_HALF[1])
        if 0 < u < one and 0 < v < one:
            rows, columns = shadow.shape
            light = shadow[min(int(v * rows), rows - 1), min(int(u * columns), columns - 1)]
            red, green, blue = _texel(table, 0, u, v)
            return red, green, blue, light
    tx = (float32(_ROOM_HIGH[0] if dx > 0 else _ROOM_LOW[0]) - ox) / dx
    ty = (float32(_ROOM_HIGH[1] if dy > 0 else _ROOM_LOW[1]) - oy) / dy
    tz = (float32(_ROOM_HIGH[2] if dz > 0 else _ROOM_LOW[2]) - oz) / dz
    t = min(tx, ty, tz)
    u, v = (ox + t * dx) / _ROOM_TILE, (oy + t * dy) / _ROOM_TILE
    light = float32(0.62)
    if t != tz:
        u, v = v if t == tx else u, (oz + t * dz) / _ROOM_TILE
        light = float32(0.8 if t == tx else 0.9)
    red, green, blue = _texel(room, 0, u, v)
    return red, green, blue, light


@_compiled
def _texel(pictures, number, u, v):
    """Bilinear sample at (u, v) tiles of a periodic picture; its sides are powers of two."""
    height, width = pictures.shape[1:3]
    fx, fy = u * float32(width), v * float32(height)
    floor_x, floor_y = math.floor(fx), math.floor(fy)
    wx, wy = fx - float32(floor_x), fy - float32(floor_y)
    x, y = int(floor_x) & (width - 1), int(floor_y) & (height - 1)
    x1, y1 = (x + 1) & (width - 1), (y + 1) & (height - 1)
    w11 = wx * wy
    w01, w10 = wx - w11, wy - w11
    w00 = float32(1) - wx - w10
    return (
        w00 * pictures[number, y, x, 0] + w01 * pictures[number, y, x1, 0]
        + w10 * pictures[number, y1, x, 0] + w11 * pictures[number, y1, x1, 0],
        w00 * pictures[number, y, x, 1] + w01 * pictures[number, y, x1, 1]
        + w10 * pictures[number, y1, x, 1] + w11 * pictures[number, y1, x1, 1],
        w00 * pictures[number, y, x, 2] + w01 * pictures[number, y, x1, 2]
        + w10 * pictures[number, y1, x, 2] + w11 * pictures[number, y1, x1, 2],
    )  # fmt: skip
