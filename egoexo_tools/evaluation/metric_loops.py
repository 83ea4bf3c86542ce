"""Compiled loops over many samples: every metric of a pair of masks, and the best candidate.

A loop here knows what a sample is; what a mask is, egoexo_tools/masks/bitmaps.py knows.
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
"""Rows of the floats that `score` fills in."""
PREDICTED, TRUTH = range(2)
"""Rows of its areas and of its problems."""


class Source(NamedTuple):
    """Masks of one size, and how they are drawn at another; a tuple, because numba takes those."""

    text: Bytes
    offsets: Int64
    height: int
    width: int
    rows: Int64
    """`resizing.dest_edges` to the size at which they are drawn."""
    cols: Int64


def source(masks: MaskColumns, size: Size) -> Source:
    """Masks to be drawn at `size`; DataError unless all of them have one size themselves."""
    own = masks.common_size(size)
    return Source(masks.text, masks.offsets, *own, *dest_edges(own, size))


@compiled
def _rasterise(masks: Source, i: int, runs: Int64, bitmap: UInt64, box: Int64) -> int:
    counts = masks.text[masks.offsets[i] : masks.offsets[i + 1]]
    return rasterise(counts, runs, masks.height, masks.width, masks.rows, masks.cols, bitmap, box)


@compiled
def _longest(one: Int64, two: Int64) -> int:
    """Length of the longest of two lists of texts, from their offsets: room for any run list."""
    longest = 1
    for i in range(one.size - 1):
        longest = max(longest, one[i + 1] - one[i])
    for i in range(two.size - 1):
        longest = max(longest, two[i + 1] - two[i])
    return longest


@compiled
def score(
    predicted: Source,
    truth: Source,
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
    # Two of each, in turn, so that a mask and the one before it are both at hand.
    masks = np.empty((2, width, words), np.uint64)
    truths = np.empty((2, width, words), np.uint64)
    boxes, truth_boxes = np.empty((2, 4), np.int64), np.empty((2, 4), np.int64)
    edge_maps, near = np.empty((2, width, words), np.uint64), np.empty((width, words), np.uint64)
    scratch = np.empty((3, words), np.uint64)
    runs = np.empty(_longest(predicted.offsets, truth.offsets), np.int64)
    for i in range(visible.size):
        now, then = i & 1, 1 - (i & 1)
        a, b, a_box, b_box = masks[now], truths[now], boxes[now], truth_boxes[now]
        problems[PREDICTED, i] = _rasterise(predicted, i, runs, a, a_box)
        # Of absent objects too: the confidence may be computed from it.
        areas[PREDICTED, i] = mask_area(a, a_box)
        # A damaged mask is drawn empty: an overlap with it would count as one with nothing.
        follows_well = (
            follows[i] and problems[PREDICTED, i] == OK and problems[PREDICTED, i - 1] == OK
        )
        if follows_well:
            both = overlap_area(a, masks[then], a_box, boxes[then])
            floats[CONSISTENCY, i] = iou_from_areas(
                both, areas[PREDICTED, i], areas[PREDICTED, i - 1]
            )
        if not visible[i]:
            continue
        problems[TRUTH, i] = _rasterise(truth, i, runs, b, b_box)
        areas[TRUTH, i] = mask_area(b, b_box)
        if problems[PREDICTED, i] != OK or problems[TRUTH, i] != OK:
            continue
        both = overlap_area(a, b, a_box, b_box)
        floats[IOU, i] = iou_from_areas(both, areas[PREDICTED, i], areas[TRUTH, i])
        floats[CONTOUR, i] = contour_accuracy(
            a, b, a_box, b_box, height, heights, edge_maps, near, scratch
        )
        floats[LOCATION, i] = location_error(a_box, b_box, height, width, diagonal)
        # What lies in truths[then] is the sample before only if that one was visible too.
        if follows_well and visible[i - 1] and problems[TRUTH, i - 1] == OK:
            both = overlap_area(b, truths[then], b_box, truth_boxes[then])
            floats[TRUTH_CONSISTENCY, i] = iou_from_areas(
                both, areas[TRUTH, i], areas[TRUTH, i - 1]
            )


@compiled
def best_candidates(
    candidates: Source,
    truth: Source,
    size: Size,
    frames: tuple[Int64, Int64],
    ranked: tuple[Int64, Int64],
    out: tuple[Float64, Int64, Float64],
) -> None:
    """The best candidate of a frame for every truth in it.

    `frames`: offsets (n_frames + 1,) of each frame's candidates and of its truths, which both lie
    frame by frame. `ranked`: the candidates' own numbers (n_candidates,), and the numbers that a
    run ranked first for each truth (n_truths, k), -1 where there are fewer. `out`, one entry a
    truth: best IoU and its candidate's number (left as they are without candidates), and the best
    IoU among the ranked (left as it is where none is found).
    """
    height, width = size
    first_candidate, first_truth = frames
    numbers, ranks = ranked
    best, best_number, best_ranked = out
    words = (height + 63) >> 6
    most = 0  # truths in a frame: they stay drawn while its candidates pass, each drawn once
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
        # Candidates outside, truths inside: of 300 candidates (FastSAM's most) one is in memory.
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
                if not value <= best[i]:  # also where best is still NaN
                    best[i], best_number[i] = value, numbers[c]
                for place in range(ranks.shape[1]):
                    if ranks[i, place] == numbers[c] and not value <= best_ranked[i]:
                        best_ranked[i] = value
