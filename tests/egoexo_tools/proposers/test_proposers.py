"""Proposers: what `regions` finds, its parts against plain twins, and the oracle."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.measure import label as connected

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.proposers import PROPOSERS, Frame, ProposerOptions, grouping, proposer_entry
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
    found = regions(rgb)
    best = {
        name: max(MaskRle.encode(mask).iou(rle) for rle, _ in found)
        for name, mask in masks.items()
        if mask.sum() > 400
    }
    assert min(best.values()) > 0.85, best


def scene_upright(height: int, width: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The scene turned on its side."""
    rgb, masks = scene(width, height)
    turned = {name: np.ascontiguousarray(mask.T) for name, mask in masks.items()}
    return np.ascontiguousarray(rgb.transpose(1, 0, 2)), turned


def test_regions_are_ranked_distinct_and_whole() -> None:
    rgb, _ = scene(270, 480)
    found = regions(rgb, options=RegionOptions(max_proposals=40, nms_iou=0.8))
    scores = [score for _, score in found]
    assert 20 < len(found) <= 40
    assert scores == sorted(scores, reverse=True)
    for rle, _ in found:
        mask = rle.decode()
        assert (rle.height, rle.width) == (270, 480)
        assert connected(mask, connectivity=2).max() == 1
        holes = connected(~np.pad(mask, 1), connectivity=1)
        assert holes.max() == 1
        assert 0.0001 * mask.size < mask.sum() < 0.45 * mask.size
    # The outline is smoothed after suppression, so a little more than 0.8 can come out.
    pairs = [(i, j) for i in range(len(found)) for j in range(i)]
    assert max(found[i][0].iou(found[j][0]) for i, j in pairs) < 0.9


def test_regions_are_the_same_twice() -> None:
    rgb, _ = scene(270, 480)
    assert regions(rgb) == regions(rgb)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_picture_of_one_colour_has_no_regions(value: int) -> None:
    assert regions(np.full((120, 160, 3), value, np.uint8)) == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 50, 3), (7, 3, 3)])
def test_tiny_pictures_do_no_harm(shape: tuple[int, int, int]) -> None:
    for rle, _ in regions(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)):
        assert (rle.height, rle.width) == shape[:2]


LABELS = np.array(
    [
        [0, 0, 0, 0, 4],
        [0, 1, 1, 0, 4],
        [0, 1, 2, 0, 4],
        [0, 0, 0, 0, 3],
    ],
    np.int32,
)


def pixels() -> grouping.Superpixels:
    edges = np.arange(LABELS.size, dtype=np.float32).reshape(LABELS.shape)
    return grouping.describe(LABELS, edges)


def test_describe_by_hand() -> None:
    found = pixels()
    assert found.sizes.tolist() == [12, 3, 1, 1, 3]
    assert found.boxes[1].tolist() == [1, 1, 2, 2]
    assert found.at_edge.tolist() == [True, False, False, True, True]
    borders = dict(zip(map(tuple, found.borders.tolist()), found.border_length, strict=True))
    assert borders == {(0, 1): 6, (0, 2): 2, (0, 3): 1, (0, 4): 3, (1, 2): 2, (3, 4): 1}
    strength = dict(zip(map(tuple, found.borders.tolist()), found.border_strength, strict=True))
    assert strength[(1, 2)] == 12 + 12
    assert strength[(0, 4)] == 4 + 9 + 14


def test_enclosed_superpixels_are_filled_in() -> None:
    members = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 1]], bool)
    filled = grouping.without_holes(pixels(), members)
    assert filled.astype(int).tolist() == [[1, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 1]]


def test_outlines_and_boxes_by_hand() -> None:
    members = np.array([[0, 1, 1, 0, 0], [0, 0, 0, 0, 1]], bool)
    measured = grouping.outlines(pixels(), members)
    assert measured.length.tolist() == [8, 4]
    assert measured.inside[1] == (9 + 14) / 2
    assert measured.strength[1] == (4 + 9 + 14 + 19) / 4
    assert grouping.box_areas(pixels(), members).tolist() == [4, 3]


def test_grouping_joins_the_most_alike_first() -> None:
    features = np.eye(5, dtype=np.float32)
    features[2] = features[1]
    tree = grouping.group(pixels(), features, size_weight=0.0, fill_weight=0.0)
    assert tree.shape == (9, 5)
    assert tree[5].tolist() == [False, True, True, False, False]
    assert tree[-1].all()
    assert (tree[5:].sum(axis=1) >= 2).all()


def test_suppression_keeps_the_better_of_two() -> None:
    overlaps = np.array([[1, 0.85, 0.1], [0.85, 1, 0.1], [0.1, 0.1, 1]], np.float32)
    assert grouping.suppress(overlaps, threshold=0.8, limit=5).tolist() == [0, 2]
    assert grouping.suppress(overlaps, threshold=0.9, limit=5).tolist() == [0, 1, 2]
    assert grouping.suppress(overlaps, threshold=0.9, limit=2).tolist() == [0, 1]


def test_the_oracle_proposes_the_truth_and_nothing_empty() -> None:
    seen, empty = np.zeros((8, 6), bool), np.zeros((8, 6), bool)
    seen[2:5, 1:3] = True
    truth = (MaskRle.encode(seen), MaskRle.encode(empty))
    propose = proposer_entry("oracle").load(ProposerOptions())
    (found,) = propose([Frame(Path("unused.jpg"), 4, 3, truth)])
    assert [proposal.rle for proposal in found.proposals] == [truth[0]]


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("regions", ProposerOptions(weights=Path("x.pt")), "has no weights"),
        ("oracle", ProposerOptions(weights=Path("x.pt")), "has no weights"),
        ("oracle", ProposerOptions(max_det=3), "leave out --max-det"),
    ],
)
def test_options_without_a_use_are_refused(
    name: str, options: ProposerOptions, sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        PROPOSERS[name].settings(options)


def test_an_unknown_proposer_is_refused() -> None:
    names = "fastsam, sam2, regions, oracle"
    with pytest.raises(SettingsError, match=f"'sam' is no proposer; use {names}"):
        proposer_entry("sam")


def test_a_frame_that_is_no_picture_or_has_another_size(tmp_path: Path) -> None:
    path = tmp_path / "0.jpg"
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="is not a readable image"):
        Frame(path, 4, 4).rgb()
    cv2.imwrite(str(path), np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(DataError, match="has 4x6 pixels, the frames manifest says 4x4"):
        Frame(path, 4, 4).rgb()
