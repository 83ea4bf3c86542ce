"""From the features of frames to a batch of pairs: candidates drawn, everything padded.

A batch holds frame pairs, not pairs: all objects of a source frame and all candidates of a
destination frame are embedded once, and each pair picks its rows. Frame pairs of different token
grids (portrait takes) go to different buckets, since their tokens cannot be stacked.

Legend: G frame pairs, S source masks, R destination rows (ground-truth masks, then proposals), B
pairs, K candidates of a pair, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from egoexo_tools.arrays import Bool, Float32, Int8, Int64
from omama.dataset import VISIBLE, FrameTable, Pairs
from omama.features.frame_features import FrameFeatures

NEAR, FAR, NEVER = range(3)
"""Rank of a proposal as a negative: neighbours first, then the others."""


@dataclass(frozen=True)
class Truth:
    """What is known of a bucket's pairs; loss and validation look at it, the model never."""

    visible: Tensor
    """(B,) bool"""
    ious: Tensor
    """(B, R) IoU of each row's mask with the pair's ground truth; 0 but for proposals."""

    def to(self, device: torch.device) -> Self:
        return _moved(self, device)


@dataclass(frozen=True)
class Drawn:
    """The candidates that a training step compares each of a bucket's objects with."""

    candidates: Tensor
    """(B, K) rows in `Bucket.dests`; of a visible pair the first is the ground truth."""
    valid: Tensor
    """(B, K) bool; False where the frame had too few proposals."""

    def to(self, device: torch.device) -> Self:
        return _moved(self, device)


@dataclass(frozen=True)
class Bucket:
    """Frame pairs of one grid size with their pairs: what the model sees, then what it does not."""

    source_tokens: Tensor
    """(G, C, h, w)"""
    dest_tokens: Tensor
    """(G, C, h', w')"""
    sources: Tensor
    """(G, S, 2C) descriptors of the source frames' masks."""
    dests: Tensor
    """(G, R, 2C) descriptors of the destination frames' masks and proposals."""
    is_proposal: Tensor
    """(G, R) bool; False for ground truth and padding."""
    first_proposal: Tensor
    """(G,) row of proposal 0."""
    group: Tensor
    """(B,) the frame pair of each pair."""
    source_row: Tensor
    """(B,) row in `sources`."""
    pair: Tensor
    """(B,) position in `Pairs`."""
    truth: Truth
    drawn: Drawn | None = None
    """None where all rows are compared: in validation and prediction."""

    def to(self, device: torch.device) -> Self:
        return _moved(self, device)


Record = TypeVar("Record", bound="Truth | Drawn | Bucket")


def _moved(record: Record, device: torch.device) -> Record:
    """The same record with its tensors on a device; copies from pinned memory run alongside."""
    moved: dict[str, Any] = {}
    for item in fields(record):
        value = getattr(record, item.name)
        if isinstance(value, Tensor):
            moved[item.name] = value.to(device, non_blocking=True)
        elif value is not None:
            moved[item.name] = value.to(device)
    return type(record)(**moved)


@dataclass(frozen=True)
class NegativeSampling:
    """Which candidates a training sample gets, and which proposals are no negatives of it."""

    count: int
    negative_max_iou: float | None
    reference_behaviour: bool


def make_buckets(
    frames: FrameTable,
    pairs: Pairs,
    batch: Int64,
    features: Mapping[int, FrameFeatures],
    *,
    sampling: NegativeSampling | None = None,
    rng: np.random.Generator | None = None,
) -> list[Bucket]:
    """A batch of pairs (indices) with the features of its frames, one bucket a grid size.

    With `sampling` (and `rng`) each pair gets its candidates.
    """
    ends = np.stack([pairs.source_frame[batch], pairs.dest_frame[batch]], axis=1)  # (B, 2)
    known, position = np.unique(ends, return_inverse=True)
    grids = np.array([features[frame].tokens.shape[-2:] for frame in known.tolist()])  # (F, 2)
    # NumPy 1 gives the inverse flat, NumPy 2 in the input's shape: reshape bears both.
    both = grids[position.reshape(ends.shape)].reshape(batch.size, 4)  # (B, h w h' w')
    _, first, bucket = np.unique(both, axis=0, return_index=True, return_inverse=True)
    return [
        _bucket(frames, pairs, batch[bucket.reshape(-1) == number], features, sampling, rng)
        for number in np.argsort(first)  # in the order in which the batch has them
    ]


def _bucket(
    frames: FrameTable,
    pairs: Pairs,
    batch: Int64,
    features: Mapping[int, FrameFeatures],
    sampling: NegativeSampling | None,
    rng: np.random.Generator | None,
) -> Bucket:
    ends = np.stack([pairs.source_frame[batch], pairs.dest_frame[batch]], axis=1)  # (B, 2)
    groups, group = np.unique(ends, axis=0, return_inverse=True)  # (G, 2), (B,)
    group = group.reshape(-1)
    sources = [features[frame] for frame in groups[:, 0].tolist()]
    dests = [features[frame] for frame in groups[:, 1].tolist()]
    masks = np.array([len(dest.masks) for dest in dests])
    rows = np.array([len(dest.masks) + len(dest.proposals) for dest in dests])
    # At least one row, of padding where there is neither a mask nor a proposal.
    column = np.arange(max(1, rows.max()))
    is_proposal = (column >= masks[:, None]) & (column < rows[:, None])  # (G, R)
    # Masks of a frame lie together in the table of all masks: a row there less the frame's first.
    truth = pairs.dest_mask[batch] - frames.masks.start[pairs.dest_frame[batch]]
    truth = np.where(pairs.dest_mask[batch] >= 0, truth, -1)
    drawn = None
    if sampling is not None and rng is not None:
        ranks = _ranks(dests, group, truth, sampling)
        candidates, valid = draw_candidates(rng, ranks, truth, masks[group], sampling.count)
        drawn = Drawn(torch.from_numpy(candidates), torch.from_numpy(valid))
    source_row = pairs.source_mask[batch] - frames.masks.start[pairs.source_frame[batch]]
    return Bucket(
        source_tokens=torch.stack([source.tokens for source in sources]),
        dest_tokens=torch.stack([dest.tokens for dest in dests]),
        sources=_padded([source.masks for source in sources]),
        dests=_padded([torch.cat([dest.masks, dest.proposals]) for dest in dests]),
        is_proposal=torch.from_numpy(is_proposal),
        first_proposal=torch.from_numpy(masks),
        group=torch.from_numpy(group),
        source_row=torch.from_numpy(source_row),
        pair=torch.from_numpy(batch),
        truth=Truth(
            visible=torch.from_numpy(pairs.state[batch] == VISIBLE),
            ious=torch.from_numpy(_ious(dests, group, truth, column.size)),
        ),
        drawn=drawn,
    )


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """(n_i, C) each → (G, max(1, n), C), zeros behind."""
    padded = pad_sequence(list(rows), batch_first=True)
    return padded if padded.shape[1] else padded.new_zeros(len(rows), 1, padded.shape[2])


def draw_candidates(
    rng: np.random.Generator,
    ranks: Int8,
    truth: Int64,
    first_proposal: Int64,
    count: int,
) -> tuple[Int64, Bool]:
    """Candidates (B, count) as rows of `Bucket.dests`, and which of them are valid (B, count).

    ranks (B, N) says for each proposal NEAR, FAR or NEVER; truth (B,) is the row of the ground
    truth or -1. Visible: the truth, then count - 1 negatives, near ones first and at random
    among equals. Not visible: `count` random ones. The truth's place does not matter to a cross
    entropy, so it is always the first.
    """
    visible = truth >= 0
    # Ranks are whole numbers and the noise below 1: sorting keeps the order of ranks and shuffles
    # within each, for all pairs at once.
    keys = rng.random(ranks.shape) + ranks  # (B, N)
    drawn = np.argsort(keys, axis=1)[:, :count]  # (B, <= count)
    valid = np.take_along_axis(ranks, drawn, axis=1) != NEVER
    short = ((0, 0), (0, count - drawn.shape[1]))
    drawn, valid = np.pad(drawn, short), np.pad(valid, short)  # (B, count)
    rows = drawn + first_proposal[:, None]
    # Rolled by one, the last negative makes room for the truth; it is overwritten at once.
    candidates = np.where(visible[:, None], np.roll(rows, 1, axis=1), rows)
    valid = np.where(visible[:, None], np.roll(valid, 1, axis=1), valid)
    candidates[visible, 0] = truth[visible]
    valid[visible, 0] = True
    return np.where(valid, candidates, 0), valid


def _ranks(
    dests: Sequence[FrameFeatures], group: Int64, truth: Int64, sampling: NegativeSampling
) -> Int8:
    """(B, N) rank of every proposal of each pair's destination frame; padding is NEVER."""
    tables = [frame_ranks(dest, sampling) for dest in dests]  # (M + 1, n) each
    width = max(table.shape[1] for table in tables)
    depth = max(table.shape[0] for table in tables)
    padded = np.full((len(tables), depth, width), NEVER, np.int8)
    for i, table in enumerate(tables):
        # The last row is that of "not visible", which truth = -1 picks.
        padded[i, : table.shape[0] - 1, : table.shape[1]] = table[:-1]
        padded[i, -1, : table.shape[1]] = table[-1]
    return padded[group, truth]


def _ious(dests: Sequence[FrameFeatures], group: Int64, truth: Int64, rows: int) -> Float32:
    """(B, R); the last row of each frame's table, which truth = -1 picks, stays zero."""
    depth = max(len(dest.masks) for dest in dests) + 1
    padded = np.zeros((len(dests), depth, rows), np.float32)
    for i, dest in enumerate(dests):
        masks, proposals = dest.relations.ious.shape
        padded[i, :masks, masks : masks + proposals] = dest.relations.ious
    return padded[group, truth]


def frame_ranks(dest: FrameFeatures, sampling: NegativeSampling) -> Int8:
    """(M + 1, N): the rank of each proposal for each ground-truth mask, then for none."""
    relations = dest.relations
    masks, proposals = relations.ious.shape
    ranks = np.full((masks + 1, proposals), FAR, np.int8)
    if masks and proposals:
        ranks[:-1][relations.near] = NEAR
        at = np.arange(masks)
        # The proposal nearest the truth is as good as the truth: called a negative it would teach
        # the opposite. The reference draws it like any neighbour.
        ranks[at, relations.best] = NEAR if sampling.reference_behaviour else NEVER
        if sampling.negative_max_iou is not None and not sampling.reference_behaviour:
            ranks[:-1][relations.ious > sampling.negative_max_iou] = NEVER
    return ranks
