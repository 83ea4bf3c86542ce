"""A take followed through time: every picture encoded once, for all objects, cameras, directions.

Frames come in chunks, in the order of time, so that what is held is bounded whatever a take's
length: a chunk's features, its source memories and view features, and the tracks' banks. Pictures
and masks of the next chunk are read while one is followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from egoexo_tools.arrays import Bool, Bytes
from omama.features.images import normalise
from omama.lm_eec.bank import BankRules, TrackMemory
from omama.lm_eec.gpu import explain_full_gpu
from omama.lm_eec.network import ImageFeatures, LmEecNetwork, joined
from omama.lm_eec.pictures import read_squashed, squash_mask
from omama.lm_eec.tracking import TrackStep, advance
from omama.lm_eec.tracks import TakeTracks, Track

_READERS = 8
# Pictures whose features are held at once: 1.8 MB each in bfloat16, at 480 pixels.
_CHUNK_PICTURES = 64


@dataclass(frozen=True)
class TrackingSettings:
    """What does not depend on the take."""

    rules: BankRules
    device: torch.device
    bf16: bool
    batch: int
    """Tracks side by side, and pictures or masks encoded at once."""


@dataclass(frozen=True)
class TrackedFrame:
    """What the network says of some tracks in one frame; rows in the same order."""

    tracks: list[int]
    """Positions in the take's tracks."""
    places: list[int]
    """Of the frame in each track's list."""
    low_res_logits: torch.Tensor
    """(B, 4 grid, 4 grid) float32, on the device."""
    object_scores: torch.Tensor
    """(B,) float32, on the device."""


@dataclass(frozen=True)
class _Event:
    """One track in one frame."""

    track: int
    place: int
    frame_idx: int
    source: int
    """Position in the FrameTable."""
    dest: int
    mask: int


@dataclass(frozen=True)
class _Chunk:
    events: list[_Event]
    pictures: list[int]
    """Positions in the FrameTable, each once."""
    masks: dict[int, int]
    """Rows of FrameTable.masks, each once, with the positions of their pictures: an object that is
    looked for in several cameras is remembered once."""


@dataclass(frozen=True)
class _Reading:
    """A chunk's files, on their way."""

    pictures: list[Future[Bytes]]
    masks: list[Future[Bool]]


@torch.no_grad()
def track_objects(
    network: LmEecNetwork, take: TakeTracks, how: TrackingSettings
) -> Iterator[TrackedFrame]:
    """Every frame of every track whose source sees the object, in the order of time.

    Raises DataError for a picture that cannot be read, and where the GPU's memory is too small.
    """
    chunks = _chunks(take.tracks)
    memories = [TrackMemory(len(track)) for track in take.tracks]
    with ThreadPoolExecutor(_READERS) as readers, _advice(how.batch):
        size = network.config.image_size
        waiting = [_read(readers, take, chunk, size) for chunk in chunks[:1]]
        for number, chunk in enumerate(chunks):
            reading = waiting.pop()
            pictures = [picture.result() for picture in reading.pictures]
            masks = [mask.result() for mask in reading.masks]
            waiting += [_read(readers, take, later, size) for later in chunks[number + 1 :][:1]]
            with torch.autocast(how.device.type, torch.bfloat16, enabled=how.bf16):
                yield from _follow_chunk(network, memories, chunk, (pictures, masks), how)


def count_tracked_frames(track: Track) -> int:
    """Frames of a track that are run: those in which the source sees the object."""
    return int((track.source_masks >= 0).sum())


def _chunks(tracks: Sequence[Track]) -> list[_Chunk]:
    events = [
        _Event(number, place, *(int(value) for value in values))
        for number, track in enumerate(tracks)
        for place, values in enumerate(
            zip(track.frame_idxs, track.source_frames, track.dest_frames, track.source_masks,
                strict=True)
        )
        if values[3] >= 0
    ]  # fmt: skip
    events.sort(key=lambda event: (event.frame_idx, event.track))
    chunks: list[_Chunk] = []
    here: list[_Event] = []
    pictures: dict[int, None] = {}
    for at, event in enumerate(events):
        here.append(event)
        pictures |= {event.source: None, event.dest: None}
        last = at + 1 == len(events) or events[at + 1].frame_idx != event.frame_idx
        if last and (len(pictures) >= _CHUNK_PICTURES or at + 1 == len(events)):
            masks = {one.mask: one.source for one in here}
            chunks.append(_Chunk(here, list(pictures), masks))
            here, pictures = [], {}
    return chunks


def _read(readers: ThreadPoolExecutor, take: TakeTracks, chunk: _Chunk, size: int) -> _Reading:
    frames = take.frames
    return _Reading(
        [readers.submit(read_squashed, frames.path(frame), size) for frame in chunk.pictures],
        [readers.submit(squash_mask, frames.masks.rle(row), size) for row in chunk.masks],
    )


def _follow_chunk(
    network: LmEecNetwork,
    memories: list[TrackMemory],
    chunk: _Chunk,
    read: tuple[Sequence[Bytes], Sequence[Bool]],
    how: TrackingSettings,
) -> Iterator[TrackedFrame]:
    features = _encode(network, read[0], how)
    picture = {frame: number for number, frame in enumerate(chunk.pictures)}
    dests = torch.tensor([picture[event.dest] for event in chunk.events], device=how.device)
    memory, view = _look(network, chunk, features, read[1], how)
    for start, stop in _same_frame(chunk.events, how.batch):
        events, place = chunk.events[start:stop], slice(start, stop)
        step = TrackStep(
            [event.place for event in events],
            features.select(dests[place]),
            memory[:, place],
            view[place],
        )
        decoded = advance(network, [memories[event.track] for event in events], step, how.rules)
        yield TrackedFrame(
            [event.track for event in events],
            [event.place for event in events],
            decoded.low_res_logits,
            decoded.object_score,
        )


def _encode(
    network: LmEecNetwork, pictures: Sequence[Bytes], how: TrackingSettings
) -> ImageFeatures:
    parts = []
    for start in range(0, len(pictures), how.batch):
        batch = torch.from_numpy(np.stack(pictures[start : start + how.batch])).to(how.device)
        parts.append(network.encode_images(normalise(batch)))
    return joined(parts)


def _look(
    network: LmEecNetwork,
    chunk: _Chunk,
    features: ImageFeatures,
    masks: Sequence[Bool],
    how: TrackingSettings,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Source memories (n, E, 64) and view features (E, 256, grid, grid) of the chunk's events."""
    picture = {frame: number for number, frame in enumerate(chunk.pictures)}
    seen = {mask: number for number, mask in enumerate(chunk.masks)}
    sources = [picture[frame] for frame in chunk.masks.values()]
    places = torch.tensor([picture[event.dest] for event in chunk.events], device=how.device)
    memories = []
    for start in range(0, len(masks), how.batch):
        part = slice(start, start + how.batch)
        drawn = torch.from_numpy(np.stack(masks[part])).to(how.device).float()  # (B, S, S)
        memories.append(network.source_memory(features.stride16[sources[part]], drawn))
    memory = torch.cat(memories, 1)[:, [seen[event.mask] for event in chunk.events]]
    views = [
        network.view_feature(
            features.select(places[start : start + how.batch]),
            memory[:, start : start + how.batch],
        )
        for start in range(0, len(places), how.batch)
    ]
    return memory, torch.cat(views)


def _same_frame(events: Sequence[_Event], batch: int) -> Iterator[tuple[int, int]]:
    """Ranges of events of one frame, of at most `batch`."""
    start = 0
    for stop in range(1, len(events) + 1):
        full = stop - start == batch
        if full or stop == len(events) or events[stop].frame_idx != events[start].frame_idx:
            yield start, stop
            start = stop


def _advice(batch: int) -> AbstractContextManager[None]:
    smaller = f"--batch-pairs {batch // 2}" if batch > 1 else None
    return explain_full_gpu(f"{batch} tracks side by side", smaller)
