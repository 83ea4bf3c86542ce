"""Clips to learn from: eight frames in a row of a track, both views, with the masks of both.

Which clips an epoch has, and what is drawn for each, follows from (seed, epoch, place) alone. A
clip that cannot be loaded stops the run with its name.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from egoexo_tools.arrays import Bool, Bytes, Float32, Int64
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.vocab import Direction, Split
from omama.lm_eec.config import CLIP_LENGTH
from omama.lm_eec.pictures import read_rgb, squash_mask, squash_to_shares
from omama.lm_eec.tracks import TakeTracks, Track, load_tracks
from omama.lm_eec.training.augmentation import (
    Geometry,
    draw_colours,
    draw_geometry,
    plain_colours,
    warp,
    warp_nearest,
)
from omama.lm_eec.training.frame_store import read_squashed_frame, squashed_file

logger = logging.getLogger(__name__)

_LOADERS = 8
_AHEAD = 2


@dataclass(frozen=True)
class ClipTrack:
    """A track as training sees it: its frames that were annotated in both views."""

    take: TakeTracks
    track: Track
    places: Int64
    """(F,) places in the track, F of at least eight."""
    starts: Int64
    """Of clips whose first frame has a source mask: positions in `places`."""

    @property
    def name(self) -> str:
        track = self.track
        return f"{self.take.take_uid}/{track.source_camera}>{track.dest_camera}/{track.object_name}"


@dataclass(frozen=True)
class TrainingClip:
    """One clip, on the CPU; T frames, views in the order source, destination."""

    pictures: Bytes
    """(2, T, S, S, 3) RGB."""
    masks: Bool
    """(2, T, S, S)"""
    factors: Float32
    """(2, T, 2, 3): of clip and frame, see `augmentation.recolour`."""
    grey: bool
    name: str


@dataclass(frozen=True)
class ClipBatch:
    """B clips."""

    pictures: torch.Tensor
    """(2, B, T, S, S, 3) uint8"""
    masks: torch.Tensor
    """(2, B, T, S, S) bool"""
    factors: torch.Tensor
    """(2, B, T, 2, 3)"""
    grey: torch.Tensor
    """(B,) bool"""
    seed: int
    """Of what is dropped while this batch is learnt."""
    names: tuple[str, ...]

    def to(self, device: torch.device) -> ClipBatch:
        return replace(
            self,
            pictures=self.pictures.to(device, non_blocking=True),
            masks=self.masks.to(device, non_blocking=True),
            factors=self.factors.to(device, non_blocking=True),
            grey=self.grey.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class ClipSettings:
    """What is the same for all clips of a run."""

    size: int
    seed: int
    augment: bool
    native: bool
    """Warp the kept frames at their own size, and give a warp up by halves, as the released code;
    else the stored small ones, and both views or none."""


def load_clip_tracks(root: DatasetRoot, direction: Direction, split: Split) -> list[ClipTrack]:
    """The tracks of a split that are long enough; DataError where none is."""
    found, short = [], 0
    for take in load_tracks(root, split, (direction,)):
        for track in take.tracks:
            places = np.flatnonzero(track.dest_annotated)
            starts = np.flatnonzero(
                track.source_masks[places[: max(0, len(places) - CLIP_LENGTH + 1)]] >= 0
            )
            if len(starts):
                found.append(ClipTrack(take, track, places, starts))
            else:
                short += 1
    if short:
        logger.warning(
            "%d %s tracks of %s have fewer than %d frames annotated in both views, or none to"
            " start from: not learnt from", short, split, direction, CLIP_LENGTH,
        )  # fmt: skip
    if not found:
        raise DataError(
            f"{root.path} has no {split} track of {direction} with {CLIP_LENGTH} frames annotated"
            " in both views; LM-EEC learns from nothing shorter"
        )
    return found


def fingerprint(tracks: Sequence[ClipTrack]) -> str:
    """Changes with the frames and masks that are learnt from."""
    digest = hashlib.sha256()
    for clip in tracks:
        digest.update(clip.name.encode())
        for values in (clip.track.frame_idxs[clip.places], clip.starts):
            digest.update(values.tobytes())
        for rows in (clip.track.source_masks, clip.track.dest_masks):
            boxes = clip.take.frames.masks.boxes[rows[rows >= 0]]
            digest.update(boxes.tobytes())
    return digest.hexdigest()[:16]


def epoch_order(tracks: int, per_track: int, *, seed: int, epoch: int) -> Int64:
    """Every track `per_track` times, in an order of the epoch's own."""
    rng = np.random.default_rng((seed, epoch))
    return rng.permutation(np.repeat(np.arange(tracks), per_track))


def draw_clip(
    root: DatasetRoot, clip: ClipTrack, how: ClipSettings, rng: np.random.Generator
) -> TrainingClip:
    """One clip of a track. Raises DataError, with the clip's name, where it cannot be loaded."""
    start = int(rng.choice(clip.starts))
    places = clip.places[start : start + CLIP_LENGTH]
    geometry = draw_geometry(rng) if how.augment else Geometry()
    colours = draw_colours(rng, len(places)) if how.augment else plain_colours(len(places))
    name = f"{clip.name}, frames {[int(idx) for idx in clip.track.frame_idxs[places]]}"
    try:
        pictures, masks = _drawn(root, clip, places, geometry, how)
    except (DataError, OSError, ValueError) as error:
        raise DataError(f"the clip {name} cannot be loaded: {error}") from error
    factors = np.stack([np.broadcast_to(colours.clip, colours.frames.shape), colours.frames], 2)
    return TrainingClip(pictures, masks, factors, colours.grey, name)


def load_batches(
    root: DatasetRoot,
    tracks: Sequence[ClipTrack],
    batches: Sequence[tuple[Int64, tuple[int, ...]]],
    how: ClipSettings,
) -> Iterator[tuple[ClipBatch, int]]:
    """Batches of (tracks, the batch's seeds) → loaded ones, read ahead, with their sizes."""
    with ThreadPoolExecutor(_LOADERS) as loaders:

        def submit(batch: tuple[Int64, tuple[int, ...]]) -> list[Future[TrainingClip]]:
            rows, seeds = batch
            return [
                loaders.submit(
                    draw_clip, root, tracks[row], how, np.random.default_rng((*seeds, place))
                )
                for place, row in enumerate(rows.tolist())
            ]

        waiting = [submit(batch) for batch in batches[:_AHEAD]]
        try:
            for number, (rows, seeds) in enumerate(batches):
                clips = [clip.result() for clip in waiting.pop(0)]
                if number + _AHEAD < len(batches):
                    waiting.append(submit(batches[number + _AHEAD]))
                yield _collated(clips, seeds), len(rows)
        finally:
            loaders.shutdown(wait=False, cancel_futures=True)


def _collated(clips: Sequence[TrainingClip], seeds: tuple[int, ...]) -> ClipBatch:
    return ClipBatch(
        pictures=torch.from_numpy(np.stack([clip.pictures for clip in clips], 1)),
        masks=torch.from_numpy(np.stack([clip.masks for clip in clips], 1)),
        factors=torch.from_numpy(np.stack([clip.factors for clip in clips], 1)),
        grey=torch.tensor([clip.grey for clip in clips]),
        seed=int(np.random.default_rng((*seeds, len(clips))).integers(2**62)),
        names=tuple(clip.name for clip in clips),
    )


def _drawn(
    root: DatasetRoot, clip: ClipTrack, places: Int64, geometry: Geometry, how: ClipSettings
) -> tuple[Bytes, Bool]:
    """Pictures and masks of both views; the warp is given up where it empties a first mask."""
    track = clip.track
    ends = ((track.source_frames, track.source_masks), (track.dest_frames, track.dest_masks))
    geometries = _kept_warps(clip, [rows[places[0]] for _, rows in ends], geometry, how)
    pictures = [
        [_picture(root, clip, int(frame), g, how) for frame in frames[places]]
        for (frames, _), g in zip(ends, geometries, strict=True)
    ]
    masks = [
        [_mask(clip, int(row), g, how) for row in rows[places]]
        for (_, rows), g in zip(ends, geometries, strict=True)
    ]
    return np.array(pictures, np.uint8), np.array(masks, np.bool_)


def _kept_warps(
    clip: ClipTrack, first_masks: Sequence[int], geometry: Geometry, how: ClipSettings
) -> tuple[Geometry, Geometry]:
    """The geometry of each view. The released code warps the source before it looks at the
    destination: there the views may come to differ."""
    emptied = [
        row >= 0 and geometry.is_warp and not _mask(clip, int(row), geometry, how).any()
        for row in first_masks
    ]
    plain = geometry.without_warp()
    if emptied[0]:
        return plain, plain
    if emptied[1]:
        return (geometry if how.native else plain), plain
    return geometry, geometry


def _picture(
    root: DatasetRoot, clip: ClipTrack, frame: int, geometry: Geometry, how: ClipSettings
) -> Bytes:
    frames = clip.take.frames
    row = frames.rows.iloc[frame]
    like = int(row["height"]), int(row["width"])
    if how.native:
        turned = warp(np.asarray(read_rgb(frames.path(frame))), geometry, like)
        small = Image.fromarray(turned).resize((how.size, how.size), Image.Resampling.BILINEAR)
        return np.asarray(small, np.uint8)
    camera = str(row["camera"])
    first = int(np.searchsorted(frames.rows["camera"].to_numpy(), camera))
    stored = squashed_file(root, (clip.take.take_uid, camera), how.size)
    return warp(read_squashed_frame(stored, frame - first), geometry, like)


def _mask(clip: ClipTrack, row: int, geometry: Geometry, how: ClipSettings) -> Bool:
    """(S, S); row -1 is a view that does not see the object."""
    if row < 0:
        return np.zeros((how.size, how.size), np.bool_)
    rle = clip.take.frames.masks.rle(row)
    if not geometry.is_warp and not geometry.mirrored:
        return squash_mask(rle, how.size)
    if how.native:
        turned = warp_nearest(rle.decode().astype(np.uint8), geometry)
        return np.asarray(squash_to_shares(turned, how.size) >= 0.5)
    soft = np.rint(squash_to_shares(rle, how.size) * 255).astype(np.uint8)
    return np.asarray(warp(soft, geometry, (rle.height, rle.width)) >= 128)
