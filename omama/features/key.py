"""The key of features: the frozen backbone with its weights, and all else that changes a token.

The key names the caches of `omama.features.cache`, is part of a training run's fingerprint and is
saved in its checkpoints, so that features of two kinds cannot be confused.
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
"""Content of a cache: tokens in one of CACHE_PRECISIONS and the masks' descriptors, or only
descriptors, which are float16 in every cache."""


@dataclass(frozen=True)
class FeatureKey:
    """Everything that features depend on besides the root's manifests."""

    backbone: str
    weights_hash: str
    patch_size: int
    """Side of a token in pixels of the prepared image."""
    width: int
    """Channels of the tokens."""
    feature_precision: str = "fp32"
    """Precision of the backbone, one of PRECISIONS."""
    squash_portrait: bool = False
    """Portrait frames have the landscape size, as in the reference's training."""
    stored: str = "fp16"
    """Content of the cache, one of STORED."""

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
        """Plain values: the stage's settings, from which `name` is computed."""
        squashed = ", portrait squashed to landscape" if self.squash_portrait else ""
        # Left out for fp16, because the names of existing caches depend on it.
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
        """How frames are prepared for the backbone."""
        return PreparationConfig(patch_size=self.patch_size, squash_portrait=self.squash_portrait)

    @property
    def name(self) -> str:
        """Name of the cache's folder: the backbone and a hash of `settings`."""
        text = json.dumps(self.settings, sort_keys=True)
        return f"{self.backbone}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def command(self) -> str:
        """Options of `omama features` that make these features."""
        words = [f"--backbone {self.backbone}"]
        if self.feature_precision != "fp32":
            words.append(f"--feature-precision {self.feature_precision}")
        if self.squash_portrait:
            words.append("--reference-behaviour")
        if self.stored != "fp16":
            words.append(
                "--cache-precision int8" if self.stored == "int8" else "--descriptors-only"
            )
        return " ".join(words)


def feature_key(
    backbone: str,
    weights: Path | None,
    *,
    feature_precision: str = "fp32",
    squash_portrait: bool = False,
) -> FeatureKey:
    """`FeatureKey.of` the extractor of the same arguments; builds the network only if needed."""
    if weights is None and (identity := IDENTITIES.get(backbone)) is not None:
        _check_precision(feature_precision)
        return FeatureKey(backbone, *identity, feature_precision, squash_portrait)
    # Other weights have to be loaded, because the key contains their hash.
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
    """The extractor, on the GPU if there is one. SettingsError for an unknown precision."""
    _check_precision(feature_precision)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Extractor(
        _load_backbone(backbone, weights),
        device=device,
        bf16=feature_precision == "bf16",
        squash_portrait=squash_portrait,
    )


def _check_precision(name: str) -> None:
    if name not in PRECISIONS:
        raise SettingsError(f"feature precision {name!r}; use {' or '.join(PRECISIONS)}")


@lru_cache(maxsize=1)  # weights are large: only the last backbone stays in memory
def _load_backbone(backbone: str, weights: Path | None) -> "Backbone":
    from omama.features.backbones import build_backbone  # timm, which takes seconds to import

    return build_backbone(backbone, weights)
