"""Buckets: the features of a batch of pairs, with their candidates, padded to tensors.

A batch consists of frame pairs, not of pairs: all objects of a source frame and all candidates of
a destination frame are embedded once, and each pair selects its rows. Frame pairs with different
token grids (portrait takes) go into different buckets, because their tokens cannot be stacked.

Legend: G frame pairs, S source masks, R destination rows (ground-truth masks, then proposals), B
pairs, K candidates of a pair, C channels, M ground-truth masks and N proposals of a frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from egoexo_tools.arrays import Bool, Int8, Int64
from omama.dataset import VISIBLE, FrameTable, Pairs
from omama.features.frame_features import FrameFeatures

NEAR, FAR, NEVER = range(3)
"""Ranks of proposals as negatives: neighbours of the object first, then others, or not at all."""


@dataclass(frozen=True)
class TensorRecord:
    """Base of dataclasses of tensors, which move to a device together."""

    def to(self, device: torch.device) -> Self:
        """The same record on a device; copies from pinned memory do not block."""
        values: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                values[item.name] = value.to(device, non_blocking=True)
            elif isinstance(value, TensorRecord):
                values[item.name] = value.to(device)
        return replace(self, **values)


@dataclass(frozen=True)
class Truth(TensorRecord):
    """The ground truth of a bucket's pairs. The loss and validation use it, the model does not."""

    visible: Tensor
    """(B,) bool"""
    ious: Tensor
    """(B, R) IoU of each proposal with the pair's ground truth; 0 for other rows."""


@dataclass(frozen=True)
class TrainingCandidates(TensorRecord):
    """The candidates that a training step compares with each of a bucket's objects."""

    rows: Tensor
    """(B, K) rows in `Bucket.dests`; the first one of a visible pair is the ground truth."""
    valid: Tensor
    """(B, K) bool; False for padding, where the frame has too few proposals."""


@dataclass(frozen=True)
class Bucket(TensorRecord):
    """Frame pairs of one grid size with their pairs."""

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
    candidates: TrainingCandidates | None = None
    """None in validation and prediction, which compare all rows."""


@dataclass(frozen=True)
class NegativeSampling:
    """How the candidates of a training pair are drawn; the fields are those of TrainConfig."""

    candidates: int
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
    """Buckets of a batch of pairs (positions), one for each grid size.

    `features` are those of the batch's frames. With `sampling` (and `rng`) each pair gets
    candidates.
    """
    frame_pairs = np.stack([pairs.source_frame[batch], pairs.dest_frame[batch]], axis=1)  # (B, 2)
    unique, position = np.unique(frame_pairs, return_inverse=True)
    grids = np.array([features[frame].tokens.shape[-2:] for frame in unique.tolist()])  # (F, 2)
    # NumPy 1 returns the inverse flat, NumPy 2 in the input's shape: reshape accepts both.
    grid_pairs = grids[position.reshape(frame_pairs.shape)].reshape(batch.size, 4)  # h w h' w'
    _, first, bucket = np.unique(grid_pairs, axis=0, return_index=True, return_inverse=True)
    return [
        _make_bucket(frames, pairs, batch[bucket.reshape(-1) == number], features, sampling, rng)
        for number in np.argsort(first)  # in the order of the batch
    ]


def _make_bucket(
    frames: FrameTable,
    pairs: Pairs,
    batch: Int64,
    features: Mapping[int, FrameFeatures],
    sampling: NegativeSampling | None,
    rng: np.random.Generator | None,
) -> Bucket:
    frame_pairs = np.stack([pairs.source_frame[batch], pairs.dest_frame[batch]], axis=1)  # (B, 2)
    groups, group = np.unique(frame_pairs, axis=0, return_inverse=True)  # (G, 2), (B,)
    group = group.reshape(-1)
    sources = [features[frame] for frame in groups[:, 0].tolist()]
    dests = [features[frame] for frame in groups[:, 1].tolist()]
    masks = np.array([len(dest.masks) for dest in dests])
    rows = np.array([len(dest.masks) + len(dest.proposals) for dest in dests])
    # At least one row of padding, for frames with neither masks nor proposals.
    row = np.arange(max(1, rows.max()))
    is_proposal = (row >= masks[:, None]) & (row < rows[:, None])  # (G, R)
    # The masks of a frame are consecutive in the table of all masks.
    truth = pairs.dest_mask[batch] - frames.masks.start[pairs.dest_frame[batch]]
    truth = np.where(pairs.dest_mask[batch] >= 0, truth, -1)
    candidates = None
    if sampling is not None and rng is not None:
        ranks = _stack([negative_ranks(dest, sampling) for dest in dests], NEVER)[group, truth]
        candidate_rows, valid = draw_candidates(
            rng, ranks, truth, masks[group], sampling.candidates
        )
        candidates = TrainingCandidates(torch.from_numpy(candidate_rows), torch.from_numpy(valid))
    source_row = pairs.source_mask[batch] - frames.masks.start[pairs.source_frame[batch]]
    ious = np.zeros((batch.size, row.size), np.float32)
    tables = [np.pad(d.relations.ious, ((0, 1), (len(d.masks), 0))) for d in dests]
    ious[:, : rows.max()] = _stack(tables, 0)[group, truth]
    return Bucket(
        source_tokens=torch.stack([source.tokens for source in sources]),
        dest_tokens=torch.stack([dest.tokens for dest in dests]),
        sources=_pad([source.masks for source in sources]),
        dests=_pad([torch.cat([dest.masks, dest.proposals]) for dest in dests]),
        is_proposal=torch.from_numpy(is_proposal),
        first_proposal=torch.from_numpy(masks),
        group=torch.from_numpy(group),
        source_row=torch.from_numpy(source_row),
        pair=torch.from_numpy(batch),
        truth=Truth(
            visible=torch.from_numpy(pairs.state[batch] == VISIBLE), ious=torch.from_numpy(ious)
        ),
        candidates=candidates,
    )


def _pad(rows: Sequence[Tensor]) -> Tensor:
    """(n_i, C) each → (G, max(1, n), C), zeros at the end."""
    padded = pad_sequence(list(rows), batch_first=True)
    return padded if padded.shape[1] else padded.new_zeros(len(rows), 1, padded.shape[2])


def _stack(tables: Sequence[NDArray[Any]], filler: float) -> NDArray[Any]:
    """(M_i + 1, n_i) each → (G, M + 1, n). Last rows stay last: an index of -1 selects them."""
    depth, width = np.max([table.shape for table in tables], axis=0)
    stacked = np.full((len(tables), depth, width), filler, tables[0].dtype)
    for i, table in enumerate(tables):
        stacked[i, : table.shape[0] - 1, : table.shape[1]] = table[:-1]
        stacked[i, -1, : table.shape[1]] = table[-1]
    return stacked


def negative_ranks(dest: FrameFeatures, sampling: NegativeSampling) -> Int8:
    """(M + 1, N): the rank of each proposal for each ground-truth mask; last, for an absent one."""
    relations = dest.relations
    masks, proposals = relations.ious.shape
    ranks = np.full((masks + 1, proposals), FAR, np.int8)
    if masks and proposals:
        ranks[:-1][relations.near] = NEAR
        # The proposal nearest to the truth is as good as the truth: as a negative it would teach
        # the opposite. The reference draws it like any neighbour.
        best_rank = NEAR if sampling.reference_behaviour else NEVER
        ranks[np.arange(masks), relations.best] = best_rank
        if sampling.negative_max_iou is not None and not sampling.reference_behaviour:
            ranks[:-1][relations.ious > sampling.negative_max_iou] = NEVER
    return ranks


def draw_candidates(
    rng: np.random.Generator, ranks: Int8, truth: Int64, first_proposal: Int64, count: int
) -> tuple[Int64, Bool]:
    """Draw candidates (B, count) as rows of `Bucket.dests`; also which are valid (B, count).

    ranks (B, N) has NEAR, FAR or NEVER for each proposal; truth (B,) is the row of the ground truth
    or -1. A visible pair gets the truth, then count - 1 negatives, near ones first and in random
    order among equals; an absent pair gets `count` random ones. The position of the truth does not
    matter to a cross entropy, so it is always the first.
    """
    visible = truth >= 0
    # Ranks are integers and the noise is below 1, so that sorting keeps the order of ranks and
    # shuffles equal ones, for all pairs at once.
    keys = rng.random(ranks.shape) + ranks  # (B, N)
    proposals = np.argsort(keys, axis=1)[:, :count]  # (B, <= count)
    valid = np.take_along_axis(ranks, proposals, axis=1) != NEVER
    padding = ((0, 0), (0, count - proposals.shape[1]))
    proposals, valid = np.pad(proposals, padding), np.pad(valid, padding)  # (B, count)
    rows = proposals + first_proposal[:, None]
    # Rolling by one moves the last negative to the place of the truth, which overwrites it.
    candidates = np.where(visible[:, None], np.roll(rows, 1, axis=1), rows)
    valid = np.where(visible[:, None], np.roll(valid, 1, axis=1), valid)
    candidates[visible, 0] = truth[visible]
    valid[visible, 0] = True
    return np.where(valid, candidates, 0), valid
