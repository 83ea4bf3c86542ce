"""Hierarchical grouping of super-pixels: the compiled core of the `regions` proposer.

The two most similar neighbours are merged until one region remains, and every intermediate region
is a candidate (Uijlings et al., Selective Search for Object Recognition, IJCV 2013, section 3). A
region is a row of `members` (R, S) bool: whether it contains each of the S super-pixels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from egoexo_tools.arrays import Bool, Float32, Int32, Int64
from egoexo_tools.compiled import compiled

Scalar = np.float32


@dataclass(frozen=True)
class Superpixels:
    """An over-segmentation and the measurements that grouping needs."""

    labels: Int32
    """(H, W), 0 to S - 1."""
    sizes: Float32
    """(S,), in pixels."""
    boxes: Int32
    """(S, 4), first row, first column, last row, last column."""
    at_edge: Bool
    """(S,), whether a super-pixel touches the edge of the image."""
    borders: Int32
    """(E, 2), pairs of neighbouring super-pixels."""
    border_length: Float32
    """(E,), number of neighbouring pixel pairs across each border."""
    border_strength: Float32
    """(E,), sum of the edge strength over these pairs."""
    inside_length: Float32
    """(S,), number of neighbouring pixel pairs inside each super-pixel."""
    inside_strength: Float32
    """(S,), sum of the edge strength over these pairs."""


@dataclass(frozen=True)
class Outlines:
    """Measurements of regions, each (R,)."""

    length: Float32
    """Number of pixel pairs across the outline, without the edge of the image."""
    strength: Float32
    """Mean edge strength on the outline."""
    inside: Float32
    """Mean edge strength inside."""


def describe(labels: Int32, edges: Float32) -> Superpixels:
    """Measure super-pixels; `edges` (H, W) is the edge strength."""
    count = int(labels.max()) + 1
    sizes, boxes, length, strength = _describe(labels, edges, count)
    height, width = labels.shape
    # The diagonal of `length` and `strength` belongs to pairs inside a super-pixel.
    inside = np.arange(count)
    first, second = np.nonzero(np.triu(length, 1))
    return Superpixels(
        labels=labels,
        sizes=sizes,
        boxes=boxes,
        at_edge=(boxes == (0, 0, height - 1, width - 1)).any(axis=1),
        borders=np.stack([first, second], axis=1).astype(np.int32),
        border_length=length[first, second],
        border_strength=strength[first, second],
        inside_length=length[inside, inside],
        inside_strength=strength[inside, inside],
    )


def histograms(labels: Int32, bins: Int32, *, count: int) -> Float32:
    """(S, C * count) histograms of the bin numbers (H, W, C); each row adds up to 1."""
    regions, channels = int(labels.max()) + 1, bins.shape[2]
    flat = labels.ravel().astype(np.int64) * count
    parts = [
        np.bincount(flat + bins[:, :, c].ravel(), minlength=regions * count)
        for c in range(channels)
    ]
    counts = np.stack(parts).reshape(channels, regions, count).astype(np.float32)  # (C, S, count)
    counts /= channels * np.maximum(counts.sum(axis=2, keepdims=True), 1)
    return np.ascontiguousarray(counts.transpose(1, 0, 2)).reshape(regions, channels * count)


def group(
    pixels: Superpixels, features: Float32, *, size_weight: float, fill_weight: float
) -> Bool:
    """All 2S - 1 regions of a hierarchy: the S super-pixels, then the others in merging order.

    The similarity of two regions is the intersection of their `features` (S, D), plus the weighted
    terms for small size and for filling their common box (formulas 4 and 5 of the paper).
    """
    count = len(pixels.sizes)
    adjacent = np.zeros((count, count), np.bool_)
    adjacent[pixels.borders[:, 0], pixels.borders[:, 1]] = True
    return _group(
        adjacent | adjacent.T,
        pixels.sizes.copy(),
        pixels.boxes.copy(),
        np.array(features, dtype=np.float32, order="C"),
        np.float32(pixels.labels.size),
        np.float32(size_weight),
        np.float32(fill_weight),
    )


def without_holes(pixels: Superpixels, members: Bool) -> Bool:
    """The regions with all super-pixels that they enclose."""
    members = members.copy()
    # The neighbours of super-pixel 0, then those of 1, and so on; `starts` (S + 1,) separates them.
    pairs = np.concatenate([pixels.borders, pixels.borders[:, ::-1]])
    neighbours: Int32 = pairs[np.argsort(pairs[:, 0], kind="stable"), 1]
    counts = np.bincount(pixels.borders.ravel(), minlength=len(pixels.sizes))
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    _fill(starts, neighbours, pixels.at_edge, members)
    return members


def first_of_equals(members: Bool) -> Int64:
    """The index of the first of each set of equal rows (R, S), in binary order of the rows."""
    # As np.unique(axis=0) on packed bits, but sorting whole 64-bit words.
    packed = np.packbits(members, axis=1)
    missing = -packed.shape[1] % 8
    words = np.pad(packed, ((0, 0), (0, missing))).view(">u8")  # (R, ceil(S / 64))
    order = np.lexsort(words.T[::-1])
    ordered = words[order]
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return order[is_first]


def outlines(pixels: Superpixels, members: Bool) -> Outlines:
    """Edge strength on the outline of each region and inside it."""
    measures = _outlines(
        pixels.borders,
        pixels.border_length,
        pixels.border_strength,
        pixels.inside_length,
        pixels.inside_strength,
        members,
    )
    return Outlines(measures[0], measures[1], measures[2])


def box_areas(pixels: Superpixels, members: Bool) -> Float32:
    """(R,) pixels in the bounding box of each region; regions must not be empty."""
    largest = np.iinfo(np.int32).max
    first = [np.where(members, pixels.boxes[:, axis], largest).min(axis=1) for axis in (0, 1)]
    last = [np.where(members, pixels.boxes[:, axis], -1).max(axis=1) for axis in (2, 3)]
    sides = np.stack(last) - np.stack(first) + 1
    return np.asarray(sides.prod(axis=0), np.float32)


def suppress(overlaps: Float32, *, threshold: float, limit: int) -> Int32:
    """Indices kept by non-maximum suppression of regions that are sorted by descending score.

    `overlaps` (R, R) is the IoU. A region is dropped if its IoU with a kept one exceeds threshold.
    """
    return _suppress(overlaps, np.float32(threshold), limit)


@compiled
def _describe(labels: Int32, edges: Float32, count: int) -> tuple[Float32, Int32, Float32, Float32]:
    height, width = labels.shape
    sizes = np.zeros(count, np.float32)
    boxes = np.empty((count, 4), np.int32)
    boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3] = height, width, -1, -1
    length = np.zeros((count, count), np.float32)
    strength = np.zeros((count, count), np.float32)
    for y in range(height):
        for x in range(width):
            a = labels[y, x]
            sizes[a] += 1
            boxes[a, 0], boxes[a, 1] = min(boxes[a, 0], y), min(boxes[a, 1], x)
            boxes[a, 2], boxes[a, 3] = max(boxes[a, 2], y), max(boxes[a, 3], x)
            # Each pair of neighbours is counted once, at its upper or left pixel.
            for dy, dx in ((0, 1), (1, 0)):
                if y + dy >= height or x + dx >= width:
                    continue
                b = labels[y + dy, x + dx]
                low, high = min(a, b), max(a, b)
                length[low, high] += 1
                strength[low, high] += max(edges[y, x], edges[y + dy, x + dx])
    return sizes, boxes, length, strength


@compiled
def _similarity(
    i: Any,
    j: Any,
    sizes: Float32,
    boxes: Int32,
    features: Float32,
    area: Scalar,
    size_weight: Scalar,
    fill_weight: Scalar,
) -> Any:
    common = np.float32(0)
    for d in range(features.shape[1]):
        common += min(features[i, d], features[j, d])
    high = max(boxes[i, 2], boxes[j, 2]) - min(boxes[i, 0], boxes[j, 0]) + 1
    wide = max(boxes[i, 3], boxes[j, 3]) - min(boxes[i, 1], boxes[j, 1]) + 1
    size = sizes[i] + sizes[j]
    return (
        common + size_weight * (1 - size / area) + fill_weight * (1 - (high * wide - size) / area)
    )


@compiled
def _group(
    adjacent: Bool,
    sizes: Float32,
    boxes: Int32,
    features: Float32,
    area: Scalar,
    size_weight: Scalar,
    fill_weight: Scalar,
) -> Bool:
    """A merged region takes the slot of one of its halves; the slot of the other becomes idle."""
    count = len(sizes)
    members = np.zeros((2 * count - 1, count), np.bool_)
    node_of = np.arange(count)
    similar = np.full((count, count), np.float32(-1))  # -1 for slots that are not neighbours
    # The best neighbour of each slot is cached, so that a step checks S values instead of S².
    best = np.zeros(count, np.int64)
    best_value = np.zeros(count, np.float32)
    for i in range(count):
        members[i, i] = True
        for j in range(count):
            if adjacent[i, j]:
                similar[i, j] = _similarity(
                    i, j, sizes, boxes, features, area, size_weight, fill_weight
                )
        best[i] = np.argmax(similar[i])
        best_value[i] = similar[i, best[i]]
    for step in range(count - 1):
        i = int(np.argmax(best_value))
        j = int(best[i])
        members[count + step] = members[node_of[i]] | members[node_of[j]]
        node_of[i] = count + step
        _merge(i, j, adjacent, sizes, boxes, features)
        # Slot j becomes idle: no slot is similar to it, and its best value is never the maximum.
        similar[j], similar[:, j], best_value[j] = -1, -1, -1
        for k in range(count):
            if not adjacent[i, k]:
                continue
            value = _similarity(i, k, sizes, boxes, features, area, size_weight, fill_weight)
            similar[i, k] = similar[k, i] = value
            # If the best neighbour was one of the two, another one may now be more similar.
            if best[k] == i or best[k] == j:
                best[k] = np.argmax(similar[k])
                best_value[k] = similar[k, best[k]]
            elif value > best_value[k]:
                best[k], best_value[k] = i, value
        best[i] = np.argmax(similar[i])
        best_value[i] = similar[i, best[i]]
    return members


@compiled
def _merge(i: Any, j: Any, adjacent: Bool, sizes: Float32, boxes: Int32, features: Float32) -> None:
    """Merge region j into region i."""
    size = sizes[i] + sizes[j]
    features[i] = (features[i] * sizes[i] + features[j] * sizes[j]) / size
    sizes[i] = size
    boxes[i, 0], boxes[i, 1] = min(boxes[i, 0], boxes[j, 0]), min(boxes[i, 1], boxes[j, 1])
    boxes[i, 2], boxes[i, 3] = max(boxes[i, 2], boxes[j, 2]), max(boxes[i, 3], boxes[j, 3])
    adjacent[i] |= adjacent[j]
    adjacent[i, i] = adjacent[i, j] = False
    adjacent[:, i] = adjacent[i]
    adjacent[j], adjacent[:, j] = False, False


@compiled
def _fill(starts: Int32, neighbours: Int32, at_edge: Bool, members: Bool) -> None:
    """Add to each region what is not reachable from the image's edge without crossing it."""
    count = members.shape[1]
    stack = np.empty(count, np.int32)
    for row in range(len(members)):
        # A depth-first search through the super-pixels outside the region, from the image's edge.
        visited = members[row] | at_edge
        stack_size = 0
        for i in range(count):
            if at_edge[i] and not members[row, i]:
                stack[stack_size] = i
                stack_size += 1
        while stack_size:
            stack_size -= 1
            i = stack[stack_size]
            for k in neighbours[starts[i] : starts[i + 1]]:
                if not visited[k]:
                    visited[k] = True
                    stack[stack_size] = k
                    stack_size += 1
        for i in range(count):
            members[row, i] |= not visited[i]


@compiled
def _outlines(
    borders: Int32,
    border_length: Float32,
    border_strength: Float32,
    inside_length: Float32,
    inside_strength: Float32,
    members: Bool,
) -> Float32:
    measures = np.zeros((3, len(members)), np.float32)
    for row in range(len(members)):
        region = members[row]
        out_length = out_strength = in_length = in_strength = np.float32(0)
        for i in range(len(region)):
            if region[i]:
                in_length += inside_length[i]
                in_strength += inside_strength[i]
        for e in range(len(borders)):
            first, second = region[borders[e, 0]], region[borders[e, 1]]
            if first and second:
                in_length += border_length[e]
                in_strength += border_strength[e]
            elif first or second:
                out_length += border_length[e]
                out_strength += border_strength[e]
        measures[0, row] = out_length
        measures[1, row] = out_strength / max(out_length, np.float32(1))
        measures[2, row] = in_strength / max(in_length, np.float32(1))
    return measures


@compiled
def _suppress(overlaps: Float32, threshold: Scalar, limit: int) -> Int32:
    count = len(overlaps)
    dropped = np.zeros(count, np.bool_)
    survivors = np.empty(min(limit, count), np.int32)
    survivor_count = 0
    for i in range(count):
        if dropped[i]:
            continue
        if survivor_count == len(survivors):
            break
        survivors[survivor_count] = i
        survivor_count += 1
        for j in range(i + 1, count):
            dropped[j] |= overlaps[i, j] > threshold
    return survivors[:survivor_count]
