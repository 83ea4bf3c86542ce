"""The masks of one frame: run lengths → masks on the quarter grid, boxes, centroids and IoUs.

Compiled loops parse each mask once, and no array of an image's size is made. Legend: M ground-truth
masks, N proposals, q x r cells of the quarter grid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from egoexo_tools.arrays import Bool, Bytes, Float32, Float64, Int64, UInt64
from egoexo_tools.compiled import compiled
from egoexo_tools.errors import DataError
from egoexo_tools.masks.bitmaps import NO_BOX, mask_area, overlap_area, rasterise_runs
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.resizing import dest_edges, nearest_idxs
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.masks.rle_loops import OK, PROBLEMS, parse_counts
from omama.config import HW
from omama.features.descriptors import quarter_grid
from omama.features.images import candidate_idx, quarter_idx

Edges: TypeAlias = tuple[Int64, Int64]
"""For each border between source rows (columns), the number of sampled rows (columns) before it."""


@dataclass(frozen=True)
class FrameMasks:
    """Measurements of the masks of a frame."""

    quarters: Bool
    """(M + N, q, r): ground truth, then proposals."""
    truth_boxes: Float32
    """(M, 4) xywh (no +1; zeros if empty) in pixels of the prepared image."""
    centroids: Float64
    """(N, 2) mean x, y of the proposals in pixels of the prepared image; NaN if empty."""
    ious: Float32
    """(M, N) at the proposals' size; 0 where both are empty."""


def read_masks(
    truths: MaskColumns, proposals: MaskColumns, *, prepared_hw: HW, patch_size: int
) -> FrameMasks:
    """Measure a frame's masks at the size `prepared_hw` of the prepared image.

    Ground truth may have any sizes (the source video's); proposals have one size, the frame's.
    Raises DataError for damaged run lengths and for proposals of different sizes.
    """
    size = _size_of(proposals, prepared_hw)
    grid = quarter_grid(prepared_hw[0] // patch_size, prepared_hw[1] // patch_size, patch_size)
    quarters = np.zeros((len(truths) + len(proposals), *grid), np.uint8)
    bitmaps = _draw_truths(truths, size, prepared_hw, patch_size, quarters)
    centroids, ious = _measure_proposals(
        proposals,
        size,
        bitmaps,
        _quarter_edges(size, prepared_hw, patch_size, candidate_idx),
        quarters[len(truths) :],
    )
    x_min, x_max, y_min, y_max = bitmaps.prepared_boxes.T
    boxes = np.stack([x_min, y_min, x_max - x_min, y_max - y_min], axis=1)
    return FrameMasks(
        quarters=quarters.view(np.bool_),
        truth_boxes=np.where((x_max < 0)[:, None], 0, boxes).astype(np.float32),
        centroids=centroids * (prepared_hw[1] / size[1], prepared_hw[0] / size[0]),
        ious=ious,
    )


def mask_ious(truths: MaskColumns, proposals: MaskColumns) -> Float32:
    """(M, N) IoU at the proposals' size, as in `FrameMasks`, without an image size."""
    size = _size_of(proposals, (1, 1))
    # A prepared image of 4 x 4 pixels has a quarter grid of one cell, which costs next to nothing.
    quarters = np.zeros((len(truths) + len(proposals), 1, 1), np.uint8)
    bitmaps = _draw_truths(truths, size, (4, 4), 1, quarters)
    one_cell = dest_edges(size, (1, 1))
    return _measure_proposals(proposals, size, bitmaps, one_cell, quarters[len(truths) :])[1]


@dataclass(frozen=True)
class _TruthBitmaps:
    """Ground truth as bitmaps at the proposals' size (see egoexo_tools/masks/bitmaps.py)."""

    bitmaps: UInt64
    boxes: Int64
    areas: Int64
    prepared_boxes: Int64
    """x_min, x_max, y_min, y_max at the prepared image's size."""


def _draw_truths(
    truths: MaskColumns, size: HW, prepared: HW, patch_size: int, quarters: Bytes
) -> _TruthBitmaps:
    """Draw the bitmaps, and the quarter-grid masks into `quarters`."""
    count = len(truths)
    result = _TruthBitmaps(
        bitmaps=np.empty((count, size[1], -(-size[0] // 64)), np.uint64),
        boxes=np.empty((count, 4), np.int64),
        areas=np.zeros(count, np.int64),
        prepared_boxes=np.empty((count, 4), np.int64),
    )
    problems = np.zeros(count, np.uint8)
    for (height, width), rows in truths.rows_by_size():  # usually one size
        MaskRle(height, width, "")  # raises for an impossible size
        _truth_loop(
            truths.text,
            truths.offsets,
            rows,
            height,
            width,
            _quarter_edges((height, width), prepared, patch_size, nearest_idxs),
            dest_edges((height, width), size),
            dest_edges((height, width), prepared),
            quarters,
            result.bitmaps,
            result.boxes,
            result.areas,
            result.prepared_boxes,
            problems,
        )
    _raise_problem(problems, "ground-truth mask")
    return result


def _measure_proposals(
    proposals: MaskColumns, size: HW, truths: _TruthBitmaps, quarter_edges: Edges, quarters: Bytes
) -> tuple[Float64, Float32]:
    """Draw `quarters`; returns the centroids (N, 2) at `size` and the IoUs (M, N)."""
    centroids = np.full((len(proposals), 2), np.nan)  # an empty proposal has none
    ious = np.zeros((len(truths.areas), len(proposals)), np.float32)
    problems = np.zeros(len(proposals), np.uint8)
    _proposal_loop(
        proposals.text,
        proposals.offsets,
        *size,
        quarter_edges,
        dest_edges(size, size),
        truths.bitmaps,
        truths.boxes,
        truths.areas,
        quarters,
        centroids,
        ious,
        problems,
    )
    _raise_problem(problems, "proposal")
    return centroids, ious


def _size_of(proposals: MaskColumns, default: HW) -> HW:
    if not len(proposals):
        return default
    (height, width), *more_sizes = [size for size, _ in proposals.rows_by_size()]
    if more_sizes:
        raise DataError(
            "the proposals of a frame have masks of different sizes; run `egoexo-tools propose "
            "--overwrite`"
        )
    MaskRle(height, width, "")  # raises for an impossible size
    return height, width


def _raise_problem(problems: Bytes, kind: str) -> None:
    """DataError for the first mask with a problem."""
    bad = np.flatnonzero(problems)
    if bad.size:
        raise DataError(f"{kind} {bad[0]} of a frame: {PROBLEMS[problems[bad[0]]]}")


@lru_cache(maxsize=128)  # a release has few sizes of frames, and masks come by the million
def _quarter_edges(
    mask_hw: HW, prepared: HW, patch_size: int, nearest: Callable[[int, int], Int64]
) -> Edges:
    rows, cols = (
        np.searchsorted(idx, np.arange(side + 1)).astype(np.int64)
        for idx, side in zip(
            quarter_idx(mask_hw, prepared, patch_size, nearest), mask_hw, strict=True
        )
    )
    return rows, cols


@compiled
def _paint(runs: Int64, height: int, rows: Int64, cols: Int64, out: Bytes) -> None:
    """Set the pixels of `out` (all 0 before) whose source pixel is foreground."""
    column, row = 0, 0
    for run in range(runs.size):
        end_row = row + runs[run]
        end_column = column
        if end_row >= height:
            end_column += end_row // height
            end_row = end_row % height
        # Odd runs are foreground; a run of 0 only separates two others.
        if run & 1 and runs[run] > 0:
            last = end_column if end_row > 0 else end_column - 1
            for x in range(cols[column], cols[last + 1]):
                start = rows[row] if x < cols[column + 1] else 0
                stop = rows[end_row] if end_row > 0 and x >= cols[last] else rows[height]
                for y in range(start, stop):
                    out[y, x] = 1
        column, row = end_column, end_row


@compiled
def _sums(position: int, height: int) -> tuple[int, int]:
    """Sums of x and of y over the column-major positions before `position`."""
    column, row = position // height, position % height
    x = height * (column * (column - 1) // 2) + column * row
    y = column * (height * (height - 1) // 2) + row * (row - 1) // 2
    return x, y


@compiled
def _centroid(runs: Int64, height: int, point: Float64) -> int:
    """Number of foreground pixels; their mean x, y is written into `point` if there are any."""
    # Integer sums are exact: a centroid does not depend on the order of the runs.
    position = pixels = x_sum = y_sum = 0
    for run in range(runs.size):
        if run & 1:
            x_before, y_before = _sums(position, height)
            x_after, y_after = _sums(position + runs[run], height)
            x_sum += x_after - x_before
            y_sum += y_after - y_before
            pixels += runs[run]
        position += runs[run]
    if pixels:
        point[0], point[1] = x_sum / pixels, y_sum / pixels
    return pixels


@compiled
def _truth_loop(
    text: Bytes,
    offsets: Int64,
    members: Int64,
    height: int,
    width: int,
    quarter_edges: Edges,
    size_edges: Edges,
    prepared_edges: Edges,
    quarters: Bytes,
    bitmaps: UInt64,
    boxes: Int64,
    areas: Int64,
    prepared_boxes: Int64,
    problems: Bytes,
) -> None:
    prepared = prepared_edges[0][height], prepared_edges[1][width]
    scratch = np.empty((prepared[1], (prepared[0] + 63) // 64), np.uint64)
    for i in members:
        counts = text[offsets[i] : offsets[i + 1]]
        space = np.empty(counts.size, np.int64)
        problem, count, _ = parse_counts(counts, height * width, space)
        # Compiled loops do not raise: a damaged mask is empty here, and the caller raises for it.
        problems[i] = problem
        runs = space[: count if problem == OK else 0]
        _paint(runs, height, quarter_edges[0], quarter_edges[1], quarters[i])
        rasterise_runs(runs, height, size_edges[0], size_edges[1], bitmaps[i], boxes[i])
        areas[i] = mask_area(bitmaps[i], boxes[i])
        rasterise_runs(
            runs, height, prepared_edges[0], prepared_edges[1], scratch, prepared_boxes[i]
        )


@compiled
def _proposal_loop(
    text: Bytes,
    offsets: Int64,
    height: int,
    width: int,
    quarter_edges: Edges,
    own_edges: Edges,
    truths: UInt64,
    truth_boxes: Int64,
    truth_areas: Int64,
    quarters: Bytes,
    centroids: Float64,
    ious: Float32,
    problems: Bytes,
) -> None:
    bitmap = np.empty((width, (height + 63) // 64), np.uint64)
    box = np.array([NO_BOX, -1, NO_BOX, -1])
    for i in range(problems.size):
        counts = text[offsets[i] : offsets[i + 1]]
        space = np.empty(counts.size, np.int64)
        problem, count, _ = parse_counts(counts, height * width, space)
        problems[i] = problem
        runs = space[: count if problem == OK else 0]
        _paint(runs, height, quarter_edges[0], quarter_edges[1], quarters[i])
        pixels = _centroid(runs, height, centroids[i])
        # The bitmap is needed for IoUs only.
        if truth_areas.size:
            rasterise_runs(runs, height, own_edges[0], own_edges[1], bitmap, box)
        for k in range(truth_areas.size):
            intersection = overlap_area(truths[k], bitmap, truth_boxes[k], box)
            union = pixels + truth_areas[k] - intersection
            if union:
                ious[k, i] = intersection / union
