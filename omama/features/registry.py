"""BACKBONES: the values of `--backbone`, each with its builder. CACHE_PRECISIONS: token formats.

A builder takes the file of the original weights, or None, and returns an
`omama.features.backbones.Backbone`. Builders are named as text, so that torch and timm are imported
when a backbone is built and not when a command lists the names.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from egoexo_tools.lazy import resolve


def _build(builder: str, weights: Path | None = None, **options: Any) -> Any:
    return resolve(builder)(weights, **options)


_MODULE = "omama.features.backbones"

BACKBONES: dict[str, Callable[..., Any]] = {
    "dinov2": partial(
        _build, f"{_MODULE}:vit", name="dinov2", architecture="vit_base_patch14_reg4_dinov2"
    ),
    "dinov3": partial(
        _build, f"{_MODULE}:vit", name="dinov3", architecture="vit_small_plus_patch16_dinov3_qkvb"
    ),
    "dinov3-b": partial(
        _build, f"{_MODULE}:vit", name="dinov3-b", architecture="vit_base_patch16_dinov3_qkvb"
    ),
    "resnet50-dino": partial(_build, f"{_MODULE}:resnet", name="resnet50-dino", stride=32),
    "resnet50-dino-s16": partial(_build, f"{_MODULE}:resnet", name="resnet50-dino-s16", stride=16),
    "efficientnet-lite0": partial(_build, f"{_MODULE}:efficientnet_lite0"),
    "rgb_grid": partial(_build, f"{_MODULE}:rgb_grid"),
}
"""Name → builder. Published O-MaMa uses `dinov2`; `run` and the demo `efficientnet-lite0`."""


class BackboneIdentity(NamedTuple):
    """The properties of a backbone that are part of a feature cache's key."""

    weights_hash: str
    patch_size: int
    width: int


# A test compares it with the built network.
IDENTITIES = {"efficientnet-lite0": BackboneIdentity("4163ad9e30519d97", 16, 472)}
"""Backbones whose installed weights are checked by their sha256. Their cache can be found, and a
stage with nothing to do can end, without building the network, which takes seconds."""

CACHE_PRECISIONS = ("fp16", "int8")
"""Formats of a cached token: 2 bytes a value, or 1 byte a value and a float32 scale a token."""
