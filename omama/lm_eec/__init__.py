"""LM-EEC: an object followed through time in a second view, with memories of both views.

Its network is SAM 2.1's parts from transformers (the optional group `memory`).
"""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from omama.lm_eec.bank import compress as compress
    from omama.lm_eec.config import MemoryConfig as MemoryConfig
    from omama.lm_eec.network import ViewFusion as ViewFusion
    from omama.lm_eec.network import build_model as build_model
    from omama.lm_eec.tracking import track_logits as track_logits
else:
    __getattr__, __dir__, __all__ = lazy.face(
        __name__,
        {
            "bank": ("compress",),
            "config": ("MemoryConfig",),
            "network": ("ViewFusion", "build_model"),
            "tracking": ("track_logits",),
        },
    )
