"""Proposers: frame → candidate masks. Add a new one to PROPOSERS."""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from egoexo_tools.proposers.base import Frame as Frame
    from egoexo_tools.proposers.base import FrameProposals as FrameProposals
    from egoexo_tools.proposers.base import Proposal as Proposal
    from egoexo_tools.proposers.base import Proposer as Proposer
    from egoexo_tools.proposers.base import ProposerEntry as ProposerEntry
    from egoexo_tools.proposers.base import ProposerOptions as ProposerOptions
    from egoexo_tools.proposers.base import per_image as per_image
    from egoexo_tools.proposers.base import simple_entry as simple_entry
    from egoexo_tools.proposers.registry import PROPOSERS as PROPOSERS
    from egoexo_tools.proposers.registry import proposer_entry as proposer_entry
else:
    __getattr__, __dir__, __all__ = lazy.exports(
        __name__,
        {
            "base": (
                "FrameProposals",
                "Frame",
                "Proposal",
                "Proposer",
                "ProposerEntry",
                "ProposerOptions",
                "per_image",
                "simple_entry",
            ),
            "registry": ("PROPOSERS", "proposer_entry"),
        },
    )
