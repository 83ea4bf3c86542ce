"""What was found for pairs: the proposals that are most likely the object, and how surely."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from egoexo_tools.arrays import Float64, Int64
from omama.matching.matchers import Matcher
from omama.matching.samples import Bucket

TOP = 5
"""Proposals that a prediction lists."""


@dataclass(frozen=True)
class ChosenProposals:
    """What is predicted of P pairs."""

    pair: Int64
    """(P,) positions in `Pairs`."""
    top: Int64
    """(P, TOP) proposal_idx in the destination frame, the best first; -1 where there are fewer."""
    similarity: Float64
    """(P,) of the first."""
    confidence: Float64
    """(P,) in 0..1; 0 where there are no proposals."""


def join(parts: Sequence[ChosenProposals]) -> ChosenProposals:
    columns = ([getattr(part, column.name) for part in parts] for column in fields(ChosenProposals))
    return ChosenProposals(*map(np.concatenate, columns))


def choose_best(bucket: Bucket, matcher: Matcher) -> ChosenProposals:
    """The best proposals of a bucket's pairs."""
    scored = matcher(bucket)
    similarity = scored.similarity.float().cpu()
    is_proposal = bucket.is_proposal[bucket.group].cpu()
    best = similarity.masked_fill(~is_proposal, -torch.inf).topk(min(TOP, similarity.shape[1]), 1)
    proposal_idxs = best.indices - bucket.first_proposal[bucket.group].cpu()[:, None]
    top = np.full((len(similarity), TOP), -1)
    top[:, : proposal_idxs.shape[1]] = proposal_idxs.where(best.values > -torch.inf, -1).numpy()
    confidence = scored.confidence.double().cpu().numpy()
    return ChosenProposals(
        pair=bucket.pair.cpu().numpy(),
        top=top,
        similarity=best.values[:, 0].double().numpy(),
        confidence=np.where(top[:, 0] < 0, 0.0, confidence),
    )
