"""The oracle's proposals are the ground truth."""

from pathlib import Path

import numpy as np

from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.proposers import Frame, ProposerOptions, proposer_entry


def test_the_oracle_proposes_the_nonempty_truth() -> None:
    mask, empty = np.zeros((8, 6), bool), np.zeros((8, 6), bool)
    mask[2:5, 1:3] = True
    truth = (MaskRle.encode(mask), MaskRle.encode(empty))
    propose = proposer_entry("oracle").load(ProposerOptions())
    (frame_proposals,) = propose([Frame(Path("unused.jpg"), 4, 3, truth)])
    assert [proposal.rle for proposal in frame_proposals.proposals] == [truth[0]]
