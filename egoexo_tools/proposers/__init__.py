"""Proposers: frame → candidate masks. Add a new one to PROPOSERS."""

# These modules import nothing heavy, so the names need no lazy import.
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
