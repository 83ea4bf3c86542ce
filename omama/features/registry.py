"""BACKBONES: the names that `--backbone` takes, and how each is built;
CACHE_PRECISIONS: how its tokens are kept.

A builder takes the file of the original weights, or None, and gives an
`omama.features.backbones.Backbone`. Ours are named as text: torch and timm are imported when one
is built, not when a command lists the names.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from egoexo_tools.lazy import resolve


def _build(builder: str, weights: Path | None = None, **options: Any) -> Any:
    return resolve(builder)(weights, **options)


_HERE = "omama.features.backbones"

BACKBONES: dict[str, Callable[..., Any]] = {
    "dinov2": partial(
        _build, f"{_HERE}:vit", name="dinov2", architecture="vit_base_patch14_reg4_dinov2"
    ),
    "dinov3": partial(
        _build, f"{_HERE}:vit", name="dinov3", architecture="vit_small_plus_patch16_dinov3_qkvb"
    ),
    "dinov3-b": partial(
        _build, f"{_HERE}:vit", name="dinov3-b", architecture="vit_base_patch16_dinov3_qkvb"
    ),
    "resnet50-dino": partial(_build, f"{_HERE}:resnet", name="resnet50-dino", stride=32),
    "resnet50-dino-s16": partial(_build, f"{_HERE}:resnet", name="resnet50-dino-s16", stride=16),
    "efficientnet-lite0": partial(_build, f"{_HERE}:efficientnet_lite0"),
    "rgb_grid": partial(_build, f"{_HERE}:rgb_grid"),
}
"""Name → builder. Published O-MaMa uses `dinov2`; `run` and the demo `efficientnet-lite0`."""


class Identity(NamedTuple):
    """What a feature cache's key says of a backbone."""

    weights_hash: str
    patch_size: int
    width: int


IDENTITIES = {"efficientnet-lite0": Identity("4163ad9e30519d97", 16, 472)}
"""Of backbones whose installed weights are checked by their sha256. What is cached can be looked
up, and a stage with nothing to do can end, without the seconds that building the network takes."""

CACHE_PRECISIONS = ("fp16", "int8")
"""Of a cached token's values: 2 bytes each, or 1 and a scale a token."""
