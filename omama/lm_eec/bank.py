"""The memory banks of a track: what they hold, how they drop tokens, and which pointers are read.

A track has two banks, of the source and of the destination view, with up to six memories each,
oldest first. This module decides for one track; tracking.py computes for many. `BankRules`
describes three behaviours: training (a window without dropping), the released code's inference, and
ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from egoexo_tools.errors import DataError
from omama.lm_eec.config import BANK_LENGTH, CLIP_LENGTH

# The released code reads pointers of the last 15 frames, as SAM 2 does.
_REFERENCE_POINTERS = 16


@dataclass(frozen=True)
class BankRules:
    """How a bank is filled, and how its places map to temporal positions."""

    drops: bool
    """From the eighth frame on, the bank takes a memory and drops one per token; False: a window of
    the last frames."""
    newest_first: bool
    """The newest entry always has temporal position 0, as in training; False: the oldest has 5."""
    across_gaps: bool
    """Frames that were not run are skipped; False: the window counts them, and the memory before a
    gap is lost."""
    pointer_frames: int
    """Pointers at most this many frames back (exclusive) are read; distances are divided by one
    less."""
    short_tracks: bool
    """A track with fewer frames than `pointer_frames` uses its own length instead."""


TRAINING = BankRules(False, True, False, CLIP_LENGTH, True)
REFERENCE = BankRules(True, False, False, _REFERENCE_POINTERS, True)
# Temporal positions and distances as the weights were trained. Dropping was not part of training,
# but published numbers were made with it.
DEFAULT = BankRules(True, True, True, CLIP_LENGTH, False)


@dataclass(frozen=True)
class FrameMemory:
    """Memories of one frame that was run."""

    frame: int
    """Position in the track's list of frames."""
    memories: torch.Tensor
    """(2, n, 64): of the source and of the destination."""
    pointer: torch.Tensor
    """(256,) object pointer."""


@dataclass
class TrackMemory:
    """Memory of one track."""

    frames: int
    """Length of the track's list of frames."""
    bank: torch.Tensor | None = None
    """(2, T, n, 64) that the last frame read; None if it was empty, or before the first frame."""
    runs: int = 0
    """Number of frames run so far."""
    recent: list[FrameMemory] = field(default_factory=list)
    """The last frames that were run, oldest first; never more than the rules can read."""

    def add(self, memory: FrameMemory, bank: torch.Tensor | None) -> None:
        """Store the memory of a frame that was run with `bank`."""
        self.bank = bank
        self.runs += 1
        self.recent = [*self.recent[-_REFERENCE_POINTERS:], memory]


@dataclass(frozen=True)
class BankRead:
    """Input of a track's next frame from its bank. Tracks with equal `key` form a batch."""

    entries: list[torch.Tensor]
    """(2, n, 64) each, oldest first; one more than the bank holds if `drop`."""
    drop: bool
    """Whether one entry per token must be dropped."""
    pointers: list[FrameMemory]
    """Frames whose pointers are read, the most recent first."""
    distances: list[float]
    """Distance in time of each pointer, in [0, 1]."""

    @property
    def key(self) -> tuple[int, bool, int]:
        return len(self.entries), self.drop, len(self.pointers)


def read_bank(memory: TrackMemory, frame: int, rules: BankRules) -> BankRead:
    """Input of frame `frame` from the bank. DataError where the released code fails."""
    pointer_frames = rules.pointer_frames
    if rules.short_tracks:
        pointer_frames = min(pointer_frames, memory.frames)
    pointers = [item for item in reversed(memory.recent) if frame - item.frame < pointer_frames]
    distances = [(frame - item.frame) / (pointer_frames - 1) for item in pointers]
    entries, drop = _entries(memory, frame, rules)
    return BankRead(entries, drop, pointers, distances)


def temporal_positions(length: int, rules: BankRules) -> list[int]:
    """The temporal position of each of a bank's `length` entries, oldest first."""
    oldest = length - 1 if rules.newest_first else BANK_LENGTH - 1
    return [oldest - place for place in range(length)]


def compress(bank: torch.Tensor) -> torch.Tensor:
    """(T, N, B, C) → (T - 1, N, B, C): each token drops the entry most similar to its predecessor.

    For every token and track independently, the two neighbours in time with the smallest L2
    distance (the first such pair) are found and the later one is dropped. Entries are not averaged,
    and the oldest is never dropped.
    """
    if len(bank) < 2:
        raise ValueError(f"a bank of {len(bank)} entries has no two neighbours: nothing to drop")
    nearest = (bank[1:] - bank[:-1]).norm(dim=-1).argmin(0)  # (N, B)
    places = torch.arange(len(bank) - 1, device=bank.device)[:, None, None]  # (T - 1, 1, 1)
    places = places + (places > nearest)  # (T - 1, N, B)
    return bank.gather(0, places[..., None].expand(*places.shape, bank.shape[-1]))


def _entries(memory: TrackMemory, frame: int, rules: BankRules) -> tuple[list[torch.Tensor], bool]:
    """The entries that a frame reads, and whether one must be dropped."""
    if not rules.drops or memory.runs <= BANK_LENGTH:
        window = memory.recent[-BANK_LENGTH:]
        if not rules.across_gaps:
            window = [item for item in window if item.frame >= frame - BANK_LENGTH]
        return [item.memories for item in window], False
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
