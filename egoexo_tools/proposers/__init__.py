"""Proposers: frame → candidate masks. PROPOSERS is where a new one is entered."""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from egoexo_tools.proposers.base import Frame as Frame
    from egoexo_tools.proposers.base import FrameProposals as FrameProposals
    from egoexo_tools.proposers.base import Proposal as Proposal
    from egoexo_tools.proposers.base import Proposer as Proposer
    from egoexo_tools.proposers.base import ProposerEntry as ProposerEntry
    from egoexo_tools.proposers.base import ProposerOptions as ProposerOptions
    from egoexo_tools.proposers.base import Rgb as Rgb
    from egoexo_tools.proposers.base import of_pictures as of_pictures
    from egoexo_tools.proposers.base import simple as simple
    from egoexo_tools.proposers.registry import PROPOSERS as PROPOSERS
    from egoexo_tools.proposers.registry import entry as entry
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
                "Rgb",
                "of_pictures",
                "simple",
            ),
            "registry": ("PROPOSERS", "entry"),
        },
    )
