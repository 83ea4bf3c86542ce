"""Which features: a frozen backbone with its weights, and all else that changes a token.

The key names the caches of `omama.features.cache`, is part of a training run's fingerprint and is
kept in its checkpoints, so that features of two kinds never pass for one another.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from egoexo_tools.errors import SettingsError
from omama.config import PRECISIONS
from omama.features.frame_features import Extractor
from omama.features.images import PreparationConfig
from omama.features.registry import IDENTITIES

if TYPE_CHECKING:
    from omama.features.backbones import Backbone

FORMAT = 1
STORED = ("fp16", "int8", "descriptors")
"""What a cache keeps: tokens of 2 bytes a value or of 1 with a scale a token, or only the
descriptors of the masks, which are float16 in all of them."""


@dataclass(frozen=True)
class FeatureKey:
    """What features depend on besides the root's manifests."""

    backbone: str
    weights_hash: str
    patch_size: int
    """Pixels of the prepared image to a token."""
    width: int
    """Channels of the tokens."""
    feature_precision: str = "fp32"
    squash_portrait: bool = False
    """Portrait frames at the landscape size, as the reference trains."""
    stored: str = "fp16"
    """One of STORED: what a cache keeps."""

    @classmethod
    def of(cls, extractor: Extractor) -> "FeatureKey":
        backbone = extractor.backbone
        return cls(
            backbone=backbone.name,
            weights_hash=backbone.weights_hash,
            patch_size=backbone.patch_size,
            width=backbone.dim,
            feature_precision="bf16" if extractor.bf16 else "fp32",
            squash_portrait=extractor.config.squash_portrait,
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        squashed = ", portrait squashed to landscape" if self.squash_portrait else ""
        # Only where it is not what every cache once was: their names go on.
        stored = {} if self.stored == "fp16" else {"stored": self.stored}
        return {
            "backbone": self.backbone,
            "weights_hash": self.weights_hash,
            "patch_size": self.patch_size,
            "width": self.width,
            "precision": self.feature_precision,
            "preparation": f"cut to multiples of the patch, nearest{squashed}",
            "format": FORMAT,
            **stored,
        }

    @property
    def preparation(self) -> PreparationConfig:
        """How frames become the backbone's input."""
        return PreparationConfig(patch_size=self.patch_size, squash_portrait=self.squash_portrait)

    @property
    def name(self) -> str:
        """The cache's folder: backbone and a hash of everything."""
        text = json.dumps(self.settings, sort_keys=True)
        return f"{self.backbone}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def command(self) -> str:
        """What makes these features."""
        words = [f"--backbone {self.backbone}"]
        words += (
            [f"--feature-precision {self.feature_precision}"]
            if self.feature_precision != "fp32"
            else []
        )
        words += ["--reference-behaviour"] if self.squash_portrait else []
        words += {"int8": ["--cache-precision int8"], "descriptors": ["--descriptors-only"]}.get(
            self.stored, []
        )
        return " ".join(words)


def feature_key(
    backbone: str,
    weights: Path | None,
    *,
    feature_precision: str = "fp32",
    squash_portrait: bool = False,
) -> FeatureKey:
    """`FeatureKey.of` the extractor of the same arguments, built only where that must be."""
    if weights is None and (known := IDENTITIES.get(backbone)) is not None:
        _check_precision(feature_precision)
        return FeatureKey(backbone, *known, feature_precision, squash_portrait)
    extractor = make_extractor(
        backbone, weights, feature_precision=feature_precision, squash_portrait=squash_portrait
    )
    return FeatureKey.of(extractor)


def make_extractor(
    backbone: str,
    weights: Path | None,
    *,
    feature_precision: str = "fp32",
    squash_portrait: bool = False,
) -> Extractor:
    """The backbone on the accelerator if there is one; the last one is kept: weights are large."""
    _check_precision(feature_precision)
    built = _loaded(backbone, weights)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Extractor(
        built, device=device, bf16=feature_precision == "bf16", squash_portrait=squash_portrait
    )


def _check_precision(name: str) -> None:
    if name not in PRECISIONS:
        raise SettingsError(f"feature precision {name!r}; use {' or '.join(PRECISIONS)}")


@lru_cache(maxsize=1)
def _loaded(backbone: str, weights: Path | None) -> "Backbone":
    from omama.features.backbones import build_backbone  # timm, which takes seconds to import

    return build_backbone(backbone, weights)
