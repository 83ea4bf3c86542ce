"""Relations between the masks of a frame."""

import numpy as np
import pytest
from reference import mask_box_xywh, plain_adjacency

from egoexo_tools.arrays import Bool
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle import MaskRle
from omama.features.frame_masks import FrameMasks, read_masks
from omama.features.mask_relations import MaskRelations, relate_masks


def blobs(count: int, height: int, width: int, seed: int = 0) -> Bool:
    """Noisy boxes, some over an edge; the fifth is empty, the sixth full."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, height, width), np.bool_)
    for mask in masks:
        y, x = rng.integers(0, height - 4), rng.integers(0, width - 4)
        mask[y : y + rng.integers(2, height // 2), x : x + rng.integers(2, width // 2)] = True
        mask &= rng.random(mask.shape) > 0.1
    if count > 5:
        masks[4], masks[5] = False, True
    return masks


def batch(masks: Bool) -> MaskColumns:
    return MaskColumns.from_rles([MaskRle.encode(mask) for mask in masks])


def read(truths: Bool, proposals: Bool, prepared_hw: tuple[int, int]) -> FrameMasks:
    return read_masks(batch(truths), batch(proposals), prepared_hw=prepared_hw, patch_size=14)


def relations_of(truths: Bool, proposals: Bool) -> MaskRelations:
    hw = (140, 140)
    boxes = np.array([mask_box_xywh(mask) for mask in proposals], np.float32).reshape(-1, 4)
    masks = read(truths, proposals, hw)
    return relate_masks(masks.truth_boxes, boxes, masks.centroids, masks.ious)


def test_near_are_second_order_neighbours_of_the_best_box() -> None:
    proposals = blobs(5, 140, 140)[:4].repeat(1, axis=0)
    proposals = np.concatenate([proposals, blobs(5, 140, 140, seed=7)[:4]])
    relations = relations_of(proposals[2:4], proposals)
    assert relations.best.tolist() == [2, 3]
    points = [tuple(point) for point in read(proposals[:0], proposals, (140, 140)).centroids]
    plain = plain_adjacency(points, 2)
    np.fill_diagonal(plain, False)
    assert np.array_equal(relations.near, plain[[2, 3]])


@pytest.mark.parametrize(("masks", "proposals"), [(0, 5), (2, 0), (0, 0)])
def test_a_frame_may_lack_masks_or_proposals(masks: int, proposals: int) -> None:
    shapes = blobs(7, 140, 140)
    relations = relations_of(shapes[:masks], shapes[:proposals])
    assert relations.near.shape == relations.ious.shape == (masks, proposals)
    assert relations.best.shape == (masks,)
