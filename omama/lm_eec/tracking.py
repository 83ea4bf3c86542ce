"""Tracks through time: many side by side, those whose banks are equally long in one batch.

A step is one frame of each of B tracks. What a step needs of the source view (its memory, and the
view feature) depends on nothing predicted, so that it is made for many frames in one batch first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from omama.lm_eec.bank import (
    DEFAULT,
    REFERENCE,
    BankRead,
    BankRules,
    FrameMemory,
    TrackMemory,
    compress,
    slots,
    wanted,
)
from omama.lm_eec.network import ABSENT_LOGIT, DecodedMasks, ImageFeatures, LmEecNetwork


@dataclass(frozen=True)
class TrackStep:
    """One frame of B tracks, ready for the network; rows are in the tracks' order."""

    frames: Sequence[int]
    """Each track's place in its list of frames."""
    dest: ImageFeatures
    """Of the destination's pictures."""
    source_memory: torch.Tensor
    """(n, B, 64) of the source in this frame."""
    view: torch.Tensor
    """(B, 256, grid, grid): the destination seen through `source_memory`."""

    def select(self, rows: list[int]) -> TrackStep:
        """The step of some of the tracks."""
        index = torch.tensor(rows, device=self.view.device)
        return TrackStep(
            [self.frames[row] for row in rows],
            self.dest.select(index),
            self.source_memory[:, index],
            self.view[index],
        )


def look(
    network: LmEecNetwork, source: ImageFeatures, dest: ImageFeatures, masks: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Source memories (n, B, 64) and view features (B, 256, grid, grid) of B frames of any tracks.

    Features of both views; masks (B, S, S), 0 and 1, of the source.
    """
    memory = network.source_memory(source.stride16, masks)
    return memory, network.view_feature(dest, memory)


def advance(
    network: LmEecNetwork, memories: Sequence[TrackMemory], step: TrackStep, rules: BankRules
) -> DecodedMasks:
    """Run one frame of each track, whose memories are brought up to date; rows as the tracks'."""
    reads = [
        wanted(memory, frame, rules) for memory, frame in zip(memories, step.frames, strict=True)
    ]
    groups = _groups(reads)
    if len(groups) == 1:
        return _run(network, memories, step, reads, rules)
    answers = [
        _run(
            network, [memories[row] for row in rows], step.select(rows),
            [reads[row] for row in rows], rules,
        )
        for rows in groups
    ]  # fmt: skip
    return _reordered(answers, [row for rows in groups for row in rows])


def track_logits(
    model: LmEecNetwork,
    source_images: torch.Tensor,
    dest_images: torch.Tensor,
    source_masks: torch.Tensor,
    reference_behaviour: bool = True,
) -> tuple[list[int], torch.Tensor]:
    """One object through one track: (frames that were run, their logits (R, 4 grid, 4 grid)).

    Normalised pictures (T, 3, S, S) and source masks (T, S, S). A frame whose mask is empty is not
    run: the released code leaves it out of its answer, ours gives -1024 for all of it.
    """
    rules = REFERENCE if reference_behaviour else DEFAULT
    source, dest = (model.encode_images(images) for images in (source_images, dest_images))
    seen = [frame for frame, mask in enumerate(source_masks) if bool(mask.any())]
    memory = TrackMemory(len(source_masks))
    logits = {
        frame: _one(model, memory, frame, (source, dest), source_masks, rules) for frame in seen
    }
    if reference_behaviour and logits:
        return seen, torch.cat(list(logits.values()))
    if reference_behaviour:
        return seen, dest.stride4.new_zeros((0, *dest.stride4.shape[2:]))
    absent = dest.stride4.new_full((1, *dest.stride4.shape[2:]), ABSENT_LOGIT)
    frames = list(range(len(source_masks)))
    return frames, torch.cat([logits.get(frame, absent) for frame in frames])


def _one(
    network: LmEecNetwork,
    memory: TrackMemory,
    frame: int,
    features: tuple[ImageFeatures, ImageFeatures],
    masks: torch.Tensor,
    rules: BankRules,
) -> torch.Tensor:
    row = torch.tensor([frame], device=masks.device)
    source, dest = (part.select(row) for part in features)
    step = TrackStep([frame], dest, *look(network, source, dest, masks[row]))
    return advance(network, [memory], step, rules).low_res_logits


def _groups(reads: Sequence[BankRead]) -> list[list[int]]:
    """Rows of tracks that read banks and pointers of the same number."""
    groups: dict[tuple[int, bool, int], list[int]] = {}
    for row, read in enumerate(reads):
        groups.setdefault(read.key, []).append(row)
    return list(groups.values())


def _run(
    network: LmEecNetwork,
    memories: Sequence[TrackMemory],
    step: TrackStep,
    reads: Sequence[BankRead],
    rules: BankRules,
) -> DecodedMasks:
    """One frame of tracks that read equally much."""
    banks = _banks(reads)
    fused = step.view
    if banks is not None:
        remembered = network.memory_feature(
            step.dest, banks, slots(banks.shape[1], rules), *_pointers(reads, step.view)
        )
        fused = network.fusion(remembered, step.view)
    decoded = network.decode(fused, step.dest)
    new = torch.stack([step.source_memory, network.dest_memory(step.dest.stride16, decoded)])
    for row, (memory, frame) in enumerate(zip(memories, step.frames, strict=True)):
        seen = FrameMemory(frame, new[:, :, row], decoded.pointer[row])
        memory.remember(seen, None if banks is None else banks[:, :, :, row])
    return decoded


def _banks(reads: Sequence[BankRead]) -> torch.Tensor | None:
    """(2, T, n, B, 64); None where the tracks remember nothing."""
    if not reads[0].entries:
        return None
    tracks = [torch.stack(read.entries, 1) for read in reads]  # (2, T, n, 64) each
    banks = torch.stack(tracks, 3)  # (2, T, n, B, 64)
    if reads[0].drop:
        banks = torch.stack([compress(bank) for bank in banks])
    return banks


def _pointers(reads: Sequence[BankRead], like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pointers (P, B, 256) and their distances (P, B), float32."""
    # Not waited for: a GPU has its next kernels in line meanwhile.
    numbers = torch.tensor([read.distances for read in reads], dtype=torch.float32)
    distances = numbers.to(like.device, non_blocking=True).T
    if not reads[0].pointers:
        return like.new_zeros((0, len(reads), like.shape[1])), distances
    tracks = [torch.stack([seen.pointer for seen in read.pointers]) for read in reads]
    return torch.stack(tracks, 1), distances


def _reordered(answers: Sequence[DecodedMasks], rows: list[int]) -> DecodedMasks:
    """The groups' answers in the tracks' order."""
    order = torch.tensor(rows).argsort().to(answers[0].iou.device)
    return DecodedMasks(
        torch.cat([answer.low_res_logits for answer in answers])[order],
        torch.cat([answer.iou for answer in answers])[order],
        torch.cat([answer.object_score for answer in answers])[order],
        torch.cat([answer.pointer for answer in answers])[order],
    )
