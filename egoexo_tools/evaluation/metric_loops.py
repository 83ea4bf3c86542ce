"""Compiled loops over many samples: every metric of a pair of masks, and the best candidate.

The loops handle samples; egoexo_tools/masks/bitmaps.py handles single masks.
"""

from typing import NamedTuple

import numpy as np

from egoexo_tools.arrays import Bool, Bytes, Float64, Int64, UInt64
from egoexo_tools.compiled import compiled
from egoexo_tools.masks.bitmaps import (
    contour_accuracy,
    iou_from_areas,
    location_error,
    mask_area,
    overlap_area,
    rasterise,
)
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.resizing import Size, dest_edges
from egoexo_tools.masks.rle_loops import OK

IOU, CONTOUR, LOCATION, CONSISTENCY, TRUTH_CONSISTENCY = range(5)
"""Rows of `floats` in `score`."""
PREDICTED, TRUTH = range(2)
"""Rows of `areas` and `problems` in `score`."""


class ResizedMasks(NamedTuple):
    """Masks of one size, and the tables to draw them at another. Numba accepts named tuples."""

    text: Bytes
    offsets: Int64
    height: int
    width: int
    rows: Int64
    """`resizing.dest_edges` for the size at which they are drawn."""
    cols: Int64


def resized_masks(masks: MaskColumns, size: Size, *, exact: bool = False) -> ResizedMasks:
    """Masks to be drawn at `size`; DataError unless all of them have the same size.

    `exact`: nearest neighbours as in torch instead of OpenCV.
    """
    mask_size = masks.common_size(size)
    edges = dest_edges(mask_size, size, exact=exact)
    return ResizedMasks(masks.text, masks.offsets, *mask_size, *edges)


@compiled
def _rasterise(masks: ResizedMasks, i: int, runs: Int64, bitmap: UInt64, box: Int64) -> int:
    counts = masks.text[masks.offsets[i] : masks.offsets[i + 1]]
    return rasterise(counts, runs, masks.height, masks.width, masks.rows, masks.cols, bitmap, box)


@compiled
def _longest(offsets: Int64, more_offsets: Int64) -> int:
    """Length of the longest text, from the offsets of two lists: enough for any list of runs."""
    longest = 1
    for i in range(offsets.size - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    for i in range(more_offsets.size - 1):
        longest = max(longest, more_offsets[i + 1] - more_offsets[i])
    return longest


@compiled
def score(
    predicted: ResizedMasks,
    truth: ResizedMasks,
    target: tuple[int, int, Int64, float],
    flags: tuple[Bool, Bool],
    out: tuple[Float64, Int64, Bytes],
) -> None:
    """Score n samples; the arguments and results are those of `metrics.score_masks`.

    `target`: height, width, disk heights, diagonal. `flags`: visible, follows (n,). `out`:
    floats (5, n), areas (2, n), problems (2, n), all filled in.
    """
    height, width, heights, diagonal = target
    visible, follows = flags
    floats, areas, problems = out
    words = (height + 63) >> 6
    # Two buffers, used in turn: consistency needs a mask and the preceding one.
    masks = np.empty((2, width, words), np.uint64)
    truths = np.empty((2, width, words), np.uint64)
    boxes, truth_boxes = np.empty((2, 4), np.int64), np.empty((2, 4), np.int64)
    edge_maps, near = np.empty((2, width, words), np.uint64), np.empty((width, words), np.uint64)
    scratch = np.empty((3, words), np.uint64)
    runs = np.empty(_longest(predicted.offsets, truth.offsets), np.int64)
    for i in range(visible.size):
        current, previous = i & 1, 1 - (i & 1)
        a, b = masks[current], truths[current]
        a_box, b_box = boxes[current], truth_boxes[current]
        problems[PREDICTED, i] = _rasterise(predicted, i, runs, a, a_box)
        # For absent objects too: the confidence may be computed from it.
        areas[PREDICTED, i] = mask_area(a, a_box)
        # A damaged mask is drawn empty, so an overlap with it has no meaning.
        follows_well = (
            follows[i] and problems[PREDICTED, i] == OK and problems[PREDICTED, i - 1] == OK
        )
        if follows_well:
            shared = overlap_area(a, masks[previous], a_box, boxes[previous])
            floats[CONSISTENCY, i] = iou_from_areas(
                shared, areas[PREDICTED, i], areas[PREDICTED, i - 1]
            )
        if not visible[i]:
            continue
        problems[TRUTH, i] = _rasterise(truth, i, runs, b, b_box)
        areas[TRUTH, i] = mask_area(b, b_box)
        if problems[PREDICTED, i] != OK or problems[TRUTH, i] != OK:
            continue
        shared = overlap_area(a, b, a_box, b_box)
        floats[IOU, i] = iou_from_areas(shared, areas[PREDICTED, i], areas[TRUTH, i])
        floats[CONTOUR, i] = contour_accuracy(
            a, b, a_box, b_box, height, heights, edge_maps, near, scratch
        )
        floats[LOCATION, i] = location_error(a_box, b_box, height, width, diagonal)
        # truths[previous] contains the preceding sample only if that one is visible.
        if follows_well and visible[i - 1] and problems[TRUTH, i - 1] == OK:
            shared = overlap_area(b, truths[previous], b_box, truth_boxes[previous])
            floats[TRUTH_CONSISTENCY, i] = iou_from_areas(
                shared, areas[TRUTH, i], areas[TRUTH, i - 1]
            )


@compiled
def overlaps(
    predicted: ResizedMasks, truth: ResizedMasks, size: Size, areas: Int64, problems: Bytes
) -> None:
    """Areas of n pairs of masks at `size`, without the other metrics.

    Fills in `areas` (3, n), of intersection, prediction and truth, and `problems` (2, n).
    """
    height, width = size
    words = (height + 63) >> 6
    masks, boxes = np.empty((2, width, words), np.uint64), np.empty((2, 4), np.int64)
    runs = np.empty(_longest(predicted.offsets, truth.offsets), np.int64)
    for i in range(areas.shape[1]):
        problems[PREDICTED, i] = _rasterise(predicted, i, runs, masks[0], boxes[0])
        problems[TRUTH, i] = _rasterise(truth, i, runs, masks[1], boxes[1])
        areas[0, i] = overlap_area(masks[0], masks[1], boxes[0], boxes[1])
        areas[1, i] = mask_area(masks[0], boxes[0])
        areas[2, i] = mask_area(masks[1], boxes[1])


@compiled
def best_candidates(
    candidates: ResizedMasks,
    truth: ResizedMasks,
    size: Size,
    frames: tuple[Int64, Int64],
    ranked: tuple[Int64, Int64],
    out: tuple[Float64, Int64, Float64],
) -> None:
    """The best candidate of a frame for every truth in it.

    `frames`: offsets (n_frames + 1,) of each frame's candidates and of its truths, which are both
    sorted by frame. `ranked`: the numbers of the candidates (n_candidates,), and the numbers that a
    run ranked first for each truth (n_truths, k), filled up with -1. `out`, one entry per truth:
    the best IoU, the number of its candidate, and the best IoU among the ranked; an entry changes
    only if a better candidate is found.
    """
    height, width = size
    first_candidate, first_truth = frames
    numbers, ranks = ranked
    best, best_number, best_ranked = out
    words = (height + 63) >> 6
    # All truths of a frame stay in memory, so that each of its candidates is drawn only once.
    most = 0
    for f in range(first_truth.size - 1):
        most = max(most, first_truth[f + 1] - first_truth[f])
    truths, boxes = np.empty((most, width, words), np.uint64), np.empty((most, 4), np.int64)
    areas, problems = np.empty(most, np.int64), np.empty(most, np.int64)
    mask, box = np.empty((width, words), np.uint64), np.empty(4, np.int64)
    runs = np.empty(_longest(candidates.offsets, truth.offsets), np.int64)
    for f in range(first_truth.size - 1):
        start, count = first_truth[f], first_truth[f + 1] - first_truth[f]
        for k in range(count):
            problems[k] = _rasterise(truth, start + k, runs, truths[k], boxes[k])
            areas[k] = mask_area(truths[k], boxes[k])
        # Candidates in the outer loop: there may be 300 (FastSAM's limit), and one at a time is in
        # memory.
        for c in range(first_candidate[f], first_candidate[f + 1]):
            if _rasterise(candidates, c, runs, mask, box) != OK:
                continue
            pixels = mask_area(mask, box)
            for k in range(count):
                if problems[k] != OK:
                    continue
                value = iou_from_areas(
                    overlap_area(mask, truths[k], box, boxes[k]), pixels, areas[k]
                )
                i = start + k
                if not value <= best[i]:  # true while best is NaN
                    best[i], best_number[i] = value, numbers[c]
                for place in range(ranks.shape[1]):
                    if ranks[i, place] == numbers[c] and not value <= best_ranked[i]:
                        best_ranked[i] = value
