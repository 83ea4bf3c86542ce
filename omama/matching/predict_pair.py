"""Predict one object from one picture to another, without a dataset root.

For the backbone, pictures are shrunk to the kept frames' size (long side at most 960); masks and
proposals keep the size of their picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from egoexo_tools.arrays import Rgb
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.evaluation.metrics import CONFIDENCE_THRESHOLD
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.parsing.mask_json import read_mask_json
from egoexo_tools.parsing.pictures import read_mask as read_mask_picture
from egoexo_tools.parsing.pictures import read_picture
from egoexo_tools.viewing.painting import PREDICTION, SOURCE, join_panels, overlay
from egoexo_tools.vocab import Direction
from omama.features.frame_features import prepare_frame
from omama.features.key import FeatureKey, make_extractor
from omama.matching.config import MatchingOptions
from omama.matching.matchers import BASELINES_WITH_FEATURES, load_matcher
from omama.matching.samples import Bucket, Truth

LONG_SIDE = 960
"""Long side of a kept exo frame, in pixels."""


@dataclass(frozen=True)
class PairPrediction:
    """The predicted place of an object in the destination picture."""

    rle: MaskRle | None
    """At the destination picture's size; None without proposals."""
    proposal_idx: int | None
    similarity: float | None
    confidence: float
    """Above 0.5 for visible."""


def read_rgb(path: Path) -> Rgb:
    """A picture as `egoexo-tools import images` reads it, (H, W, 3) uint8 RGB."""
    return np.ascontiguousarray(read_picture(path)[..., ::-1])


def read_mask(path: Path) -> MaskRle:
    """A mask from a picture file or a JSON, as `egoexo-tools import images` reads them."""
    return read_mask_json(path) if path.suffix.lower() == ".json" else read_mask_picture(path)


def predict_pair(
    source_rgb: Rgb,
    source_mask: MaskRle,
    dest_rgb: Rgb,
    proposals: Sequence[MaskRle],
    *,
    checkpoint: Path | None = None,
    baseline: str | None = None,
    direction: Direction | None = None,
    options: MatchingOptions = MatchingOptions(),
) -> PairPrediction:
    """Choose the proposal of the destination picture that shows the source mask's object.

    Pictures are (H, W, 3) uint8. Give either a checkpoint or the baseline `knn`. Raises DataError
    for an empty mask, a mask of another shape than its picture, and a checkpoint that does not fit.
    """
    if (checkpoint is None) == (baseline not in BASELINES_WITH_FEATURES):
        raise SettingsError("for two pictures give either a checkpoint or the baseline knn")
    _check_mask(source_mask, source_rgb)
    loaded = load_matcher(checkpoint, baseline, direction=direction, options=options)
    weights = options.features.weights
    extractor = make_extractor(loaded.backbone, weights, feature_precision=loaded.feature_precision)
    loaded.check(FeatureKey.of(extractor))
    # After the checks of the checkpoint, which should not depend on the proposer's result.
    if not proposals:
        return PairPrediction(None, None, None, 0.0)
    no_masks = MaskColumns.from_rles([])
    config = extractor.config
    source_masks = MaskColumns.from_rles([source_mask])
    dest_masks = MaskColumns.from_rles(proposals)
    source, dest = extractor(
        [
            prepare_frame(_shrink(source_rgb), source_masks, no_masks, config),
            prepare_frame(_shrink(dest_rgb), no_masks, dest_masks, config),
        ]
    )
    count = len(proposals)
    zero = torch.zeros(1, dtype=torch.long)
    # One frame pair with one pair; the truth is unknown and not used.
    bucket = Bucket(
        source_tokens=source.tokens[None],
        dest_tokens=dest.tokens[None],
        sources=source.masks[None],
        dests=dest.proposals[None],
        is_proposal=torch.ones(1, count, dtype=torch.bool),
        first_proposal=zero,
        group=zero,
        source_row=zero,
        pair=zero,
        truth=Truth(visible=torch.ones(1, dtype=torch.bool), ious=torch.zeros(1, count)),
    )
    scores = loaded.matcher(bucket.to(source.tokens.device))
    idx = int(scores.similarity[0].argmax())
    similarity, confidence = float(scores.similarity[0, idx]), float(scores.confidence[0])
    return PairPrediction(proposals[idx], idx, similarity, confidence)


def _check_mask(mask: MaskRle, rgb: Rgb) -> None:
    height, width = rgb.shape[:2]
    # Annotations have the source video's size, so another size of the same shape is allowed.
    if abs(mask.height * width - mask.width * height) > max(mask.height, mask.width) * 2:
        raise DataError(
            f"the mask has {mask.width}x{mask.height} pixels, its picture {width}x{height}; give a "
            "mask of the picture's shape"
        )
    if mask.area() == 0:
        raise DataError("the mask is empty; mark the object's pixels in it")


def _shrink(rgb: Rgb) -> Rgb:
    scale = LONG_SIDE / max(rgb.shape[:2])
    if scale >= 1:
        return rgb
    size = (round(rgb.shape[1] * scale), round(rgb.shape[0] * scale))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def pair_picture(
    source_rgb: Rgb, source_mask: MaskRle, dest_rgb: Rgb, prediction: PairPrediction
) -> Rgb:
    """Both pictures side by side, with the source mask and the predicted mask."""
    is_visible = prediction.confidence > CONFIDENCE_THRESHOLD
    visibility = "visible" if is_visible else "absent"
    caption = f"prediction, {visibility} ({prediction.confidence:.2f})"
    return join_panels(
        [
            ("source", overlay(source_rgb, source_mask, SOURCE)),
            (caption, overlay(dest_rgb, prediction.rle, PREDICTION)),
        ]
    )
