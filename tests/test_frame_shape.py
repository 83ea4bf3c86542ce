"""Centroids, overlaps and neighbours from run lengths, against masks in full."""

import numpy as np
import pytest
from numpy.typing import NDArray
from reference import mask_iou, plain_adjacency

from egoexo_tools.masks import MaskRle
from omama.frame_shape import centroids, frame_shape, mask_ious


def blobs(count: int, height: int, width: int, seed: int = 0) -> NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, height, width), np.bool_)
    for mask in masks:
        y, x = rng.integers(0, height - 4), rng.integers(0, width - 4)
        mask[y : y + rng.integers(2, 20), x : x + rng.integers(2, 20)] = True
        mask &= rng.random(mask.shape) > 0.2
    return masks


def test_centroids_are_the_mean_pixel() -> None:
    masks = blobs(9, 40, 60)
    masks[4] = False
    points = centroids([MaskRle.encode(mask) for mask in masks], (20, 120))
    for mask, point in zip(masks, points, strict=True):
        if not mask.any():
            assert np.isnan(point).all()
            continue
        rows, columns = np.nonzero(mask)
        assert point == pytest.approx([columns.mean() * 2, rows.mean() / 2])


def test_ious_are_those_of_the_masks_at_the_proposals_size() -> None:
    proposals, truths = blobs(6, 40, 60), blobs(3, 80, 120, seed=1)
    ious = mask_ious([MaskRle.encode(m) for m in truths], [MaskRle.encode(m) for m in proposals])
    plain = [[mask_iou(p, t[::2, ::2]) for p in proposals] for t in truths]
    assert ious == pytest.approx(np.array(plain))


def test_near_are_second_order_neighbours_of_the_best_box() -> None:
    proposals = blobs(12, 140, 140)
    boxes = np.array([MaskRle.encode(mask).box_xywh() for mask in proposals], np.float32)
    rles = [MaskRle.encode(mask) for mask in proposals]
    shape = frame_shape(rles[3:5], boxes[3:5], rles, boxes, (140, 140))
    assert shape.best.tolist() == [3, 4]
    points = [tuple(point) for point in centroids(rles, (140, 140))]
    plain = plain_adjacency(points, 2)
    np.fill_diagonal(plain, False)
    assert np.array_equal(shape.near, plain[[3, 4]])


@pytest.mark.parametrize(("masks", "proposals"), [(0, 5), (2, 0), (0, 0)])
def test_a_frame_may_lack_masks_or_proposals(masks: int, proposals: int) -> None:
    both = [MaskRle.encode(mask) for mask in blobs(7, 28, 28)]
    boxes = np.array([rle.box_xywh() for rle in both], np.float32)
    shape = frame_shape(both[:masks], boxes[:masks], both[:proposals], boxes[:proposals], (28, 28))
    assert shape.near.shape == shape.ious.shape == (masks, proposals)
    assert shape.best.shape == (masks,)
