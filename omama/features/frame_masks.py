"""The masks of one frame, read together: each is parsed once, in compiled loops over all of them.

From run lengths to what training and the feature cache want of a frame's ground-truth masks and
proposals: masks on the quarter grid, boxes, centroids, overlaps. Nothing of an image's size is made
in Python. Legend: M ground-truth masks, N proposals, q x r cells of the quarter grid.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from egoexo_tools.arrays import Bool, Bytes, Float32, Float64, Int64, UInt64
from egoexo_tools.compiled import compiled
from egoexo_tools.errors import DataError
from egoexo_tools.masks.bitmaps import NO_BOX, mask_area, overlap_area, rasterise_runs
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.resizing import dest_edges
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.masks.rle_loops import OK, PROBLEMS, parse_counts
from omama.config import HW
from omama.features.descriptors import quarter_grid
from omama.features.images import candidate_quarter_idx, truth_quarter_idx

Edges: TypeAlias = tuple[Int64, Int64]
"""Per source row (column) border the number of wanted rows (columns) before it."""


@dataclass(frozen=True)
class FrameMasks:
    """What run lengths say about the masks of a frame."""

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
    """Ground truth may have any sizes (the source video's), proposals have one: the frame's.

    Raises DataError for run lengths that are damaged and for proposals of different sizes.
    """
    size = _size_of(proposals, prepared_hw)
    grid = quarter_grid(prepared_hw[0] // patch_size, prepared_hw[1] // patch_size, patch_size)
    quarters = np.zeros((len(truths) + len(proposals), *grid), np.uint8)
    drawn = _draw_truths(truths, size, prepared_hw, patch_size, quarters)
    centroids, ious = _walk(
        proposals,
        size,
        drawn,
        _candidate_edges(size, prepared_hw, patch_size),
        quarters[len(truths) :],
    )
    return FrameMasks(
        quarters=quarters.view(np.bool_),
        truth_boxes=_xywh(drawn.prepared_boxes),
        centroids=centroids * (prepared_hw[1] / size[1], prepared_hw[0] / size[0]),
        ious=ious,
    )


def mask_ious(truths: MaskColumns, proposals: MaskColumns) -> Float32:
    """(M, N) IoU at the proposals' size, as in `FrameMasks`; no picture is needed."""
    size = _size_of(proposals, (1, 1))
    nothing = np.zeros((len(truths) + len(proposals), 1, 1), np.uint8)
    drawn = _draw_truths(truths, size, (4, 4), 1, nothing)  # one cell of the quarter grid
    return _walk(proposals, size, drawn, dest_edges(size, (1, 1)), nothing[len(truths) :])[1]


@dataclass(frozen=True)
class _Drawn:
    """Ground truth as bitmaps at the proposals' size (see egoexo_tools/masks/bitmaps.py)."""

    bitmaps: UInt64
    boxes: Int64
    areas: Int64
    prepared_boxes: Int64
    """At the prepared image's size; x_min, x_max, y_min, y_max."""


def _draw_truths(
    truths: MaskColumns, size: HW, prepared: HW, patch_size: int, quarters: Bytes
) -> _Drawn:
    count = len(truths)
    drawn = _Drawn(
        bitmaps=np.empty((count, size[1], -(-size[0] // 64)), np.uint64),
        boxes=np.empty((count, 4), np.int64),
        areas=np.zeros(count, np.int64),
        prepared_boxes=np.empty((count, 4), np.int64),
    )
    problems = np.zeros(count, np.uint8)
    for (height, width), rows in truths.rows_by_size():  # one size, as a rule
        MaskRle(height, width, "")  # raises for sides that cannot be
        _truth_loop(
            truths.text,
            truths.offsets,
            rows,
            height,
            width,
            _truth_edges((height, width), prepared, patch_size),
            dest_edges((height, width), size),
            dest_edges((height, width), prepared),
            quarters,
            drawn.bitmaps,
            drawn.boxes,
            drawn.areas,
            drawn.prepared_boxes,
            problems,
        )
    _refuse(problems, "ground-truth mask")
    return drawn


def _walk(
    proposals: MaskColumns, size: HW, drawn: _Drawn, quarter_edges: Edges, quarters: Bytes
) -> tuple[Float64, Float32]:
    """Paint the proposals' `quarters`; returns centroids (N, 2) at `size` and IoUs (M, N)."""
    centroids = np.full((len(proposals), 2), np.nan)
    ious = np.zeros((len(drawn.areas), len(proposals)), np.float32)
    problems = np.zeros(len(proposals), np.uint8)
    _proposal_loop(
        proposals.text,
        proposals.offsets,
        *size,
        quarter_edges,
        dest_edges(size, size),
        drawn.bitmaps,
        drawn.boxes,
        drawn.areas,
        quarters,
        centroids,
        ious,
        problems,
    )
    _refuse(problems, "proposal")
    return centroids, ious


def _size_of(proposals: MaskColumns, default: HW) -> HW:
    if not len(proposals):
        return default
    (height, width), *others = [size for size, _ in proposals.rows_by_size()]
    if others:
        raise DataError(
            "the proposals of a frame have masks of different sizes; run `egoexo-tools propose "
            "--overwrite`"
        )
    MaskRle(height, width, "")  # raises for sides that cannot be
    return height, width


def _refuse(problems: Bytes, what: str) -> None:
    bad = np.flatnonzero(problems)
    if bad.size:
        raise DataError(f"{what} {bad[0]} of a frame: {PROBLEMS[problems[bad[0]]]}")


def _xywh(boxes: Int64) -> Float32:
    x_min, x_max, y_min, y_max = boxes.T
    found = np.stack([x_min, y_min, x_max - x_min, y_max - y_min], axis=1)
    return np.where((x_max < 0)[:, None], 0, found).astype(np.float32)


@lru_cache(maxsize=64)
def _truth_edges(mask_hw: HW, prepared: HW, patch_size: int) -> Edges:
    return _edges_of(mask_hw, truth_quarter_idx(mask_hw, prepared, patch_size))


@lru_cache(maxsize=64)
def _candidate_edges(mask_hw: HW, prepared: HW, patch_size: int) -> Edges:
    return _edges_of(mask_hw, candidate_quarter_idx(mask_hw, prepared, patch_size))


def _edges_of(mask_hw: HW, idxs: tuple[Int64, Int64]) -> Edges:
    """Which source row each wanted row takes, ascending → edges; the same for columns."""
    rows, cols = (
        np.searchsorted(idx, np.arange(side + 1)).astype(np.int64)
        for idx, side in zip(idxs, mask_hw, strict=True)
    )
    return rows, cols


@compiled
def _paint(runs: Int64, height: int, rows: Int64, cols: Int64, out: Bytes) -> None:
    """Set the pixels of `out` (zeros before) that the foreground runs reach through edges."""
    column, row = 0, 0
    for run in range(runs.size):
        end_row = row + runs[run]
        end_column = column
        if end_row >= height:
            end_column += end_row // height
            end_row = end_row % height
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
    column, rest = position // height, position % height
    x = height * (column * (column - 1) // 2) + column * rest
    y = column * (height * (height - 1) // 2) + rest * (rest - 1) // 2
    return x, y


@compiled
def _centroid(runs: Int64, height: int, point: Float64) -> int:
    """Mean x, y of the foreground into `point` (left as it is if there is none) → its pixels."""
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
    wanted = prepared_edges[0][height], prepared_edges[1][width]
    scratch = np.empty((wanted[1], (wanted[0] + 63) // 64), np.uint64)
    for i in members:
        counts = text[offsets[i] : offsets[i + 1]]
        space = np.empty(counts.size, np.int64)
        problem, count, _ = parse_counts(counts, height * width, space)
        # Nothing is raised in here: a damaged mask counts as empty until `_refuse` names it.
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
        if truth_areas.size:
            rasterise_runs(runs, height, own_edges[0], own_edges[1], bitmap, box)
        for k in range(truth_areas.size):
            both = overlap_area(truths[k], bitmap, truth_boxes[k], box)
            union = pixels + truth_areas[k] - both
            if union:
                ious[k, i] = both / union
