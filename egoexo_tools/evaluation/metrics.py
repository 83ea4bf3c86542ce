"""The three metrics of a predicted mask, as the benchmark's evaluator computes them.

METRICS lists plain functions of two boolean arrays of one shape (H, W), prediction first.
`score_masks` gives the same numbers for many run-length masks with compiled loops
(egoexo_tools/evaluation/metric_loops.py), which draw them at the size of the comparison.

Definitions: IoU and contour accuracy are J and F of the DAVIS benchmark (Perazzi et al., CVPR
2016) without temporal parts; location error is the distance of box centres over a diagonal.
docs/metrics.md describes the protocols.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from egoexo_tools.arrays import Bool, Bytes, Float64, Int64, UInt64
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.evaluation import metric_loops
from egoexo_tools.masks import bitmaps
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.resizing import Size

OFFICIAL_SIDE = 480
"""Long side, in pixels, at which the official evaluator compares masks."""
# The official evaluator divides by this for every image shape.
OFFICIAL_DIAGONAL = float(np.sqrt(OFFICIAL_SIDE**2 + OFFICIAL_SIDE**2))
BOUNDARY_SHARE = 0.008
"""Boundary pixels match within this share of the image diagonal."""
CONFIDENCE_THRESHOLD = 0.5
"""An object is predicted as visible if its confidence is above this."""


def iou(predicted: Bool, truth: Bool) -> float:
    """|P and G| / (|P or G| + 1e-7); 1 where both are empty."""
    areas = (np.int64(mask.sum()) for mask in (predicted & truth, predicted, truth))
    return bitmaps.iou_from_areas(*areas)


def contour_accuracy(predicted: Bool, truth: Bool) -> float:
    """F-measure of the two boundaries, matched within `boundary_radius` pixels."""
    height, width = _common_size(predicted, truth)
    # The same loops as for run-length masks, so that both give the same digits.
    (a, a_box), (b, b_box) = _pack(predicted), _pack(truth)
    edge_maps, scratch = np.zeros((2, *a.shape), np.uint64), np.zeros((3, a.shape[1]), np.uint64)
    radius = boundary_radius((height, width))
    return bitmaps.contour_accuracy(
        a, b, a_box, b_box, height, disk_heights(radius), edge_maps, np.zeros_like(a), scratch
    )


def location_error(predicted: Bool, truth: Bool, *, diagonal: float | None = None) -> float:
    """Distance of the centres of the two boxes, over `diagonal` (default: the image's own)."""
    height, width = size = _common_size(predicted, truth)
    (_, a_box), (_, b_box) = _pack(predicted), _pack(truth)
    return bitmaps.location_error(a_box, b_box, height, width, diagonal or diagonal_of(size))


@dataclass(frozen=True)
class Metric:
    """A metric of a predicted mask, with its name in tables."""

    title: str
    """Narrow columns show its first word alone."""
    better: str
    """`higher` or `lower`."""
    function: Callable[[Bool, Bool], float]
    """(predicted, truth), both (H, W) bool of one shape → value."""

    def __post_init__(self) -> None:
        if self.better not in {"higher", "lower"}:
            raise SettingsError(f"better={self.better!r} must be 'higher' or 'lower'")


METRICS: dict[str, Metric] = {
    "iou": Metric("IoU", "higher", iou),
    "contour_accuracy": Metric("contour accuracy", "higher", contour_accuracy),
    "location_error": Metric("location error", "lower", location_error),
}
"""Name → metric. The name is a column of `scores` and a key of every summary; tables, report and
comparison show these metrics in this order."""
VISIBILITY_ACCURACY = "visibility_accuracy"
"""The headline number that is computed from confidences, over all samples."""


def headlines() -> dict[str, str]:
    """Name → title of every headline number: the current METRICS, then visibility accuracy."""
    titles = {name: metric.title for name, metric in METRICS.items()}
    return {**titles, VISIBILITY_ACCURACY: "visibility accuracy"}


def balanced_accuracy(predicted: Bool, truth: Bool) -> float | None:
    """Mean recall over the classes in `truth`; both arrays (n,) bool. None without samples."""
    recalls = [
        float(np.mean(predicted[truth == value] == value))
        for value in (False, True)
        if (truth == value).any()
    ]
    return float(np.mean(recalls)) if recalls else None


def official_size(size: Size) -> Size:
    """The size at which the official evaluator compares masks of images of `size`.

    The long side becomes 480.
    """
    # The rounded reciprocal, as in the evaluator: 480 / 1408 * 1408 is slightly below 480 and would
    # reduce ego masks to 479 rows.
    ratio = 1.0 / max(size) * OFFICIAL_SIDE
    return int(size[0] * ratio), int(size[1] * ratio)


def diagonal_of(size: Size) -> float:
    return float(np.sqrt(size[0] ** 2 + size[1] ** 2))


def boundary_radius(size: Size) -> int:
    """The largest distance of matching boundary pixels, in pixels."""
    return int(np.ceil(BOUNDARY_SHARE * np.linalg.norm(size)))


def disk_heights(radius: int) -> Int64:
    """The largest y of the disk x² + y² <= radius², for x = 0..radius."""
    offsets = np.arange(radius + 1)
    inside = offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2
    heights: Int64 = inside.sum(axis=1).astype(np.int64) - 1
    return heights


@dataclass(frozen=True)
class MaskScores:
    """The results of `score_masks`, each (n,); NaN if the truth has no mask."""

    iou: Float64
    contour_accuracy: Float64
    location_error: Float64
    predicted_area: Int64
    truth_area: Int64
    consistency: Float64
    """IoU of a prediction with the preceding one; NaN if `follows` is false."""
    truth_consistency: Float64
    """IoU of a truth with the preceding one; NaN if either is missing."""
    predicted_problem: Bytes
    """Problem code of egoexo_tools.masks.rle_loops for each predicted mask; 0 is OK."""
    truth_problem: Bytes


def score_masks(
    predicted: MaskColumns,
    truth: MaskColumns,
    *,
    size: Size,
    diagonal: float,
    visible: Bool,
    follows: Bool,
) -> MaskScores:
    """Compare n predicted masks with the truth at `size`; diagonal in pixels.

    `visible[i]`: the truth has a mask. `follows[i]`: sample i - 1 precedes it in the same track.
    Raises DataError unless all predicted masks have one size, and all true masks have one.
    """
    count = len(visible)
    floats = np.full((5, count), np.nan)
    areas = np.zeros((2, count), np.int64)
    problems = np.zeros((2, count), np.uint8)
    metric_loops.score(
        metric_loops.resized_masks(predicted, size),
        metric_loops.resized_masks(truth, size),
        (*size, disk_heights(boundary_radius(size)), diagonal),
        (visible, follows),
        (floats, areas, problems),
    )
    return MaskScores(
        iou=floats[metric_loops.IOU],
        contour_accuracy=floats[metric_loops.CONTOUR],
        location_error=floats[metric_loops.LOCATION],
        predicted_area=areas[metric_loops.PREDICTED],
        truth_area=areas[metric_loops.TRUTH],
        consistency=floats[metric_loops.CONSISTENCY],
        truth_consistency=floats[metric_loops.TRUTH_CONSISTENCY],
        predicted_problem=problems[metric_loops.PREDICTED],
        truth_problem=problems[metric_loops.TRUTH],
    )


def _common_size(predicted: Bool, truth: Bool) -> Size:
    if predicted.shape != truth.shape or predicted.ndim != 2:
        raise DataError(
            f"masks of shape {predicted.shape} and {truth.shape} cannot be compared; "
            "resize one of them first"
        )
    height, width = predicted.shape
    return height, width


def _pack(mask: Bool) -> tuple[UInt64, Int64]:
    height, width = mask.shape
    # Column by column, 64 rows per word: the layout of masks/bitmaps.py.
    bitmap = np.zeros((width, -(-height // 64)), np.uint64)
    box = np.zeros(4, np.int64)
    bitmaps.pack(mask.astype(np.bool_), bitmap, box)
    return bitmap, box
