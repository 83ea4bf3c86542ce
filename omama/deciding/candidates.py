"""What deciding keeps of a pair after a matcher: its best candidates, and how these look.

Legend: P pairs, K candidates of a pair (the best TOP), W values of an embedding, C channels of
the backbone, G frame pairs, R destination rows, B pairs of a bucket.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from egoexo_tools.arrays import Float16, Float32, Float64, Int64
from egoexo_tools.errors import SettingsError
from omama.matching.matchers import MatchScores
from omama.matching.samples import Bucket

TOP = 10
"""Candidates of a pair that are looked at: the ten best hold nearly all that can be chosen."""


@dataclass(frozen=True)
class Candidates:
    """The best candidates of P pairs."""

    pair: Int64
    """(P,) positions in `Pairs`."""
    proposal: Int64
    """(P, K) proposal_idx in the destination frame, the most similar first; -1 where none."""
    similarity: Float32
    """(P, K), -inf where none."""
    confidence: Float64
    """(P,) the matcher's own, in 0..1; 0 where there are no proposals."""
    source: Float16
    """(P, W) unit embedding of the object."""
    embedding: Float16
    """(P, K, W) unit embeddings of the candidates; zeros where none."""
    look: Float16
    """(P, K, C) mask parts of the descriptors less the frame's mean, unit; zeros where none."""
    truth: Float32
    """(P, K) IoU with the ground truth, 0 where none. Fits are judged by it; clips, and with
    them all decisions, do not hold it."""

    def __len__(self) -> int:
        return int(self.pair.size)

    def take(self, rows: NDArray[Any]) -> Self:
        """Some of the pairs, by position or by boolean mask."""
        return type(self)(*(getattr(self, column.name)[rows] for column in fields(self)))

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """One after the other; at least one part."""
        columns = ([getattr(part, column.name) for part in parts] for column in fields(cls))
        return cls(*map(np.concatenate, columns))


def gather(bucket: Bucket, scored: MatchScores) -> Candidates:
    """The best proposals of a bucket's pairs; ground-truth rows are never among them.

    SettingsError for a matcher that has no embeddings.
    """
    if scored.source is None or scored.dests is None:
        raise SettingsError("this matcher looks at masks alone; it decides by `best`, no other way")
    similarity = scored.similarity.float()  # (B, R)
    bucket = bucket.to(similarity.device)
    allowed = bucket.is_proposal[bucket.group]
    best = similarity.masked_fill(~allowed, -torch.inf).topk(min(TOP, similarity.shape[1]), 1)
    proposal = best.indices - bucket.first_proposal[bucket.group][:, None]
    is_one = best.values > -torch.inf
    confidence = scored.confidence.double().cpu().numpy()
    return Candidates(
        pair=bucket.pair.cpu().numpy(),
        proposal=_to_top(proposal.where(is_one, -1), -1).cpu().numpy(),
        similarity=_to_top(best.values, -torch.inf).cpu().numpy(),
        confidence=np.where(is_one.any(dim=1).cpu().numpy(), confidence, 0.0),
        source=scored.source.half().cpu().numpy(),
        embedding=_rows(scored.dests, bucket.group, best.indices, is_one),
        look=_rows(_looks(bucket), bucket.group, best.indices, is_one),
        truth=_to_top(bucket.truth.ious.gather(1, best.indices) * is_one, 0).cpu().numpy(),
    )


def _looks(bucket: Bucket) -> Tensor:
    """(G, R, C): mask parts less the mean of the frame's proposals, which all things share."""
    parts = bucket.dests[..., : bucket.dests.shape[-1] // 2].float()
    weight = bucket.is_proposal[..., None].float()
    mean = (parts * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1)
    return F.normalize(parts - mean, dim=-1)


def _rows(table: Tensor, group: Tensor, rows: Tensor, is_one: Tensor) -> Float16:
    """(G, R, W), (B,), (B, k), (B, k) → (B, TOP, W)."""
    chosen = table[group[:, None], rows].half() * is_one[..., None]
    padded = F.pad(chosen, (0, 0, 0, TOP - rows.shape[1]))
    return np.asarray(padded.cpu().numpy(), np.float16)


def _to_top(values: Tensor, filler: float) -> Tensor:
    return F.pad(values, (0, TOP - values.shape[1]), value=filler)
