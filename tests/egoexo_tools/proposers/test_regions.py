"""`regions` finds shapes on a table."""

import cv2
import numpy as np
import pytest
from skimage.measure import label as connected

from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.proposers.regions import RegionOptions, regions


def scene(height: int, width: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Shapes on a shaded table: a plain disk, a striped box, a ring and a pale sheet."""
    rng = np.random.default_rng(0)
    shade = np.linspace(120, 170, width)[None, :, None] * np.ones((height, 1, 3))
    unit = height / 100
    rows, columns = np.mgrid[:height, :width] / unit
    stripes = ((columns // 3) % 2 == 0)[..., None]
    distance = np.hypot(rows - 70, columns - 110)
    masks = {
        "disk": np.hypot(rows - 30, columns - 30) < 14,
        "box": (rows > 20) & (rows < 48) & (columns > 70) & (columns < 110),
        "ring": (distance < 18) & (distance > 0),
        "sheet": (rows > 60) & (rows < 85) & (columns > 20) & (columns < 60),
    }
    rgb = shade.copy()
    rgb[masks["disk"]] = (200, 40, 40)
    rgb = np.where(masks["box"][..., None], np.where(stripes, (30, 60, 160), (40, 90, 210)), rgb)
    rgb[masks["ring"]] = (30, 120, 50)
    rgb[distance < 8] = shade[distance < 8]
    rgb[masks["sheet"]] = (225, 215, 180)
    rgb = cv2.GaussianBlur(rgb + rng.normal(0, 3, rgb.shape), (0, 0), 0.7)
    return rgb.clip(0, 255).astype(np.uint8), masks


@pytest.mark.parametrize(("height", "width"), [(270, 480), (300, 300), (540, 960), (480, 270)])
def test_regions_finds_every_shape(height: int, width: int) -> None:
    rgb, masks = scene(height, width) if width >= height * 0.9 else scene_upright(height, width)
    proposals = regions(rgb)
    best = {
        name: max(MaskRle.encode(mask).iou(rle) for rle, _ in proposals)
        for name, mask in masks.items()
        if mask.sum() > 400
    }
    assert min(best.values()) > 0.85, best


def scene_upright(height: int, width: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The scene turned on its side."""
    rgb, masks = scene(width, height)
    transposed = {name: np.ascontiguousarray(mask.T) for name, mask in masks.items()}
    return np.ascontiguousarray(rgb.transpose(1, 0, 2)), transposed


def test_regions_are_ranked_distinct_connected_and_without_holes() -> None:
    rgb, _ = scene(270, 480)
    proposals = regions(rgb, options=RegionOptions(max_proposals=40, nms_iou=0.8))
    scores = [score for _, score in proposals]
    assert 20 < len(proposals) <= 40
    assert scores == sorted(scores, reverse=True)
    for rle, _ in proposals:
        mask = rle.decode()
        assert (rle.height, rle.width) == (270, 480)
        assert connected(mask, connectivity=2).max() == 1
        holes = connected(~np.pad(mask, 1), connectivity=1)
        assert holes.max() == 1
        assert 0.0001 * mask.size < mask.sum() < 0.45 * mask.size
    # Outlines are smoothed after suppression, so the IoU may be slightly above 0.8.
    pairs = [(i, j) for i in range(len(proposals)) for j in range(i)]
    assert max(proposals[i][0].iou(proposals[j][0]) for i, j in pairs) < 0.9


def test_regions_are_deterministic() -> None:
    rgb, _ = scene(270, 480)
    assert regions(rgb) == regions(rgb)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_of_one_colour_has_no_regions(value: int) -> None:
    assert regions(np.full((120, 160, 3), value, np.uint8)) == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 50, 3), (7, 3, 3)])
def test_tiny_images_give_masks_of_their_size(shape: tuple[int, int, int]) -> None:
    for rle, _ in regions(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)):
        assert (rle.height, rle.width) == shape[:2]
