"""What a track remembers, and for how long: the two banks, their rule of dropping, the pointers.

A bank holds up to six memories of each view, oldest first. All functions here are of one track's
rules; the arithmetic on many tracks is tracking.py's. `BankRules` says which of three behaviours is
meant: training (a window, no dropping), the released code's inference, and ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from egoexo_tools.errors import DataError
from omama.lm_eec.config import BANK_LENGTH, CLIP_LENGTH

# The released code counts pointers of the last 15 frames, SAM 2's number.
_REFERENCE_POINTERS = 16


@dataclass(frozen=True)
class BankRules:
    """How a bank fills, and what the places in it mean."""

    drops: bool
    """From the eighth frame on the bank takes one memory and drops one; else a plain window."""
    newest_first: bool
    """The newest entry always has slot 0, as in training; else the oldest has slot 5."""
    across_gaps: bool
    """Frames that were not run leave no hole; else the window counts them, and the memory before
    a gap is lost."""
    pointer_frames: int
    """Pointers of fewer frames than this are read, and distances divided by one less."""
    short_tracks: bool
    """A track of fewer frames than `pointer_frames` counts by its own length."""


TRAINING = BankRules(False, True, False, CLIP_LENGTH, True)
REFERENCE = BankRules(True, False, False, _REFERENCE_POINTERS, True)
# Slots and distances as the weights were trained; a published checkpoint still meets banks that
# drop tokens, which its training never had, because its numbers are made with them.
DEFAULT = BankRules(True, True, True, CLIP_LENGTH, False)


@dataclass(frozen=True)
class FrameMemory:
    """One frame that was run."""

    frame: int
    """Its place in the track's list of frames."""
    memories: torch.Tensor
    """(2, n, 64): of the source and of the destination."""
    pointer: torch.Tensor
    """(256,)."""


@dataclass
class TrackMemory:
    """What one track has seen so far."""

    frames: int
    """Length of the track's list of frames."""
    bank: torch.Tensor | None = None
    """(2, T, n, 64) that the last frame used; None before the first and while it was empty."""
    runs: int = 0
    """Frames run so far."""
    recent: list[FrameMemory] = field(default_factory=list)
    """The last frames that were run, oldest first; never more than the rules can ask for."""

    def remember(self, seen: FrameMemory, bank: torch.Tensor | None) -> None:
        """Keep a frame that was just run with `bank`."""
        self.bank = bank
        self.runs += 1
        self.recent = [*self.recent[-_REFERENCE_POINTERS:], seen]


@dataclass(frozen=True)
class BankRead:
    """What a track's next frame reads; tracks with equal `key` go through the network together."""

    entries: list[torch.Tensor]
    """(2, n, 64) each, oldest first, to be stacked; one too many where `drop`."""
    drop: bool
    """The entries are to be compressed by one."""
    pointers: list[FrameMemory]
    """Nearest first."""
    distances: list[float]
    """One for each pointer, in [0, 1]."""

    @property
    def key(self) -> tuple[int, bool, int]:
        return len(self.entries), self.drop, len(self.pointers)


def wanted(memory: TrackMemory, frame: int, rules: BankRules) -> BankRead:
    """What frame `frame` of the track reads. DataError where the released code cannot go on."""
    entries, drop = _entries(memory, frame, rules)
    pointers, distances = _pointers(memory, frame, rules)
    return BankRead(entries, drop, pointers, distances)


def slots(length: int, rules: BankRules) -> list[int]:
    """The slot in time of each of a bank's `length` entries, oldest first."""
    oldest = length - 1 if rules.newest_first else BANK_LENGTH - 1
    return [oldest - place for place in range(length)]


def compress(bank: torch.Tensor) -> torch.Tensor:
    """(T, N, B, C) → (T - 1, N, B, C): each token drops the entry most like the one before it.

    For every token and track by itself, the later of the two neighbours in time with the smallest
    L2 distance (the first such) goes, and nothing is averaged: the oldest entry never goes.
    """
    if len(bank) < 2:
        raise ValueError(f"a bank of {len(bank)} entries has no two neighbours: nothing to drop")
    nearest = (bank[1:] - bank[:-1]).norm(dim=-1).argmin(0)  # (N, B)
    kept = torch.arange(len(bank) - 1, device=bank.device)[:, None, None]  # (T - 1, 1, 1)
    kept = kept + (kept > nearest)  # (T - 1, N, B)
    return bank.gather(0, kept[..., None].expand(*kept.shape, bank.shape[-1]))


def _entries(memory: TrackMemory, frame: int, rules: BankRules) -> tuple[list[torch.Tensor], bool]:
    if not rules.drops or memory.runs <= BANK_LENGTH:
        window = memory.recent[-BANK_LENGTH:]
        if not rules.across_gaps:
            window = [seen for seen in window if seen.frame >= frame - BANK_LENGTH]
        return [seen.memories for seen in window], False
    bank = [] if memory.bank is None else list(memory.bank.unbind(1))
    last = memory.recent[-1]
    if not rules.across_gaps and last.frame != frame - 1:
        return bank, False
    if not bank:
        raise DataError(
            f"frame {frame} follows a gap of {BANK_LENGTH}, at which LM-EEC's released code stops:"
            " predict without --reference-behaviour"
        )
    return [*bank, last.memories], True


def _pointers(
    memory: TrackMemory, frame: int, rules: BankRules
) -> tuple[list[FrameMemory], list[float]]:
    counted = rules.pointer_frames
    if rules.short_tracks:
        counted = min(counted, memory.frames)
    near = [seen for seen in reversed(memory.recent) if frame - seen.frame < counted]
    return near, [(frame - seen.frame) / (counted - 1) for seen in near]
