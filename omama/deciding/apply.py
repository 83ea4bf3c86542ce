"""Apply a decision to a dataset, take by take, so that memory holds the candidates of one take."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from egoexo_tools.arrays import Float64, Int64
from omama.dataset import Dataset
from omama.deciding.candidates import Candidates, PairColumns, select_candidates
from omama.deciding.clips import make_clips
from omama.deciding.decide import Mode, decide, visibility_scores
from omama.deciding.decision import FittedMode
from omama.deciding.links import link_frames
from omama.features.store import FeatureStore
from omama.matching.loading import frame_order, load_batches
from omama.matching.matchers import Matcher
from omama.matching.objective import explain_full_gpu
from omama.matching.samples import Bucket

TOP_PROPOSALS = 5
"""Proposals that a prediction lists."""


@dataclass(frozen=True)
class ChosenProposals(PairColumns):
    """The proposals that are predicted for P pairs."""

    pair: Int64
    """(P,) positions in `Pairs`."""
    top: Int64
    """(P, TOP_PROPOSALS) proposal_idx in the destination frame, the chosen one first; -1 for
    padding."""
    similarity: Float64
    """(P,) of the chosen one."""
    confidence: Float64
    """(P,) that the object is visible, in 0..1; 0 without proposals."""


def choose_most_similar(bucket: Bucket, matcher: Matcher) -> ChosenProposals:
    """The most similar proposals of a bucket's pairs: the decision `best`."""
    scores = matcher(bucket)
    similarity = scores.similarity.float().cpu()
    is_proposal = bucket.is_proposal[bucket.group].cpu()
    count = min(TOP_PROPOSALS, similarity.shape[1])
    best = similarity.masked_fill(~is_proposal, -torch.inf).topk(count, 1)
    proposal_idxs = best.indices - bucket.first_proposal[bucket.group].cpu()[:, None]
    top = np.full((len(similarity), TOP_PROPOSALS), -1)
    top[:, :count] = proposal_idxs.where(best.values > -torch.inf, -1).numpy()
    confidence = scores.confidence.double().cpu().numpy()
    return ChosenProposals(
        pair=bucket.pair.cpu().numpy(),
        top=top,
        similarity=best.values[:, 0].double().numpy(),
        confidence=np.where(top[:, 0] < 0, 0.0, confidence),
    )


def candidates_by_take(
    dataset: Dataset, store: FeatureStore, matcher: Matcher, *, batch_pairs: int
) -> Iterator[Candidates]:
    """The candidates of one or more whole takes at a time."""
    takes = dataset.pairs.rows["take_uid"].to_numpy()
    batches = frame_order(dataset.pairs, batch_size=batch_pairs)
    loaded = load_batches(dataset.frames, dataset.pairs, batches, store)
    parts: list[Candidates] = []
    for batch, buckets in zip(batches, loaded, strict=True):
        for bucket in buckets:
            with explain_full_gpu(batch_pairs):
                parts.append(select_candidates(bucket, matcher(bucket)))
        candidates = Candidates.join(parts)
        # Batches follow the takes: only a batch's last take can continue in the next batch.
        continues = takes[candidates.pair] == takes[batch[-1]]
        if not continues.all():
            yield candidates.take(~continues)
            parts = [candidates.take(continues)]
    if parts:
        yield Candidates.join(parts)


def decide_takes(
    dataset: Dataset, candidates: Candidates, mode: Mode, fitted: FittedMode
) -> ChosenProposals:
    """Decide the pairs of whole takes. A pair without proposals is predicted absent."""
    parts: list[ChosenProposals] = []
    for clip in make_clips(dataset, candidates):
        links = link_frames(clip)
        belief = decide(clip, links, mode, fitted.parameters)
        scores = visibility_scores(clip, links, belief, fitted.past)
        if fitted.visibility is None:
            # Val had no visible pairs, or no absent ones.
            confidence = 1 - belief.absent.astype(np.float64)
        else:
            confidence = fitted.visibility.confidence(scores)
        pairs = clip.time, clip.item
        choice = belief.choice[pairs]
        # The chosen candidate first, then by probability, padding last.
        rank = np.where(clip.proposal[pairs] >= 0, belief.mass[pairs], -1.0)
        has_choice = np.flatnonzero(choice >= 0)
        rank[has_choice, choice[has_choice]] = 2.0
        order = np.argsort(-rank, axis=1, kind="stable")[:, :TOP_PROPOSALS]
        parts.append(
            ChosenProposals(
                pair=candidates.pair[clip.row],
                top=np.take_along_axis(candidates.proposal[clip.row], order, axis=1),
                similarity=np.where(choice < 0, -np.inf, scores["similarity"][pairs]),
                confidence=np.where(choice < 0, 0.0, confidence[pairs]),
            )
        )
    return ChosenProposals.join(parts)
