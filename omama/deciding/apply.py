"""From batches of pairs to decisions, one take after the other, so that memory holds one take."""

from collections.abc import Iterator

import numpy as np

from omama.confidence import LogisticConfidence, Scores
from omama.dataset import Dataset
from omama.deciding.candidates import Candidates, gather
from omama.deciding.chosen_proposals import TOP, ChosenProposals, join
from omama.deciding.clips import Clip, clips
from omama.deciding.decide import Belief, Mode, decide
from omama.deciding.decision import Fitted
from omama.deciding.links import link
from omama.deciding.visible import visible_scores
from omama.features.store import FeatureStore
from omama.matching.loading import frame_order, load_batches
from omama.matching.matchers import Matcher
from omama.matching.objective import explain_full_gpu


def take_by_take(
    dataset: Dataset,
    store: FeatureStore,
    matcher: Matcher,
    *,
    batch_pairs: int,
) -> Iterator[Candidates]:
    """The candidates of each take's pairs, when all of them are there."""
    takes = dataset.pairs.rows["take_uid"].to_numpy()
    batches = frame_order(dataset.pairs, batch_size=batch_pairs)
    parts: list[Candidates] = []
    for batch, buckets in zip(
        batches, load_batches(dataset.frames, dataset.pairs, batches, store), strict=True
    ):
        for bucket in buckets:
            with explain_full_gpu(batch_pairs):
                parts.append(gather(bucket, matcher(bucket)))
        # Batches follow the takes: only the last take of this one can go on in the next.
        held = Candidates.join(parts)
        goes_on = takes[held.pair] == takes[batch[-1]]
        if not goes_on.all():
            yield held.take(~goes_on)
            parts = [held.take(goes_on)]
    if parts:
        yield Candidates.join(parts)


def decide_take(dataset: Dataset, held: Candidates, mode: Mode, fitted: Fitted) -> ChosenProposals:
    """Decide the pairs of whole takes; those without a proposal are absent, as ever."""
    parts: list[ChosenProposals] = []
    for clip in clips(dataset, held):
        links = link(clip)
        belief = decide(clip, links, mode, fitted.parameters)
        scores = visible_scores(clip, links, belief, fitted.past)
        parts.append(_found(held, clip, belief, scores, fitted.visibility))
    return join(parts)


def _found(
    held: Candidates,
    clip: Clip,
    belief: Belief,
    scores: Scores,
    visibility: LogisticConfidence | None,
) -> ChosenProposals:
    at = clip.time, clip.item
    choice, order = belief.choice[at], _order(clip, belief)
    proposal = held.proposal[clip.row]
    if visibility is None:
        confidence = 1 - belief.absent[at].astype(np.float64)
    else:
        confidence = visibility.confidence(scores)[at]
    return ChosenProposals(
        pair=held.pair[clip.row],
        top=np.take_along_axis(proposal, order[:, :TOP], axis=1),
        similarity=np.where(choice < 0, -np.inf, scores["similarity"][at]),
        confidence=np.where(choice < 0, 0.0, confidence),
    )


def _order(clip: Clip, belief: Belief) -> np.ndarray:
    """(n, K) a pair's candidates, the chosen one first, then the likeliest; missing ones last."""
    at = clip.time, clip.item
    rank = np.where(clip.proposal[at] >= 0, belief.mass[at], -1.0)
    chosen = belief.choice[at]
    rows = np.flatnonzero(chosen >= 0)
    rank[rows, chosen[rows]] = 2.0
    return np.argsort(-rank, axis=1, kind="stable")
