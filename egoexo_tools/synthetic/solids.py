"""Ray casting of simple solids, and the room around them, into colours and object ids.

A solid is a row of floats (see SOLID): a box, a frustum (cylinder, cup, cone), an ellipsoid, or a
sheet with a wavy round outline. Textures repeat every TILE_METRES. All lengths are in metres.
World coordinates: x to the right of the wearer, y away from the wearer, z up, table top at z = 0.
Camera coordinates: x right, y down, z forward. Rays go through pixel centres.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba import float32

BOX, FRUSTUM, ELLIPSOID, SHEET = range(4)
SOLID = np.dtype(
    [
        ("kind", "f4"),
        ("object_id", "f4"),  # from 1 for annotated objects; 0 for a hand
        ("texture", "f4"),
        ("size", "f4", 3),  # half extents; a frustum: bottom radius, top radius, half height
        ("centre", "f4", 3),
        ("rotation", "f4", (3, 3)),  # object to world
        ("wave", "f4", 3),  # outline of a sheet: amplitude, number of waves, phase
    ]
)
TILE_METRES = 0.24
_TILES = np.float32(1 / TILE_METRES)
_AMBIENT, _DIFFUSE = 0.77, 0.24
_LIGHT = (0.36, -0.28, 0.89)
_ROOM_LOW, _ROOM_HIGH = (-3.0, -3.0, -0.75), (3.0, 3.0, 2.1)
_ROOM_TILE = np.float32(1.5)

F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F) -> F:
    """Like compiled.compiled, with those fast-math options that preserve infinities and NaN.

    Rays parallel to a face divide by zero, and the comparisons that follow rely on the result.
    """
    flags = {"contract", "arcp", "nsz", "reassoc"}
    return cast(F, numba.njit(cache=True, error_model="numpy", fastmath=flags)(function))


@_compiled
def cast_solids(
    rgb: Any, ids: Any, depth: Any, shift: Any, centre: Any,
    origin: Any, rotation: Any, focal: Any, solids: Any, boxes: Any, textures: Any,
) -> None:  # fmt: skip
    """Draw solids into a patch of a frame; the nearest one is visible.

    rgb (h, w, 3) uint8 and ids (h, w) uint8 are the patch; depth (h, w) float32 are the distances
    so far. shift: (y, x) of the patch in the frame. centre: (y, x) of the principal point.
    solids: (n, 21) float32, rows of SOLID. boxes: (n, 4) int32, y0, y1, x0, x1 in the frame.
    textures: (count, side, side, 3) uint8.
    """
    height, width = ids.shape
    for i in range(len(solids)):
        ex, ey, ez = origin[0] - solids[i, 6], origin[1] - solids[i, 7], origin[2] - solids[i, 8]
        r00, r01, r02 = solids[i, 9], solids[i, 10], solids[i, 11]
        r10, r11, r12 = solids[i, 12], solids[i, 13], solids[i, 14]
        r20, r21, r22 = solids[i, 15], solids[i, 16], solids[i, 17]
        ox, oy, oz = (
            ex * r00 + ey * r10 + ez * r20,
            ex * r01 + ey * r11 + ez * r21,
            ex * r02 + ey * r12 + ez * r22,
        )
        texture = int(solids[i, 2])
        for y in range(max(boxes[i, 0] - shift[0], 0), min(boxes[i, 1] - shift[0], height)):
            b = float32(y + shift[0] + 0.5 - centre[0]) / focal
            for x in range(max(boxes[i, 2] - shift[1], 0), min(boxes[i, 3] - shift[1], width)):
                a = float32(x + shift[1] + 0.5 - centre[1]) / focal
                dx = rotation[0, 0] * a + rotation[1, 0] * b + rotation[2, 0]
                dy = rotation[0, 1] * a + rotation[1, 1] * b + rotation[2, 1]
                dz = rotation[0, 2] * a + rotation[1, 2] * b + rotation[2, 2]
                t, u, v, nx, ny, nz = _hit(
                    solids, i, ox, oy, oz,
                    dx * r00 + dy * r10 + dz * r20,
                    dx * r01 + dy * r11 + dz * r21,
                    dx * r02 + dy * r12 + dz * r22,
                )  # fmt: skip
                if not 0 < t < depth[y, x]:
                    continue
                depth[y, x] = t
                ids[y, x] = np.uint8(solids[i, 1])
                facing = (
                    _LIGHT[0] * (nx * r00 + ny * r01 + nz * r02)
                    + _LIGHT[1] * (nx * r10 + ny * r11 + nz * r12)
                    + _LIGHT[2] * (nx * r20 + ny * r21 + nz * r22)
                )
                shade = float32(_AMBIENT + _DIFFUSE * max(facing, 0.0))
                red, green, blue = _texel(textures, texture, u * _TILES, v * _TILES)
                rgb[y, x, 0] = np.uint8(min(shade * red, float32(255)))
                rgb[y, x, 1] = np.uint8(min(shade * green, float32(255)))
                rgb[y, x, 2] = np.uint8(min(shade * blue, float32(255)))


@_compiled
def cast_room(rgb: Any, origin: Any, rotation: Any, focal: Any, texture: Any) -> None:
    """Fill rgb (h, w, 3) uint8 with walls and floor; texture is (1, side, side, 3)."""
    height, width = rgb.shape[:2]
    for y in range(height):
        b = float32(y + 0.5 - 0.5 * height) / focal
        for x in range(width):
            a = float32(x + 0.5 - 0.5 * width) / focal
            dx = rotation[0, 0] * a + rotation[1, 0] * b + rotation[2, 0]
            dy = rotation[0, 1] * a + rotation[1, 1] * b + rotation[2, 1]
            dz = rotation[0, 2] * a + rotation[1, 2] * b + rotation[2, 2]
            tx = (float32(_ROOM_HIGH[0] if dx > 0 else _ROOM_LOW[0]) - origin[0]) / dx
            ty = (float32(_ROOM_HIGH[1] if dy > 0 else _ROOM_LOW[1]) - origin[1]) / dy
            tz = (float32(_ROOM_HIGH[2] if dz > 0 else _ROOM_LOW[2]) - origin[2]) / dz
            t = min(tx, ty, tz)
            u, v = (origin[0] + t * dx) / _ROOM_TILE, (origin[1] + t * dy) / _ROOM_TILE
            shade = float32(0.62)
            if t != tz:
                u, v = v if t == tx else u, (origin[2] + t * dz) / _ROOM_TILE
                shade = float32(0.8 if t == tx else 0.9)
            red, green, blue = _texel(texture, 0, u, v)
            rgb[y, x, 0] = np.uint8(shade * red)
            rgb[y, x, 1] = np.uint8(shade * green)
            rgb[y, x, 2] = np.uint8(shade * blue)


# The functions below intersect a ray (origin o, direction d) with a solid, both in the solid's
# coordinates. They return the distance (-1 without a hit), the texture point in metres, and the
# normal.


@_compiled
def _hit(
    solids: Any, i: Any, ox: Any, oy: Any, oz: Any, dx: Any, dy: Any, dz: Any,
) -> Any:  # fmt: skip
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
def _hit_box(
    sx: Any, sy: Any, sz: Any, ox: Any, oy: Any, oz: Any, dx: Any, dy: Any, dz: Any,
) -> Any:  # fmt: skip
    zero, unit = float32(0), float32(1)
    ix, iy, iz = unit / dx, unit / dy, unit / dz
    enter_x = -ox * ix - sx * abs(ix)
    enter_y = -oy * iy - sy * abs(iy)
    enter_z = -oz * iz - sz * abs(iz)
    leave = min(-ox * ix + sx * abs(ix), -oy * iy + sy * abs(iy), -oz * iz + sz * abs(iz))
    t = max(enter_x, enter_y, enter_z)
    if not t <= leave:
        return -unit, zero, zero, zero, zero, zero
    px, py, pz = ox + t * dx, oy + t * dy, oz + t * dz
    if t == enter_z:
        return t, px, py, zero, zero, -unit if dz > 0 else unit
    if t == enter_x:
        return t, py, pz + sz + sx, -unit if dx > 0 else unit, zero, zero
    return t, px, pz + sz + sy, zero, -unit if dy > 0 else unit, zero


@_compiled
def _hit_frustum(
    r0: Any, r1: Any, h: Any, ox: Any, oy: Any, oz: Any, dx: Any, dy: Any, dz: Any,
) -> Any:  # fmt: skip
    zero, unit, half = float32(0), float32(1), float32(0.5)
    slope = (r1 - r0) * half / h
    middle = (r0 + r1) * half
    radius_o, radius_d = middle + slope * oz, slope * dz
    t_top = (h - oz) / dz
    px, py = ox + t_top * dx, oy + t_top * dy
    if dz < 0 and px * px + py * py <= r1 * r1:
        return t_top, px, py, zero, zero, unit
    a = dx * dx + dy * dy - radius_d * radius_d
    b = ox * dx + oy * dy - radius_o * radius_d
    c = ox * ox + oy * oy - radius_o * radius_o
    inside = b * b - a * c
    if not inside >= 0:
        return -unit, zero, zero, zero, zero, zero
    t = (-b - math.sqrt(inside)) / a
    pz = oz + t * dz
    if not abs(pz) <= h:
        return -unit, zero, zero, zero, zero, zero
    px, py = ox + t * dx, oy + t * dy
    radius = math.sqrt(px * px + py * py)
    return t, math.atan2(py, px) * middle, pz, px / radius, py / radius, zero


@_compiled
def _hit_ellipsoid(
    sx: Any, sy: Any, sz: Any, ox: Any, oy: Any, oz: Any, dx: Any, dy: Any, dz: Any,
) -> Any:  # fmt: skip
    zero, unit = float32(0), float32(1)
    ax, ay, az = ox / sx, oy / sy, oz / sz
    bx, by, bz = dx / sx, dy / sy, dz / sz
    a = bx * bx + by * by + bz * bz
    b = ax * bx + ay * by + az * bz
    inside = b * b - a * (ax * ax + ay * ay + az * az - unit)
    if not inside >= 0:
        return -unit, zero, zero, zero, zero, zero
    t = (-b - math.sqrt(inside)) / a
    px, py, pz = ax + t * bx, ay + t * by, az + t * bz
    around = math.atan2(py, px) * sx
    up = math.asin(min(max(pz, -unit), unit)) * sz
    nx, ny, nz = px / sx, py / sy, pz / sz
    length = math.sqrt(nx * nx + ny * ny + nz * nz)
    return t, around, up, nx / length, ny / length, nz / length


@_compiled
def _hit_sheet(
    sx: Any, sy: Any, sz: Any, amplitude: Any, waves: Any, phase: Any,
    ox: Any, oy: Any, oz: Any, dx: Any, dy: Any, dz: Any,
) -> Any:  # fmt: skip
    zero, unit = float32(0), float32(1)
    t = (sz - oz) / dz
    px, py = ox + t * dx, oy + t * dy
    qx, qy = px / sx, py / sy
    edge = unit + amplitude * math.sin(waves * math.atan2(qy, qx) + phase)
    if not qx * qx + qy * qy <= edge * edge:
        return -unit, zero, zero, zero, zero, zero
    return t, px, py, zero, zero, unit


@_compiled
def _texel(textures: Any, number: Any, u: Any, v: Any) -> Any:
    """Bilinear sample at (u, v) tiles of a periodic texture; its sides are powers of two."""
    height, width = textures.shape[1:3]
    fx, fy = u * float32(width), v * float32(height)
    floor_x, floor_y = math.floor(fx), math.floor(fy)
    wx, wy = fx - float32(floor_x), fy - float32(floor_y)
    x, y = int(floor_x) & (width - 1), int(floor_y) & (height - 1)
    x1, y1 = (x + 1) & (width - 1), (y + 1) & (height - 1)
    w11 = wx * wy
    w01, w10 = wx - w11, wy - w11
    w00 = float32(1) - wx - w10
    return (
        w00 * float32(textures[number, y, x, 0]) + w01 * float32(textures[number, y, x1, 0])
        + w10 * float32(textures[number, y1, x, 0]) + w11 * float32(textures[number, y1, x1, 0]),
        w00 * float32(textures[number, y, x, 1]) + w01 * float32(textures[number, y, x1, 1])
        + w10 * float32(textures[number, y1, x, 1]) + w11 * float32(textures[number, y1, x1, 1]),
        w00 * float32(textures[number, y, x, 2]) + w01 * float32(textures[number, y, x1, 2])
        + w10 * float32(textures[number, y1, x, 2]) + w11 * float32(textures[number, y1, x1, 2]),
    )  # fmt: skip
