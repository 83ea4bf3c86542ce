"""`oracle`: the frame's ground-truth masks as its proposals, for an upper bound.

The masks keep the source's resolution. Evaluation resizes the ground truth from the source's size
to the scoring size with one nearest-neighbour step. A proposal that takes the same step equals the
ground truth, so the best proposal has an IoU of exactly 1. With the frame's size in between it
would not, because two nearest-neighbour steps differ from one.
"""

from collections.abc import Sequence
from typing import Any

from egoexo_tools.errors import SettingsError
from egoexo_tools.proposers.base import Frame, FrameProposals, Proposal, Proposer, ProposerOptions


def settings(options: ProposerOptions) -> dict[str, Any]:
    """No settings; SettingsError for options of other proposers."""
    options.refuse_weights("oracle")
    if options.max_det is not None:
        raise SettingsError("the oracle proposes every ground-truth mask; leave out --max-det")
    return {}


def load(options: ProposerOptions) -> Proposer:
    return oracle


def oracle(frames: Sequence[Frame]) -> list[FrameProposals]:
    """Every visible, non-empty mask of each frame, with score 1."""
    return [
        FrameProposals([Proposal(rle, 1.0) for rle in frame.truth if rle.area() > 0])
        for frame in frames
    ]
