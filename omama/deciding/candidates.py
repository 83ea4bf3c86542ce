"""The best candidates of each pair after a matcher, with their embeddings and appearance.

Legend: P pairs, K candidates of a pair (TOP_CANDIDATES), W values of an embedding, C channels of
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

from egoexo_tools.arrays import Float16, Float32, Int64
from egoexo_tools.errors import SettingsError
from omama.matching.matchers import MatchScores
from omama.matching.samples import Bucket

TOP_CANDIDATES = 10
"""Candidates of a pair that a decision considers; the right one is nearly always among them."""


@dataclass(frozen=True)
class PairColumns:
    """Base of dataclasses of arrays with a row per pair."""

    def take(self, rows: NDArray[Any]) -> Self:
        """Some of the pairs, by position or by boolean mask."""
        return type(self)(*(getattr(self, column.name)[rows] for column in fields(self)))

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Concatenate at least one part."""
        columns = ([getattr(part, column.name) for part in parts] for column in fields(cls))
        return cls(*map(np.concatenate, columns))


@dataclass(frozen=True)
class Candidates(PairColumns):
    """The best candidates of P pairs."""

    pair: Int64
    """(P,) positions in `Pairs`."""
    proposal: Int64
    """(P, K) proposal_idx in the destination frame, the most similar first; -1 for padding."""
    similarity: Float32
    """(P, K), -inf for padding."""
    source_embedding: Float16
    """(P, W) unit embedding of the object."""
    embedding: Float16
    """(P, K, W) unit embeddings of the candidates; zeros for padding."""
    appearance: Float16
    """(P, K, C) mask parts of the descriptors minus the frame's mean, as unit vectors; zeros for
    padding."""
    iou: Float32
    """(P, K) IoU with the ground truth, 0 for padding. Only fitting uses it: clips, and with them
    all decisions, do not contain it."""


def select_candidates(bucket: Bucket, scores: MatchScores) -> Candidates:
    """The best proposals of a bucket's pairs; ground-truth rows are never among them.

    SettingsError for a matcher without embeddings.
    """
    if scores.source is None or scores.dests is None:
        raise SettingsError("this matcher uses masks alone; it can only decide by `best`")
    similarity = scores.similarity.float()  # (B, R)
    bucket = bucket.to(similarity.device)
    allowed = bucket.is_proposal[bucket.group]
    count = min(TOP_CANDIDATES, similarity.shape[1])
    best = similarity.masked_fill(~allowed, -torch.inf).topk(count, 1)
    proposal = best.indices - bucket.first_proposal[bucket.group][:, None]
    exists = best.values > -torch.inf
    # Without the frame's mean, its light and style do not make all of its objects look alike.
    mask_parts = bucket.dests[..., : bucket.dests.shape[-1] // 2].float()  # (G, R, C)
    weight = bucket.is_proposal[..., None].float()
    total = (mask_parts * weight).sum(dim=1, keepdim=True)
    mean = total / weight.sum(dim=1, keepdim=True).clamp(min=1)
    appearance = F.normalize(mask_parts - mean, dim=-1)
    return Candidates(
        pair=bucket.pair.cpu().numpy(),
        proposal=_pad(proposal.where(exists, -1), -1).cpu().numpy(),
        similarity=_pad(best.values, -torch.inf).cpu().numpy(),
        # Half precision, so that the candidates of a large take fit into RAM.
        source_embedding=scores.source.half().cpu().numpy(),
        embedding=_select_rows(scores.dests, bucket.group, best.indices, exists),
        appearance=_select_rows(appearance, bucket.group, best.indices, exists),
        iou=_pad(bucket.truth.ious.gather(1, best.indices) * exists, 0).cpu().numpy(),
    )


def _select_rows(table: Tensor, group: Tensor, rows: Tensor, exists: Tensor) -> Float16:
    """(G, R, W), (B,), (B, k), (B, k) → (B, TOP_CANDIDATES, W)."""
    values = table[group[:, None], rows].half() * exists[..., None]
    padded = F.pad(values, (0, 0, 0, TOP_CANDIDATES - rows.shape[1]))
    return np.asarray(padded.cpu().numpy(), np.float16)


def _pad(values: Tensor, filler: float) -> Tensor:
    """(B, k) → (B, TOP_CANDIDATES)."""
    return F.pad(values, (0, TOP_CANDIDATES - values.shape[1]), value=filler)
