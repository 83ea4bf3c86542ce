"""`oracle`: the frame's ground-truth masks as its proposals, for an upper bound.

They stay at the source's resolution. Evaluation brings ground truth from the source's size to its
own by nearest neighbour; a proposal that takes the same single step lands on the same pixels, so
that the best proposal's IoU is exactly 1. By way of the frame's size it would not: two nearest
steps differ from one.
"""

from collections.abc import Sequence

from egoexo_tools.proposers.base import Frame, FrameProposals, Proposal


def oracle(frames: Sequence[Frame]) -> list[FrameProposals]:
    """Every visible mask that has a pixel, with score 1."""
    return [
        FrameProposals([Proposal(rle, 1.0) for rle in frame.truth if rle.area() > 0])
        for frame in frames
    ]
