"""Frozen features of frames and masks, and their cache. BACKBONES is where a new one is entered."""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from omama.features.backbones import Backbone as Backbone
    from omama.features.backbones import build_backbone as build_backbone
    from omama.features.cache import run_features as run_features
    from omama.features.images import PreparationConfig as PreparationConfig
    from omama.features.registry import BACKBONES as BACKBONES
    from omama.features.registry import PRECISIONS as PRECISIONS
else:
    __getattr__, __dir__, __all__ = lazy.face(
        __name__,
        {
            "backbones": ("Backbone", "build_backbone"),
            "cache": ("run_features",),
            "images": ("PreparationConfig",),
            "registry": ("BACKBONES", "PRECISIONS"),
        },
    )
