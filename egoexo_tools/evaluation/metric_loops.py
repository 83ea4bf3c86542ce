"""Compiled loops over batches of samples: every metric of a pair of masks, and the best candidate.

A loop here knows what a sample is; what a mask is, egoexo_tools/masks/bitmaps.py knows.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from egoexo_tools.compiled import compiled
from egoexo_tools.masks.bitmaps import (
    Bytes,
    Float,
    Int,
    area,
    contour,
    iou_of,
    location,
    overlap,
    rasterise,
)
from egoexo_tools.masks.rle_loops import OK

Source: TypeAlias = tuple[Bytes, Int, int, int, Int, Int]
"""Texts, offsets, height, width, row edges, column edges of a batch of masks of one size."""


@compiled
def score(
    predicted: Source,
    truth: Source,
    target: tuple[int, int, Int, float],
    flags: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    out: tuple[Float, Int, Bytes],
) -> None:
    """Score a batch; the arguments and results are those of `metrics.score_masks`.

    `target`: height, width, disk heights, diagonal. `flags`: visible, follows (n,). `out`:
    floats (5, n), areas (2, n), problems (2, n), all filled in.
    """
    text, offsets, source_height, source_width, rows, cols = predicted
    truth_text, truth_offsets, truth_height, truth_width, truth_rows, truth_cols = truth
    height, width, heights, diagonal = target
    visible, follows = flags
    floats, areas, problems = out
    words = (height + 63) >> 6
    # Two of each, so that a mask and the one before it are both at hand.
    masks = np.empty((2, width, words), np.uint64)
    truths = np.empty((2, width, words), np.uint64)
    boxes, truth_boxes = np.empty((2, 4), np.int64), np.empty((2, 4), np.int64)
    edges, near = np.empty((2, width, words), np.uint64), np.empty((width, words), np.uint64)
    scratch = np.empty((3, words), np.uint64)
    runs = np.empty(_longest(offsets, truth_offsets), np.int64)
    for i in range(visible.size):
        now, then = i & 1, 1 - (i & 1)
        a, b, a_box, b_box = masks[now], truths[now], boxes[now], truth_boxes[now]
        counts = text[offsets[i] : offsets[i + 1]]
        problems[0, i] = rasterise(counts, runs, source_height, source_width, rows, cols, a, a_box)
        areas[0, i] = area(a, a_box)
        follows_well = follows[i] and problems[0, i] == OK and problems[0, i - 1] == OK
        if follows_well:
            both = overlap(a, masks[then], a_box, boxes[then])
            floats[3, i] = iou_of(both, areas[0, i], areas[0, i - 1])
        if not visible[i]:
            continue
        counts = truth_text[truth_offsets[i] : truth_offsets[i + 1]]
        problems[1, i] = rasterise(
            counts, runs, truth_height, truth_width, truth_rows, truth_cols, b, b_box
        )
        areas[1, i] = area(b, b_box)
        if problems[0, i] != OK or problems[1, i] != OK:
            continue
        floats[0, i] = iou_of(overlap(a, b, a_box, b_box), areas[0, i], areas[1, i])
        floats[1, i] = contour(a, b, a_box, b_box, height, heights, edges, near, scratch)
        floats[2, i] = location(a_box, b_box, height, width, diagonal)
        if follows_well and visible[i - 1] and problems[1, i - 1] == OK:
            both = overlap(b, truths[then], b_box, truth_boxes[then])
            floats[4, i] = iou_of(both, areas[1, i], areas[1, i - 1])


@compiled
def _longest(offsets: Int, truth_offsets: Int) -> int:
    longest = 1
    for i in range(offsets.size - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    for i in range(truth_offsets.size - 1):
        longest = max(longest, truth_offsets[i + 1] - truth_offsets[i])
    return longest


@compiled
def best_candidates(
    candidates: Source,
    truth: Source,
    size: tuple[int, int],
    frames: tuple[Int, Int],
    ranked: tuple[Int, Int],
    out: tuple[Float, Int, Float],
) -> None:
    """The best candidate of a frame for every truth in it.

    `frames`: offsets (n_frames + 1,) of each frame's candidates and of its truths, which both lie
    frame by frame. `ranked`: the candidates' own numbers (n_candidates,), and the numbers that a
    run ranked first for each truth (n_truths, k), -1 where there are fewer. `out`, one entry a
    truth: best IoU and its candidate's number (left as they are without candidates), and the best
    IoU among the ranked (left as it is where none is found).
    """
    text, offsets, source_height, source_width, rows, cols = candidates
    truth_text, truth_offsets, truth_height, truth_width, truth_rows, truth_cols = truth
    height, width = size
    first_candidate, first_truth = frames
    numbers, ranks = ranked
    best, best_number, best_ranked = out
    words = (height + 63) >> 6
    most = 0
    for f in range(first_truth.size - 1):
        most = max(most, first_truth[f + 1] - first_truth[f])
    truths, boxes = np.empty((most, width, words), np.uint64), np.empty((most, 4), np.int64)
    areas, problems = np.empty(most, np.int64), np.empty(most, np.int64)
    mask, box = np.empty((width, words), np.uint64), np.empty(4, np.int64)
    runs = np.empty(_longest(offsets, truth_offsets), np.int64)
    for f in range(first_truth.size - 1):
        start, count = first_truth[f], first_truth[f + 1] - first_truth[f]
        for k in range(count):
            counts = truth_text[truth_offsets[start + k] : truth_offsets[start + k + 1]]
            problems[k] = rasterise(
                counts, runs, truth_height, truth_width, truth_rows, truth_cols, truths[k], boxes[k]
            )
            areas[k] = area(truths[k], boxes[k])
        for c in range(first_candidate[f], first_candidate[f + 1]):
            counts = text[offsets[c] : offsets[c + 1]]
            if rasterise(counts, runs, source_height, source_width, rows, cols, mask, box) != OK:
                continue
            pixels = area(mask, box)
            for k in range(count):
                if problems[k] != OK:
                    continue
                both = overlap(mask, truths[k], box, boxes[k])
                value = iou_of(both, pixels, areas[k])
                i = start + k
                if not value <= best[i]:  # also where best is still NaN
                    best[i], best_number[i] = value, numbers[c]
                for place in range(ranks.shape[1]):
                    if ranks[i, place] == numbers[c] and not value <= best_ranked[i]:
                        best_ranked[i] = value
