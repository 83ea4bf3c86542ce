"""Metrics against the reference systems, the slow twins, and small cases computed by hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from egoexo_tools.arrays import Bool, Bytes, Int64
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation import metrics
from egoexo_tools.evaluation.metrics import score_masks
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.masks.rle_loops import OK, WRONG_TOTAL


def unpack(bits: Bytes, shapes: Int64, each: int) -> Iterator[list[Bool]]:
    """`each` masks a shape, out of the goldens' concatenated bits."""
    offset = 0
    for height, width in shapes.tolist():
        masks = []
        for _ in range(each):
            count = (height * width + 7) // 8
            flat = np.unpackbits(bits[offset : offset + count], count=height * width)
            masks.append(flat.reshape(height, width).astype(bool))
            offset += count
        yield masks


def rles(*masks: Bool) -> MaskColumns:
    return MaskColumns.from_rles([MaskRle.encode(mask) for mask in masks])


def score_one(predicted: Bool, truth: Bool, diagonal: float) -> metrics.MaskScores:
    yes, no = np.ones(1, bool), np.zeros(1, bool)
    size = predicted.shape
    return score_masks(
        rles(predicted), rles(truth), size=size, diagonal=diagonal, visible=yes, follows=no
    )


def blobs(seed: int, height: int, width: int, count: int) -> list[Bool]:
    """Random unions of rectangles; the first is empty, the second full."""
    rng = np.random.default_rng(seed)
    masks = [np.zeros((height, width), bool), np.ones((height, width), bool)]
    while len(masks) < count:
        mask = np.zeros((height, width), bool)
        for _ in range(rng.integers(1, 5)):
            y, x = rng.integers(0, height), rng.integers(0, width)
            mask[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] ^= True
        masks.append(mask)
    return masks


def test_goldens(goldens: Path) -> None:
    data = np.load(goldens / "metrics.npz")
    worst = 0.0
    for i, (truth, predicted) in enumerate(unpack(data["bits"], data["shapes"], 2)):
        official = score_one(predicted, truth, metrics.OFFICIAL_DIAGONAL)
        omama = score_one(predicted, truth, metrics.diagonal_of(truth.shape))
        for got, key in (
            (metrics.iou(predicted, truth), "iou"),
            (metrics.contour_accuracy(predicted, truth), "contour"),
            (metrics.location_error(predicted, truth), "location_omama"),
            (official.iou[0], "iou"),
            (official.contour_accuracy[0], "contour"),
            (official.location_error[0], "location_official"),
            (omama.location_error[0], "location_omama"),
        ):
            worst = max(worst, abs(got - data[key][i]))
    assert worst < 1e-9


def test_the_official_resize_is_exact(goldens: Path) -> None:
    data = np.load(goldens / "metrics.npz")
    sources = unpack(data["resize_in"], data["resize_in_shapes"], 1)
    results = unpack(data["resize_out"], data["resize_out_shapes"], 1)
    for (source,), (resized,) in zip(sources, results, strict=True):
        assert metrics.official_size(source.shape) == resized.shape
        yes, no = np.ones(1, bool), np.zeros(1, bool)
        scores = score_masks(
            rles(resized), rles(source), size=resized.shape, diagonal=1, visible=yes, follows=no
        )
        assert scores.iou[0] == pytest.approx(1.0, abs=1e-9)
        assert scores.truth_area[0] == resized.sum()


@pytest.mark.parametrize(
    ("size", "official"),
    [
        ((2160, 3840), (270, 480)),
        ((3840, 2160), (480, 270)),
        ((1408, 1408), (480, 480)),  # 480 / 1408 * 1408 is 479.99...
        ((448, 796), (270, 480)),
        ((540, 960), (270, 480)),
    ],
)
def test_official_size(size: tuple[int, int], official: tuple[int, int]) -> None:
    assert metrics.official_size(size) == official


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 90), (90, 1), (64, 65), (130, 70)])
def test_metrics_agree_with_their_slow_twins(height: int, width: int) -> None:
    masks = blobs(seed=height, height=height, width=width, count=9)
    for predicted in masks:
        for truth in masks:
            diagonal = float(np.hypot(height, width))
            scores = score_one(predicted, truth, diagonal)
            contour = reference.plain_contour(predicted, truth)
            assert scores.iou[0] == pytest.approx(reference.plain_iou(predicted, truth), abs=1e-12)
            assert scores.contour_accuracy[0] == pytest.approx(contour, abs=1e-12)
            assert metrics.contour_accuracy(predicted, truth) == scores.contour_accuracy[0]
            location = reference.plain_location(predicted, truth, diagonal)
            assert scores.location_error[0] == pytest.approx(location, abs=1e-12)
            assert scores.predicted_area[0] == predicted.sum()


@settings(max_examples=60, deadline=None)
@given(
    source=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    dest=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    seed=st.integers(0, 1000),
)
def test_masks_are_resized_like_opencv(
    source: tuple[int, int], dest: tuple[int, int], seed: int
) -> None:
    mask = blobs(seed, *source, count=3)[2]
    resized = reference.plain_resize(mask, *dest) > 0
    yes, no = np.ones(1, bool), np.zeros(1, bool)
    scores = score_masks(
        rles(resized), rles(mask), size=dest, diagonal=1.0, visible=yes, follows=no
    )
    assert scores.truth_area[0] == resized.sum()
    assert scores.iou[0] == pytest.approx(1.0, abs=1e-6)
    assert scores.location_error[0] == 0


def test_contours_more_than_a_word_apart() -> None:
    """A large image, so that the disk's radius spans more than 64 rows."""
    predicted, truth = np.zeros((2, 8100, 160), bool)
    predicted[1000:3000, 20:60] = True
    truth[1070:3040, 10:140] = True
    plain = reference.plain_contour(predicted, truth)
    assert metrics.boundary_radius(truth.shape) > 64
    assert 0 < plain < 1
    assert score_one(predicted, truth, 1.0).contour_accuracy[0] == pytest.approx(plain, abs=1e-12)


def test_consistency_is_the_iou_with_the_preceding_mask() -> None:
    masks = blobs(3, 40, 60, 6)
    flags = np.ones(6, bool)
    follows = np.array([False, True, True, False, True, True])
    visible = np.array([True, True, True, True, False, True])
    scores = score_masks(
        rles(*masks), rles(*masks[::-1]), size=(40, 60), diagonal=1.0, visible=visible,
        follows=follows,
    )  # fmt: skip
    for i in range(6):
        expected = reference.plain_iou(masks[i], masks[i - 1]) if follows[i] else np.nan
        assert scores.consistency[i] == pytest.approx(expected, nan_ok=True)
    truths = [np.nan, *(reference.plain_iou(masks[5 - i], masks[6 - i]) for i in (1, 2))]
    assert scores.truth_consistency[:3] == pytest.approx(truths, nan_ok=True)
    assert np.isnan(scores.truth_consistency[3:]).all()  # no truth at 4, so none at 5
    assert np.isnan(scores.iou) == pytest.approx(~visible & flags)


def test_a_broken_mask_is_reported_and_its_neighbours_are_scored() -> None:
    mask = blobs(3, 40, 60, 3)[2]
    good = MaskRle.encode(mask)
    bad = MaskRle(40, 60, MaskRle.encode(mask[:, :30]).counts)
    flags = np.ones(3, bool)
    scores = score_masks(
        MaskColumns.from_rles([good, bad, good]), rles(mask, mask, mask),
        size=(40, 60), diagonal=1.0, visible=flags, follows=np.array([False, True, True]),
    )  # fmt: skip
    assert scores.predicted_problem.tolist() == [OK, WRONG_TOTAL, OK]
    assert scores.iou == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)
    assert np.isnan(scores.consistency).all()


@pytest.mark.parametrize(
    ("predicted", "truth", "accuracy"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], 1.0),
        ([1, 1, 1, 1], [1, 1, 1, 0], 0.5),
        ([1, 0, 1, 1], [1, 1, 1, 1], 0.75),  # one class only: its recall
        ([], [], None),
    ],
)
def test_balanced_accuracy(predicted: list[int], truth: list[int], accuracy: Any) -> None:
    assert metrics.balanced_accuracy(np.array(predicted, bool), np.array(truth, bool)) == accuracy


def test_masks_of_two_sizes_are_rejected() -> None:
    with pytest.raises(DataError, match="resize one of them"):
        metrics.contour_accuracy(np.zeros((4, 5), bool), np.zeros((5, 4), bool))
