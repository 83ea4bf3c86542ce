"""Over-segmentation by Felzenszwalb and Huttenlocher (Efficient Graph-Based Image Segmentation,
IJCV 2004), compiled. Segments are merged along the edges between pixels, weakest edge first, if the
edge is not stronger than the internal differences of both segments allow.

The slow twin is `skimage.segmentation.felzenszwalb`. The results are equal unless two edges have
the same strength: here edges are sorted as float32, there as float64.
"""

from typing import Any

import cv2
import numpy as np

from egoexo_tools.arrays import Float32, Int32, UInt32, UInt64
from egoexo_tools.compiled import compiled

_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""(rows down, columns right) from a pixel to the neighbours with which it forms its edges."""
_RADIX_BITS = 11
_RADIX = 1 << _RADIX_BITS


def oversegment(image: Float32, *, scale: float, sigma: float, min_size: int) -> Int32:
    """Labels (H, W), 0 to S - 1, of an image (H, W, C).

    `scale` is the paper's k; larger values give larger segments. `sigma`, in pixels, is that of
    the smoothing before. Segments below `min_size` pixels join their most similar neighbour.
    """
    height, width = image.shape[:2]
    smooth = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    costs, edges = _edges(np.ascontiguousarray(smooth, np.float32).reshape(height, width, -1))
    # Cost and edge are sorted as one number, so that merging reads memory sequentially.
    # (E,): cost in the upper 32 bits, edge in the lower ones
    packed = _sorted_by_cost(costs.view(np.uint32).astype(np.uint64) << np.uint64(32) | edges)
    costs = (packed >> np.uint64(32)).astype(np.uint32).view(np.float32)
    edges = packed.astype(np.uint32)
    return _join(costs, edges, height, width, np.float32(scale), min_size)


@compiled
def _edges(image: Float32) -> tuple[Float32, UInt32]:
    """Costs (E,) and codes (E,), 4 * pixel + direction, of the edges to neighbours."""
    height, width, channels = image.shape
    count = height * (width - 1) + (height - 1) * width + 2 * (height - 1) * (width - 1)
    costs = np.empty(count, np.float32)
    edges = np.empty(count, np.uint32)
    at = 0
    for row in range(height):
        for col in range(width):
            for direction in range(4):
                down, right = _DIRECTIONS[direction]
                if not (row + down < height and 0 <= col + right < width):
                    continue
                total = np.float32(0)
                for c in range(channels):
                    difference = image[row, col, c] - image[row + down, col + right, c]
                    total += difference * difference
                costs[at] = np.sqrt(total)
                edges[at] = 4 * (row * width + col) + direction
                at += 1
    return costs, edges


@compiled
def _sorted_by_cost(packed: UInt64) -> UInt64:
    """Stable radix sort by the upper halves: non-negative floats sort like their bits."""
    other = np.empty_like(packed)
    mask = np.uint64(_RADIX - 1)
    for digit in range(3):  # three digits of 11 bits cover the 32 bits of the cost
        shift = np.uint64(32 + digit * _RADIX_BITS)
        places = np.zeros(_RADIX + 1, np.int64)
        for i in range(packed.size):
            places[np.int64((packed[i] >> shift) & mask) + 1] += 1
        places = np.cumsum(places)
        for i in range(packed.size):
            bucket = np.int64((packed[i] >> shift) & mask)
            other[places[bucket]] = packed[i]
            places[bucket] += 1
        packed, other = other, packed
    return packed


@compiled
def _find(parents: Int32, pixel: Any) -> Any:
    """The root of a pixel's segment; halves the path to it for later calls."""
    while parents[pixel] != pixel:
        parents[pixel] = parents[parents[pixel]]
        pixel = parents[pixel]
    return pixel


@compiled
def _union(parents: Int32, sizes: Int32, first: Any, second: Any) -> Any:
    """Attach the smaller of two segments to the root of the larger; returns that root."""
    if sizes[first] < sizes[second]:
        first, second = second, first
    parents[second] = first
    sizes[first] += sizes[second]
    return first


@compiled
def _join(
    costs: Float32, edges: UInt32, height: int, width: int, scale: Any, min_size: int
) -> Int32:
    """The labels (H, W); costs and edges (E,) as from `_edges`, sorted by cost."""
    count = height * width
    steps = np.array([down * width + right for down, right in _DIRECTIONS])
    parents = np.arange(count).astype(np.int32)
    sizes = np.ones(count, np.int32)
    # The paper's threshold: the strongest inner edge, plus a term that shrinks with the size.
    limits = np.full(count, scale, np.float32)
    remaining = np.empty(edges.size, np.uint32)  # edges between segments, for the second pass
    remaining_count = 0
    for i in range(edges.size):
        edge = np.int64(edges[i])
        first = _find(parents, edge >> 2)
        second = _find(parents, (edge >> 2) + steps[edge & 3])
        if first == second:
            continue
        if costs[i] < min(limits[first], limits[second]):
            root = _union(parents, sizes, first, second)
            limits[root] = costs[i] + scale / sizes[root]
        else:
            remaining[remaining_count] = edge
            remaining_count += 1
    # Weakest first again, so that a small segment joins its most similar neighbour.
    for i in range(remaining_count):
        edge = np.int64(remaining[i])
        first = _find(parents, edge >> 2)
        second = _find(parents, (edge >> 2) + steps[edge & 3])
        if first != second and min(sizes[first], sizes[second]) < min_size:
            _union(parents, sizes, first, second)
    # Number the segments in the order of their first pixel, as scikit-image does.
    labels = np.full(count, -1, np.int32)
    out = np.empty((height, width), np.int32)
    names = 0
    for pixel in range(count):
        root = _find(parents, pixel)
        if labels[root] < 0:
            labels[root] = names
            names += 1
        out[pixel // width, pixel % width] = labels[root]
    return out
