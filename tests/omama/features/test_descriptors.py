"""Pooling on the token grid against the goldens and the plain loop on upsampled features."""

from pathlib import Path

import numpy as np
import pytest
import reference
import torch

from egoexo_tools.masks.resizing import nearest_idxs
from egoexo_tools.masks.rle import MaskRle
from omama.features.descriptors import (
    context_boxes,
    context_weights,
    describe,
    mask_weights,
    pool,
    quarter_grid,
)
from omama.features.images import PreparationConfig, candidate_idx, quarter_idx

RNG = np.random.default_rng(3)


def blobs(count: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(count, height, width) bool: ellipses of many sizes, some cut by the border."""
    y, x = np.mgrid[:height, :width]
    centres = rng.uniform((0, 0), (height, width), (count, 2))
    radii = rng.uniform(3, height / 3, (count, 2))
    return np.stack(
        [
            ((y - c[0]) / r[0]) ** 2 + ((x - c[1]) / r[1]) ** 2 <= 1
            for c, r in zip(centres, radii, strict=True)
        ]
    )


def quarter_masks(masks: torch.Tensor, h: int, w: int, patch_size: int) -> torch.Tensor:
    """Masks at the prepared image's size (N, H, W) → on the quarter grid (N, q, r), nearest."""
    size = quarter_grid(h, w, patch_size)
    small = torch.nn.functional.interpolate(masks[:, None].float(), size, mode="nearest")
    return small[:, 0].bool()


@pytest.mark.parametrize("view", ["exo", "ego"])
def test_descriptors_equal_the_golden_ones(goldens: Path, view: str) -> None:
    golden = np.load(goldens / f"descriptors_{view}.npz")
    _, height, width = golden["masks_shape"].tolist()
    masks = torch.from_numpy(np.unpackbits(golden["masks"], axis=-1, count=width)).bool()
    boxes = torch.from_numpy(golden["boxes_xywh"])
    tokens = torch.from_numpy(golden["tokens"])[0]
    h, w = tokens.shape[1:]
    np.testing.assert_array_equal(context_boxes(boxes, (height, width)), golden["context_boxes"])
    descriptors = describe(tokens, quarter_masks(masks, h, w, 14), boxes, patch_size=14)
    expected = np.concatenate([golden["mask_descriptors"], golden["context_descriptors"]], axis=1)
    np.testing.assert_allclose(descriptors, expected, atol=1e-5, rtol=0)
    assert not descriptors[3, :16].any(), "an empty mask gives zeros"


@pytest.mark.parametrize(
    ("patch_size", "h", "w"), [(14, 38, 68), (14, 19, 34), (14, 68, 38), (16, 33, 60), (32, 16, 30)]
)
def test_pooling_equals_the_plain_loop_for_every_patch(patch_size: int, h: int, w: int) -> None:
    height, width = h * patch_size, w * patch_size
    masks = np.concatenate([blobs(8, height, width, RNG), np.zeros((1, height, width), bool)])
    boxes = np.array([reference.mask_box_xywh(mask) for mask in masks], np.float32)
    tokens = torch.from_numpy(RNG.standard_normal((6, h, w), dtype=np.float32))
    quarter = quarter_masks(torch.from_numpy(masks), h, w, patch_size)
    plain_boxes = [reference.plain_context_box(box, height, width) for box in boxes.tolist()]
    np.testing.assert_array_equal(
        context_boxes(torch.from_numpy(boxes), (height, width)), plain_boxes
    )
    expected = reference.plain_descriptors(
        tokens, torch.from_numpy(masks), np.array(plain_boxes), patch_size
    )
    actual = describe(tokens, quarter, torch.from_numpy(boxes), patch_size=patch_size)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_boxes_grow_as_in_integer_arithmetic() -> None:
    boxes = RNG.uniform(-50, 1100, (500, 4)).astype(np.float32)
    for height, width in [(532, 952), (700, 700), (266, 476), (14, 14)]:
        expected = [reference.plain_context_box(box, height, width) for box in boxes.tolist()]
        actual = context_boxes(torch.from_numpy(boxes), (height, width))
        np.testing.assert_array_equal(actual, expected)


def test_run_lengths_sampled_on_the_quarter_grid_equal_resized_masks() -> None:
    """The short cut that never makes a full-size array: same bits as the two resizes in turn."""
    import cv2

    config = PreparationConfig()
    mask = blobs(1, 540, 960, RNG)[0]
    prepared = (532, 952)
    h, w = prepared[0] // config.patch_size, prepared[1] // config.patch_size
    candidate = torch.nn.functional.interpolate(
        torch.from_numpy(mask)[None, None].float(), size=prepared, mode="nearest"
    )[0].bool()
    truth = cv2.resize(mask.astype(np.uint8), prepared[::-1], interpolation=cv2.INTER_NEAREST) > 0
    rle = MaskRle.encode(mask)
    for resized, idx in [
        (candidate, quarter_idx(mask.shape, prepared, config.patch_size, candidate_idx)),
        (
            torch.from_numpy(truth)[None],
            quarter_idx(mask.shape, prepared, config.patch_size, nearest_idxs),
        ),
    ]:
        expected = quarter_masks(resized, h, w, config.patch_size)[0]
        np.testing.assert_array_equal(rle.sample(*idx), expected)


def test_weights_sum_to_one_and_commute_with_a_projection() -> None:
    h, w = 19, 34
    grid = quarter_grid(h, w, 14)
    weights = mask_weights(torch.from_numpy(blobs(4, *grid, RNG)), h, w)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4))
    boxes = context_boxes(torch.tensor([[5.0, 5, 40, 40], [300, 200, 90, 60]]), (266, 476))
    torch.testing.assert_close(context_weights(boxes, grid, h, w).sum(dim=1), torch.ones(2))
    tokens = torch.randn(8, h, w)
    projection = torch.randn(3, 8)
    projected = torch.einsum("dc,chw->dhw", projection, tokens)
    torch.testing.assert_close(
        pool(weights, projected), pool(weights, tokens) @ projection.T, atol=1e-4, rtol=1e-4
    )


def test_pooling_a_batch_equals_pooling_each_image() -> None:
    weights, tokens = torch.rand(2, 5, 12), torch.rand(2, 7, 3, 4)
    together = pool(weights, tokens)
    for i in range(2):
        torch.testing.assert_close(together[i], pool(weights[i], tokens[i]))
