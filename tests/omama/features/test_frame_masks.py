"""Measurements of a frame's masks from run lengths, against full masks."""

import cv2
import numpy as np
import pytest
from reference import mask_box_xywh, plain_frame_masks

from egoexo_tools.arrays import Bool
from egoexo_tools.errors import DataError
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle import MaskRle
from omama.features.frame_masks import FrameMasks, mask_ious, read_masks


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


@pytest.mark.parametrize(
    ("truth_hw", "frame_hw", "prepared_hw"),
    [
        ((540, 960), (135, 240), (126, 238)),  # annotated at the source video's size
        ((135, 240), (135, 240), (126, 238)),
        ((448, 448), (448, 448), (448, 448)),
        ((240, 135), (240, 135), (126, 238)),  # portrait, squashed as the reference trains
        ((57, 91), (130, 70), (126, 70)),
        ((15, 15), (15, 15), (14, 14)),
    ],
)
def test_measurements_equal_those_of_full_masks(
    truth_hw: tuple[int, int], frame_hw: tuple[int, int], prepared_hw: tuple[int, int]
) -> None:
    truths, proposals = blobs(7, *truth_hw, seed=1), blobs(9, *frame_hw, seed=2)
    actual = read(truths, proposals, prepared_hw)
    quarters, boxes, centroids, ious = plain_frame_masks(truths, proposals, prepared_hw, 14)
    np.testing.assert_array_equal(actual.quarters, quarters)
    np.testing.assert_array_equal(actual.truth_boxes, boxes)
    np.testing.assert_allclose(actual.centroids, centroids, rtol=1e-12)
    np.testing.assert_array_equal(actual.ious, ious.astype(np.float32))
    np.testing.assert_array_equal(mask_ious(batch(truths), batch(proposals)), actual.ious)


def test_ground_truth_may_have_several_sizes() -> None:
    small, large = blobs(2, 60, 90, seed=3), blobs(2, 120, 180, seed=4)
    proposals = blobs(5, 60, 90)
    rles = [MaskRle.encode(mask) for mask in (small[0], large[0], small[1], large[1])]
    actual = read_masks(
        MaskColumns.from_rles(rles), batch(proposals), prepared_hw=(56, 84), patch_size=14
    )
    for row, mask in enumerate([small[0], large[0], small[1], large[1]]):
        alone = read(mask[None], proposals, (56, 84))
        np.testing.assert_array_equal(actual.ious[row], alone.ious[0])
        np.testing.assert_array_equal(actual.quarters[row], alone.quarters[0])
        np.testing.assert_array_equal(actual.truth_boxes[row], alone.truth_boxes[0])


def test_a_ground_truth_box_is_that_of_the_resized_mask() -> None:
    truth = np.zeros((540, 960), np.uint8)
    truth[100:201, 300:422] = 1
    actual = read(truth[None] > 0, blobs(1, 540, 960), (532, 952))
    resized = cv2.resize(truth, (952, 532), interpolation=cv2.INTER_NEAREST)
    assert tuple(actual.truth_boxes[0]) == mask_box_xywh(resized)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        (MaskRle(28, 28, "!"), "proposal 1 of a frame: the counts are not COCO"),
        (MaskRle(28, 28, "11"), "proposal 1 of a frame: the runs do not add up"),
        (MaskRle(28, 27, "T1"), "the proposals of a frame have masks of different sizes"),
    ],
)
def test_damaged_run_lengths_are_rejected(rle: MaskRle, message: str) -> None:
    good = MaskRle.encode(blobs(1, 28, 28)[0])
    empty = MaskColumns.from_rles([])
    with pytest.raises(DataError, match=message):
        read_masks(empty, MaskColumns.from_rles([good, rle]), prepared_hw=(28, 28), patch_size=14)


def test_damaged_ground_truth_is_rejected() -> None:
    truths = MaskColumns.from_rles([MaskRle(28, 28, "11")])
    with pytest.raises(DataError, match="ground-truth mask 0 of a frame: the runs do not add up"):
        read_masks(truths, batch(blobs(1, 28, 28)), prepared_hw=(28, 28), patch_size=14)
