"""O-MaMa: choose a proposal by comparing descriptors in context."""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from omama.matching.config import MatchingOptions as MatchingOptions
    from omama.matching.config import ModelConfig as ModelConfig
    from omama.matching.config import TrainConfig as TrainConfig
    from omama.matching.model import OMama as OMama
else:
    __getattr__, __dir__, __all__ = lazy.face(
        __name__,
        {
            "config": ("MatchingOptions", "ModelConfig", "TrainConfig"),
            "model": ("OMama",),
        },
    )
