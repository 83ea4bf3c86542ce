"""Tracking of a take: every picture is encoded once, for all objects, cameras and directions.

Frames are processed in chunks, in the order of time, so that GPU memory does not grow with the
length of a take: it holds the features, source memories and view features of a chunk, and the
tracks' banks. Threads read the pictures and masks one chunk ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from egoexo_tools.arrays import Bool, Bytes
from omama.features.images import normalise
from omama.lm_eec.bank import BankRules, TrackMemory
from omama.lm_eec.gpu import explain_full_gpu
from omama.lm_eec.network import LmEecNetwork, concatenate_features
from omama.lm_eec.pictures import read_squashed, squash_mask
from omama.lm_eec.tracking import TrackStep, advance
from omama.lm_eec.tracks import TakeTracks, Track

_READERS = 8
_CHUNK_PICTURES = 64
"""Pictures of a chunk, at least; the features of one have 1.8 MB in bfloat16 at 480 pixels."""


@dataclass(frozen=True)
class TrackingSettings:
    """Settings that do not depend on the take."""

    rules: BankRules
    device: torch.device
    bf16: bool
    batch: int
    """Number of tracks side by side, and of pictures or masks that are encoded at once."""


@dataclass(frozen=True)
class TrackedFrame:
    """Predictions for B tracks in one frame, in the same order."""

    tracks: list[int]
    """Positions in the take's tracks."""
    places: list[int]
    """Position of the frame in each track."""
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
    """Position of the source frame in the FrameTable."""
    dest: int
    """Position of the destination frame in the FrameTable."""
    mask: int
    """Row of FrameTable.masks."""


@dataclass(frozen=True)
class _Chunk:
    """Events of consecutive frames."""

    events: list[_Event]
    pictures: dict[int, int]
    """Position in the FrameTable → number in the chunk."""
    masks: dict[int, int]
    """Row of FrameTable.masks → position of its picture. An object that is predicted in several
    cameras has one source mask and one memory."""


@torch.no_grad()
def track_objects(
    network: LmEecNetwork, take: TakeTracks, settings: TrackingSettings
) -> Iterator[TrackedFrame]:
    """Predict every frame in which a track's source sees the object, in the order of time.

    Raises DataError for a picture that cannot be read, or if the GPU's memory is too small.
    """
    smaller = f"--batch-pairs {settings.batch // 2}" if settings.batch > 1 else None
    work = f"{settings.batch} tracks side by side"
    chunks = _make_chunks(take.tracks)
    memories = [TrackMemory(len(track)) for track in take.tracks]
    with ThreadPoolExecutor(_READERS) as readers, explain_full_gpu(work, smaller):
        size = network.config.image_size
        reading = [_read(readers, take, chunk, size) for chunk in chunks[:1]]
        for number, chunk in enumerate(chunks):
            picture_futures, mask_futures = reading.pop()
            pictures = [future.result() for future in picture_futures]
            masks = [future.result() for future in mask_futures]
            # Reading the next chunk starts before the network runs on this one.
            reading += [_read(readers, take, later, size) for later in chunks[number + 1 :][:1]]
            with torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.bf16):
                yield from _track_chunk(network, memories, chunk, pictures, masks, settings)


def count_tracked_frames(track: Track) -> int:
    """Number of a track's frames in which the source sees the object."""
    return int((track.source_masks >= 0).sum())


def _make_chunks(tracks: Sequence[Track]) -> list[_Chunk]:
    events = [
        _Event(number, place, *(int(value) for value in values))
        for number, track in enumerate(tracks)
        for place, values in enumerate(
            zip(track.frame_idxs, track.source_frames, track.dest_frames, track.source_masks,
                strict=True)
        )
        if values[3] >= 0
    ]  # fmt: skip
    # By time, because a track's frames must be run in order, and by frame, to share pictures.
    events.sort(key=lambda event: (event.frame_idx, event.track))
    chunks: list[_Chunk] = []
    chunk = _Chunk([], {}, {})
    for number, event in enumerate(events):
        chunk.events.append(event)
        for frame in (event.source, event.dest):
            chunk.pictures.setdefault(frame, len(chunk.pictures))
        chunk.masks[event.mask] = event.source
        # A chunk ends between two frames: all tracks of a frame go through the network together.
        last = number + 1 == len(events)
        if last or (
            events[number + 1].frame_idx != event.frame_idx
            and len(chunk.pictures) >= _CHUNK_PICTURES
        ):
            chunks.append(chunk)
            chunk = _Chunk([], {}, {})
    return chunks


def _read(
    readers: ThreadPoolExecutor, take: TakeTracks, chunk: _Chunk, size: int
) -> tuple[list[Future[Bytes]], list[Future[Bool]]]:
    """Start to read the pictures and masks of a chunk, in its order."""
    frames = take.frames
    return (
        [readers.submit(read_squashed, frames.path(frame), size) for frame in chunk.pictures],
        [readers.submit(squash_mask, frames.masks.rle(row), size) for row in chunk.masks],
    )


def _track_chunk(
    network: LmEecNetwork,
    memories: list[TrackMemory],
    chunk: _Chunk,
    pictures: Sequence[Bytes],
    masks: Sequence[Bool],
    settings: TrackingSettings,
) -> Iterator[TrackedFrame]:
    device, batch = settings.device, settings.batch
    features = concatenate_features(
        [
            network.encode_images(normalise(torch.from_numpy(np.stack(pictures[part])).to(device)))
            for part in _slices(len(pictures), batch)
        ]
    )
    sources = [chunk.pictures[frame] for frame in chunk.masks.values()]
    mask_memories = []
    for part in _slices(len(masks), batch):
        source_masks = torch.from_numpy(np.stack(masks[part])).to(device).float()  # (B, S, S)
        mask_memories.append(network.source_memory(features.stride16[sources[part]], source_masks))
    mask_number = {mask: number for number, mask in enumerate(chunk.masks)}
    mask_of_event = [mask_number[event.mask] for event in chunk.events]
    memory = torch.cat(mask_memories, 1)[:, mask_of_event]  # (n, E, 64)
    dests = torch.tensor([chunk.pictures[event.dest] for event in chunk.events], device=device)
    view = torch.cat(
        [
            network.view_feature(features.select(dests[part]), memory[:, part])
            for part in _slices(len(dests), batch)
        ]
    )  # (E, 256, grid, grid)
    for part in _frame_slices(chunk.events, batch):
        events = chunk.events[part]
        tracks, places = [event.track for event in events], [event.place for event in events]
        step = TrackStep(places, features.select(dests[part]), memory[:, part], view[part])
        decoded = advance(network, [memories[track] for track in tracks], step, settings.rules)
        yield TrackedFrame(tracks, places, decoded.low_res_logits, decoded.object_score)


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _frame_slices(events: Sequence[_Event], size: int) -> Iterator[slice]:
    """Slices of events of the same frame, of at most `size`."""
    start = 0
    for stop in range(1, len(events) + 1):
        full = stop - start == size
        if full or stop == len(events) or events[stop].frame_idx != events[start].frame_idx:
            yield slice(start, stop)
            start = stop
