"""Run-length masks, compared with pycocotools (text) and OpenCV (resizing)."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from egoexo_tools.arrays import Bool
from egoexo_tools.errors import DataError
from egoexo_tools.masks.rle import MaskRle, runs_to_counts
from egoexo_tools.masks.rle_loops import OK, parse_counts


@st.composite
def mask_arrays(draw: st.DrawFn, max_side: int = 40) -> Bool:
    """Noise, blobs, full and empty masks of odd shapes."""
    height, width = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
    mask: Bool = rng.random((height, width)) < share
    if draw(st.booleans()):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask[y:, x:] = ~mask[y:, x:]
    return mask


@settings(max_examples=150, deadline=None)
@given(mask_arrays())
def test_counts_equal_those_of_pycocotools(mask: Bool) -> None:
    rle = MaskRle.encode(mask)
    coco_rle: Any = coco.encode(np.asfortranarray(mask.view(np.uint8)))
    assert rle.to_json() == {"size": list(mask.shape), "counts": coco_rle["counts"].decode()}
    assert MaskRle.from_json(coco_rle) == MaskRle.from_json(rle.to_json()) == rle
    np.testing.assert_array_equal(rle.decode(), mask)
    assert rle.area() == coco.area(coco_rle)


@settings(max_examples=100, deadline=None)
@given(mask_arrays(), mask_arrays())
def test_boxes_and_iou_match_the_slow_twins(a: Bool, b: Bool) -> None:
    assert MaskRle.encode(a).box_xywh() == reference.mask_box_xywh(a)
    resized = cv2.resize(b.view(np.uint8), a.shape[::-1], interpolation=cv2.INTER_NEAREST)
    resized = resized.reshape(a.shape).astype(bool)
    expected = reference.mask_iou(a, resized)
    assert MaskRle.encode(a).iou(MaskRle.encode(resized)) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(mask_arrays(), st.integers(1, 90), st.integers(1, 90))
def test_decode_at_equals_opencv_nearest(mask: Bool, height: int, width: int) -> None:
    expected = cv2.resize(mask.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    decoded = MaskRle.encode(mask).decode_at(height, width)
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, expected.reshape(height, width).astype(bool))


@pytest.mark.parametrize(
    "source, dest",
    [((2160, 3840), (532, 952)), ((1408, 1408), (700, 700)), ((2160, 3840), (270, 480))],
)
def test_decode_at_the_sizes_of_the_benchmark(
    source: tuple[int, int], dest: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    small = rng.random((source[0] // 40, source[1] // 40)) < 0.3
    mask = cv2.resize(small.view(np.uint8), source[::-1], interpolation=cv2.INTER_NEAREST)
    mask[rng.random(mask.shape) < 0.001] ^= 1
    expected = cv2.resize(mask, dest[::-1], interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(MaskRle.encode(mask).decode_at(*dest), expected.astype(bool))


@settings(max_examples=100, deadline=None)
@given(mask_arrays(), st.data())
def test_sample_equals_fancy_indexing(mask: Bool, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, mask.shape[0] - 1), max_size=9))
    cols = data.draw(st.lists(st.integers(0, mask.shape[1] - 1), max_size=9))
    expected = mask[np.array(rows, int)][:, np.array(cols, int)]
    np.testing.assert_array_equal(MaskRle.encode(mask).sample(rows, cols), expected)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**29), max_size=50))
def test_runs_survive_a_round_trip_through_text(lengths: list[int]) -> None:
    total = np.array(lengths, np.int64).sum()
    parsed = np.empty(len(lengths) * 7 + 1, np.int64)
    text = np.frombuffer(runs_to_counts(np.array(lengths)).encode(), np.uint8)
    assert parse_counts(text, total, parsed) == (OK, len(lengths), total)
    assert parsed[: len(lengths)].tolist() == lengths


@pytest.mark.parametrize(
    "counts, words",
    [
        ("", "do not add up"),
        ("4", "do not add up to height x width \\(4 for 2x3\\)"),
        ("7", "do not add up"),
        ("5\u00e9", "not COCO"),
        ("5 ", "not COCO"),
        ("5o", "not COCO"),  # the last character announces another one
        ("oooooooooooooo0", "not COCO"),
        ("6N", "negative"),
    ],
)
def test_invalid_counts_are_rejected(counts: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        MaskRle(2, 3, counts).validate()
    with pytest.raises(DataError):
        MaskRle(2, 3, counts).decode()


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"size": [2], "counts": "6"},
        {"size": [2, 3]},
        {"size": [2, 3], "counts": None},
        {"size": [2, 3], "counts": [1, "x"]},
        {"size": [2, 3], "counts": [2**70]},
        {"size": [2, 3], "counts": [2**62]},
        {"size": [0, 3], "counts": ""},
        {"size": [2, 40_000], "counts": "6"},
        {"size": "ab", "counts": "6"},
    ],
)
def test_json_that_is_not_a_mask_is_rejected(value: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        MaskRle.from_json(value)


def test_json_may_hold_plain_runs() -> None:
    rle = MaskRle.from_json({"size": [2, 3], "counts": [1, 2, 3]})
    assert rle.decode().tolist() == [[False, True, False], [True, False, False]]


def test_unsuitable_arguments_are_rejected() -> None:
    with pytest.raises(DataError, match="decode_at"):
        MaskRle(2, 3, "6").iou(MaskRle(3, 2, "6"))
    with pytest.raises(DataError, match="0..1"):
        MaskRle(2, 3, "6").sample([2], [0])
    with pytest.raises(DataError, match="shape"):
        MaskRle.encode(np.zeros((0, 4), bool))


def test_zero_runs_inside_a_mask_are_skipped() -> None:
    counts = runs_to_counts(np.array([2, 0, 1, 2, 0, 0, 1]))
    rle = MaskRle(2, 3, counts)
    assert rle.decode().tolist() == [[False, False, True], [False, True, False]]
    assert rle.box_xywh() == (1, 0, 1, 1)
    np.testing.assert_array_equal(rle.sample([1, 0], [2, 1]), [[False, True], [True, False]])
    assert rle.iou(MaskRle.encode(rle.decode())) == 1.0


def test_home_pairs_have_their_published_iou(home_pairs: Path) -> None:
    """The published scores come from pixels at the prediction's size, ours from runs."""
    truth, predictions, expected = (
        json.loads((home_pairs / f"{name}.json").read_text())
        for name in ("ground_truth", "predictions", "expected")
    )
    ious = []
    for take, entry in predictions["exo-ego"]["results"].items():
        for name, cameras in entry["masks"].items():
            for pair, frames in cameras.items():
                dest = truth["annotations"][take]["masks"][name][pair.split("_", 1)[1]]
                for frame in frames.keys() & dest.keys():
                    predicted = MaskRle.from_json(frames[frame]["pred_mask"])
                    full_size = MaskRle.from_json(dest[frame])
                    resized = full_size.decode_at(predicted.height, predicted.width)
                    ious.append(predicted.iou(MaskRle.encode(resized)))
    published = expected["per_sample"]["iou_per_obs"]
    assert len(ious) == len(published) == 32
    assert sorted(ious) == pytest.approx(sorted(published), abs=1e-6)
