"""Predict one object from one picture to another: what a person tries first.

Pictures of any size are reduced for the backbone to the kept frames' size (long side 960 at
most); masks and proposals keep the size of their picture.
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
from egoexo_tools.viewing.painting import PREDICTION, SOURCE, overlay, strip
from egoexo_tools.vocab import Direction
from omama.features.frame_features import FrameFeatures, prepare_frame
from omama.features.key import FeatureKey, make_extractor
from omama.matching.config import MatchingOptions
from omama.matching.matchers import NEEDS_FEATURES, load_matcher
from omama.matching.samples import Bucket, Truth

LONG_SIDE = 960
"""Of a kept exo frame, in pixels."""


@dataclass(frozen=True)
class PairPrediction:
    """Where the object is in the destination picture, and how sure that it is there at all."""

    rle: MaskRle | None
    """At the destination picture's size; None where there were no proposals."""
    proposal_idx: int | None
    similarity: float | None
    confidence: float
    """Above 0.5: visible."""


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
    matcher: str | None = None,
    direction: Direction | None = None,
    options: MatchingOptions = MatchingOptions(),
) -> PairPrediction:
    """The proposal of the destination picture that is the source mask's object.

    Pictures are (H, W, 3) uint8. Raises DataError for an empty
    mask, one of another shape than its picture, and a checkpoint that does not fit.
    """
    if (checkpoint is None) == (matcher not in NEEDS_FEATURES):
        raise SettingsError("for two pictures give either a checkpoint or the matcher knn")
    _check_mask(source_mask, source_rgb)
    chosen = load_matcher(checkpoint, matcher, direction=direction, options=options)
    weights = options.features.weights
    extractor = make_extractor(chosen.backbone, weights, feature_precision=chosen.feature_precision)
    chosen.check(FeatureKey.of(extractor))
    if not proposals:
        return PairPrediction(None, None, None, 0.0)
    none = MaskColumns.from_rles([])
    config = extractor.config
    source, dest = extractor(
        [
            prepare_frame(_reduced(source_rgb), MaskColumns.from_rles([source_mask]), none, config),
            prepare_frame(_reduced(dest_rgb), none, MaskColumns.from_rles(proposals), config),
        ]
    )
    scored = chosen.matcher(_bucket(source, dest))
    idx = int(scored.similarity[0].argmax())
    similarity, confidence = float(scored.similarity[0, idx]), float(scored.confidence[0])
    return PairPrediction(proposals[idx], idx, similarity, confidence)


def pair_picture(
    source_rgb: Rgb, source_mask: MaskRle, dest_rgb: Rgb, found: PairPrediction
) -> Rgb:
    """Both pictures side by side with the mask that was given and the one that was found."""
    visible = found.confidence > CONFIDENCE_THRESHOLD
    caption = f"prediction, {'visible' if visible else 'absent'} ({found.confidence:.2f})"
    return strip(
        [
            ("source", overlay(source_rgb, source_mask, SOURCE)),
            (caption, overlay(dest_rgb, found.rle, PREDICTION)),
        ]
    )


def _check_mask(mask: MaskRle, rgb: Rgb) -> None:
    height, width = rgb.shape[:2]
    # Annotations come at the source video's size, so another size of the same shape is fine.
    if abs(mask.height * width - mask.width * height) > max(mask.height, mask.width) * 2:
        raise DataError(
            f"the mask has {mask.width}x{mask.height} pixels, its picture {width}x{height}; give a "
            "mask of the picture's shape"
        )
    if mask.area() == 0:
        raise DataError("the mask is empty; mark the object's pixels in it")


def _reduced(rgb: Rgb) -> Rgb:
    scale = LONG_SIDE / max(rgb.shape[:2])
    if scale >= 1:
        return rgb
    size = (round(rgb.shape[1] * scale), round(rgb.shape[0] * scale))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _bucket(source: FrameFeatures, dest: FrameFeatures) -> Bucket:
    count = len(dest.proposals)
    zero = torch.zeros(1, dtype=torch.long)
    return Bucket(
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
    ).to(source.tokens.device)
