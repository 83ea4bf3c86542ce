"""The model on a batch of buckets: similarities of every pair, and the loss of a training step.

Legend: G frame pairs, S source masks, R destination rows, B pairs, K candidates, W channels of
the model, C channels of the backbone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egoexo_tools.errors import DataError
from omama.confidence import SHOWS
from omama.matching.config import TrainConfig
from omama.matching.losses import matching_loss, visibility_loss
from omama.matching.model import OMama, cosine
from omama.matching.samples import Bucket


@dataclass(frozen=True)
class Matches:
    """The model's output for the pairs of a bucket."""

    similarity: Tensor
    """(B, R) cosine of each pair's object and every destination row of its frame."""
    best_row: Tensor
    """(B,) row of the most similar proposal; meaningless where `best` is -inf."""
    best: Tensor
    """(B,) its similarity; -inf where the frame has no proposals."""
    source: Tensor
    """(B, W) embedding of the object."""
    candidate: Tensor
    """(B, W) embedding of the most similar proposal."""
    dests: Tensor
    """(G, R, W) embeddings of all destination rows."""


def compare_bucket(model: OMama, bucket: Bucket) -> Matches:
    """Compare all objects of the source frames with all rows of the destination frames."""
    sources = model.embed_sources(bucket.sources.float(), bucket.dest_tokens.float())  # (G, S, W)
    dests = model.embed_candidates(bucket.dests.float(), bucket.source_tokens.float())  # (G, R, W)
    table = cosine(sources, dests)  # (G, S, R)
    similarity = table[bucket.group, bucket.source_row]  # (B, R)
    proposals = similarity.detach().masked_fill(~bucket.is_proposal[bucket.group], -torch.inf)
    best, best_row = proposals.max(dim=1)
    return Matches(
        similarity=similarity,
        best_row=best_row,
        best=best,
        source=sources[bucket.group, bucket.source_row],
        candidate=dests[bucket.group, best_row],
        dests=dests,
    )


def without_object(matches: Matches, bucket: Bucket) -> Matches:
    """The matches as if each pair's object were absent: without the proposals that show it.

    `best` is -inf where no proposal remains, and where no proposal shows the object.
    """
    is_proposal = bucket.is_proposal[bucket.group]  # (B, R)
    shows = is_proposal & (bucket.truth.ious > SHOWS)
    remaining = matches.similarity.masked_fill(~(is_proposal & ~shows), -torch.inf)
    best, best_row = remaining.max(dim=1)
    return replace(
        matches,
        best=best.masked_fill(~shows.any(dim=1), -torch.inf),
        best_row=best_row,
        candidate=matches.dests[bucket.group, best_row],
    )


def descriptor_similarity(bucket: Bucket) -> Tensor:
    """(B, R) cosine of the descriptors' mask parts, the similarity of nearest neighbours."""
    return cosine(*descriptor_embeddings(bucket))[bucket.group, bucket.source_row]


def descriptor_embeddings(bucket: Bucket) -> tuple[Tensor, Tensor]:
    """The mask parts of sources and destinations as unit vectors, (G, S, C) and (G, R, C)."""
    width = bucket.sources.shape[-1] // 2
    sources = F.normalize(bucket.sources[..., :width].float(), dim=-1)
    dests = F.normalize(bucket.dests[..., :width].float(), dim=-1)
    return sources, dests


def visibility_logit(model: OMama, matches: Matches) -> Tensor:
    """(B,) log odds that the object is visible; no gradient reaches the embeddings."""
    logits = model.visibility_logits(matches.source.detach(), matches.candidate.detach())
    return (logits[:, 1] - logits[:, 0]).float()


class Objective(nn.Module):
    """The loss of a training step as a module, so that data parallelism can wrap it."""

    def __init__(self, model: OMama, config: TrainConfig, *, visible_share: float) -> None:
        """`visible_share` of the training pairs are visible; it balances the visibility loss."""
        super().__init__()
        self.model = model
        self.config = config
        self.trains_visibility = (
            config.visibility_weight > 0
            and model.mlp_visible is not None
            and 0.0 < visible_share < 1.0
        )
        self.visible_share = visible_share
        if not self.trains_visibility and model.mlp_visible is not None:
            model.mlp_visible.requires_grad_(False)

    def forward(self, buckets: Sequence[Bucket]) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss over all pairs of the buckets; no parts for the log."""
        device_type = buckets[0].sources.device.type
        pairs = sum(bucket.pair.numel() for bucket in buckets)
        bf16 = self.config.precision == "bf16"
        with torch.autocast(device_type, torch.bfloat16, enabled=bf16):
            losses = [self._bucket_loss(bucket) * bucket.pair.numel() for bucket in buckets]
        return torch.stack(losses).sum() / pairs, {}

    def _bucket_loss(self, bucket: Bucket) -> Tensor:
        if bucket.candidates is None:
            raise ValueError("a training step needs a bucket with candidates")
        matches = compare_bucket(self.model, bucket)
        visible = bucket.truth.visible
        similarity = matches.similarity.gather(1, bucket.candidates.rows)  # (B, K)
        similarity = similarity.masked_fill(~bucket.candidates.valid, -torch.inf)
        # The ground truth is always the first candidate (see samples.draw_candidates).
        first = torch.zeros_like(bucket.pair)
        temperature = self.config.temperature
        loss = matching_loss(similarity, first, visible, temperature=temperature)
        if self.trains_visibility:
            logit = visibility_logit(self.model, matches)
            visibility = visibility_loss(logit, visible, visible_share=self.visible_share)
            loss = loss + self.config.visibility_weight * visibility
        return loss


def first_bad_pair(model: OMama, buckets: Sequence[Bucket]) -> int:
    """Position in `Pairs` of the first pair with similarities that are not finite.

    If all are finite, the first pair.
    """
    with torch.no_grad():
        for bucket in buckets:
            finite = torch.isfinite(compare_bucket(model, bucket).similarity).all(dim=1)
            if not bool(finite.all()):
                return int(bucket.pair[int((~finite).nonzero()[0])])
    return int(buckets[0].pair[0])


@contextmanager
def explain_full_gpu(batch_pairs: int) -> Iterator[None]:
    """Turns running out of GPU memory into a DataError that suggests a batch size."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        smaller = max(1, batch_pairs // 2)
        raise DataError(
            f"the GPU ran out of memory with {batch_pairs} pairs a batch; try --batch-pairs "
            f"{smaller} (in training also twice the --accumulate, for the same step)"
        ) from error
