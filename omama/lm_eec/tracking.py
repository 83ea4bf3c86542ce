"""Tracks step by step: many tracks side by side; tracks with banks of equal length form a batch.

A step is one frame of each of B tracks. The source view's memory and the view feature do not depend
on predictions, so that they are computed for many frames in one batch beforehand
(`encode_source`).
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
    read_bank,
    temporal_positions,
)
from omama.lm_eec.network import ABSENT_LOGIT, DecodedMasks, ImageFeatures, LmEecNetwork


@dataclass(frozen=True)
class TrackStep:
    """Inputs of one frame of B tracks, in the tracks' order."""

    frames: Sequence[int]
    """Position of the frame in each track's list of frames."""
    dest: ImageFeatures
    """Features of the destination's pictures."""
    source_memory: torch.Tensor
    """(n, B, 64) of the source in this frame."""
    view: torch.Tensor
    """(B, 256, grid, grid) view features."""

    def select(self, rows: list[int]) -> TrackStep:
        """The step of some of the tracks."""
        index = torch.tensor(rows, device=self.view.device)
        return TrackStep(
            [self.frames[row] for row in rows],
            self.dest.select(index),
            self.source_memory[:, index],
            self.view[index],
        )


def encode_source(
    network: LmEecNetwork, source: ImageFeatures, dest: ImageFeatures, masks: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Source memories (n, B, 64) and view features (B, 256, grid, grid) of B frames of any tracks.

    Features of both views; source masks (B, S, S) of 0 and 1.
    """
    memory = network.source_memory(source.stride16, masks)
    return memory, network.view_feature(dest, memory)


def advance(
    network: LmEecNetwork, memories: Sequence[TrackMemory], step: TrackStep, rules: BankRules
) -> DecodedMasks:
    """Run one frame of each track and add it to the track's memory; rows in the tracks' order."""
    reads = [
        read_bank(memory, frame, rules) for memory, frame in zip(memories, step.frames, strict=True)
    ]
    # Tracks of different lengths or with gaps read different numbers of entries and pointers.
    groups: dict[tuple[int, bool, int], list[int]] = {}
    for row, read in enumerate(reads):
        groups.setdefault(read.key, []).append(row)
    if len(groups) == 1:
        return _run(network, memories, step, reads, rules)
    parts = [
        _run(
            network, [memories[row] for row in rows], step.select(rows),
            [reads[row] for row in rows], rules,
        )
        for rows in groups.values()
    ]  # fmt: skip
    # The parts are in the groups' order; this is the inverse permutation.
    order = torch.tensor([row for rows in groups.values() for row in rows]).argsort()
    order = order.to(parts[0].iou.device)
    return DecodedMasks(
        torch.cat([part.low_res_logits for part in parts])[order],
        torch.cat([part.iou for part in parts])[order],
        torch.cat([part.object_score for part in parts])[order],
        torch.cat([part.pointer for part in parts])[order],
    )


def track_logits(
    model: LmEecNetwork,
    source_images: torch.Tensor,
    dest_images: torch.Tensor,
    source_masks: torch.Tensor,
    reference_behaviour: bool = True,
) -> tuple[list[int], torch.Tensor]:
    """Run one track: (frames, their logits (R, 4 grid, 4 grid)).

    Takes normalised pictures (T, 3, S, S) and source masks (T, S, S). A frame with an empty mask is
    not run: the released code omits it from the result, ours returns -1024 everywhere.
    """
    rules = REFERENCE if reference_behaviour else DEFAULT
    source, dest = (model.encode_images(images) for images in (source_images, dest_images))
    memory = TrackMemory(len(source_masks))
    logits = {}
    for frame, mask in enumerate(source_masks):
        if mask.any():
            row = torch.tensor([frame], device=source_masks.device)
            source_frame, dest_frame = source.select(row), dest.select(row)
            inputs = encode_source(model, source_frame, dest_frame, mask[None])
            step = TrackStep([frame], dest_frame, *inputs)
            logits[frame] = advance(model, [memory], step, rules).low_res_logits
    if reference_behaviour:
        none = dest.stride4.new_zeros((0, *dest.stride4.shape[2:]))
        return list(logits), torch.cat([none, *logits.values()])
    absent = dest.stride4.new_full((1, *dest.stride4.shape[2:]), ABSENT_LOGIT)
    frames = list(range(len(source_masks)))
    return frames, torch.cat([logits.get(frame, absent) for frame in frames])


def _run(
    network: LmEecNetwork,
    memories: Sequence[TrackMemory],
    step: TrackStep,
    reads: Sequence[BankRead],
    rules: BankRules,
) -> DecodedMasks:
    """One frame of tracks whose reads have equal keys."""
    banks = _stack_banks(reads)
    fused = step.view
    if banks is not None:
        positions = temporal_positions(banks.shape[1], rules)
        pointers = _stack_pointers(reads, step.view)
        memory_feature = network.memory_feature(step.dest, banks, positions, *pointers)
        fused = network.fusion(memory_feature, step.view)
    decoded = network.decode(fused, step.dest)
    dest_memory = network.dest_memory(step.dest.stride16, decoded)
    new = torch.stack([step.source_memory, dest_memory])  # (2, n, B, 64)
    for row, (memory, frame) in enumerate(zip(memories, step.frames, strict=True)):
        frame_memory = FrameMemory(frame, new[:, :, row], decoded.pointer[row])
        memory.add(frame_memory, None if banks is None else banks[:, :, :, row])
    return decoded


def _stack_banks(reads: Sequence[BankRead]) -> torch.Tensor | None:
    """(2, T, n, B, 64); None if the banks are empty."""
    if not reads[0].entries:
        return None
    tracks = [torch.stack(read.entries, 1) for read in reads]  # (2, T, n, 64) each
    banks = torch.stack(tracks, 3)  # (2, T, n, B, 64)
    if reads[0].drop:
        banks = torch.stack([compress(bank) for bank in banks])
    return banks


def _stack_pointers(
    reads: Sequence[BankRead], like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pointers (P, B, 256) and their distances (P, B), float32."""
    numbers = torch.tensor([read.distances for read in reads], dtype=torch.float32)
    # Without waiting for the copy: the GPU has enough kernels queued to go on.
    distances = numbers.to(like.device, non_blocking=True).T
    if not reads[0].pointers:
        return like.new_zeros((0, len(reads), like.shape[1])), distances
    tracks = [torch.stack([item.pointer for item in read.pointers]) for read in reads]
    return torch.stack(tracks, 1), distances
