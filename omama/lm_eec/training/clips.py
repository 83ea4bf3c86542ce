"""Training clips: eight consecutive frames of a track, both views, with the masks of both.

The clips of an epoch and their augmentation are a function of (seed, epoch, place). A clip that
cannot be loaded stops the run with its name.
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
_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class ClipTrack:
    """A track with its frames that are annotated in both views."""

    take: TakeTracks
    track: Track
    places: Int64
    """(F,) places in the track, F at least eight."""
    starts: Int64
    """Positions in `places` where a clip can start: its first frame has a source mask."""

    @property
    def name(self) -> str:
        track = self.track
        return f"{self.take.take_uid}/{track.source_camera}>{track.dest_camera}/{track.object_name}"


@dataclass(frozen=True)
class TrainingClip:
    """One clip of T frames, on the CPU; views in the order source, destination."""

    pictures: Bytes
    """(2, T, S, S, 3) RGB."""
    masks: Bool
    """(2, T, S, S)"""
    factors: Float32
    """(2, T, 2, 3) factors of clip and frame, see `augmentation.recolour`."""
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
    """Seed of dropout and stochastic depth in the training step of this batch."""
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
    """Settings of all clips of a run."""

    size: int
    """Side of the squashed pictures in pixels."""
    seed: int
    augment: bool
    native: bool
    """As the released code: warp frames at their own size, and possibly only one of the views.
    False: warp the squashed frames, and both views or none."""


def load_clip_tracks(root: DatasetRoot, direction: Direction, split: Split) -> list[ClipTrack]:
    """The tracks of a split that are long enough; DataError if there are none."""
    tracks, short = [], 0
    for take in load_tracks(root, split, (direction,)):
        for track in take.tracks:
            places = np.flatnonzero(track.dest_annotated)
            starts = np.flatnonzero(
                track.source_masks[places[: max(0, len(places) - CLIP_LENGTH + 1)]] >= 0
            )
            if len(starts):
                tracks.append(ClipTrack(take, track, places, starts))
            else:
                short += 1
    if short:
        logger.warning(
            "%d %s tracks of %s are not used: they have fewer than %d frames annotated in both"
            " views, or none to start from", short, split, direction, CLIP_LENGTH,
        )  # fmt: skip
    if not tracks:
        raise DataError(
            f"{root.path} has no {split} track of {direction} with {CLIP_LENGTH} frames annotated"
            " in both views; LM-EEC needs clips of this length"
        )
    return tracks


def fingerprint(tracks: Sequence[ClipTrack]) -> str:
    """16 hex digits: a hash of the frames and masks that training uses."""
    digest = hashlib.sha256()
    for clip in tracks:
        digest.update(clip.name.encode())
        for values in (clip.track.frame_idxs[clip.places], clip.starts):
            digest.update(values.tobytes())
        for rows in (clip.track.source_masks, clip.track.dest_masks):
            # Boxes instead of masks: they change with nearly every mask and are quick to read.
            boxes = clip.take.frames.masks.boxes[rows[rows >= 0]]
            digest.update(boxes.tobytes())
    return digest.hexdigest()[:16]


def epoch_order(tracks: int, per_track: int, *, seed: int, epoch: int) -> Int64:
    """Every track `per_track` times, in a random order that depends on the epoch."""
    rng = np.random.default_rng((seed, epoch))
    return rng.permutation(np.repeat(np.arange(tracks), per_track))


def draw_clip(
    root: DatasetRoot, clip: ClipTrack, settings: ClipSettings, rng: np.random.Generator
) -> TrainingClip:
    """A random clip of a track. Raises DataError with the clip's name if it cannot be loaded."""
    # The order of draws is part of the recipe: another order would change all clips of a seed.
    start = int(rng.choice(clip.starts))
    places = clip.places[start : start + CLIP_LENGTH]
    augment = settings.augment
    geometry = draw_geometry(rng) if augment else Geometry()
    colours = draw_colours(rng, len(places)) if augment else plain_colours(len(places))
    name = f"{clip.name}, frames {[int(idx) for idx in clip.track.frame_idxs[places]]}"
    try:
        pictures, masks = _load_views(root, clip, places, geometry, settings)
    except (DataError, OSError, ValueError) as error:
        raise DataError(f"the clip {name} cannot be loaded: {error}") from error
    factors = np.stack(
        [np.broadcast_to(colours.clip, colours.frames.shape), colours.frames], 2
    )  # (2, T, 2, 3)
    return TrainingClip(pictures, masks, factors, colours.grey, name)


def load_batches(
    root: DatasetRoot,
    tracks: Sequence[ClipTrack],
    batches: Sequence[tuple[Int64, tuple[int, ...]]],
    settings: ClipSettings,
) -> Iterator[tuple[ClipBatch, int]]:
    """Batches of (positions in `tracks`, seed) → loaded batches with their sizes; reads ahead."""
    with ThreadPoolExecutor(_LOADERS) as loaders:

        def submit(batch: tuple[Int64, tuple[int, ...]]) -> list[Future[TrainingClip]]:
            rows, seeds = batch
            return [
                loaders.submit(
                    draw_clip, root, tracks[row], settings, np.random.default_rng((*seeds, place))
                )
                for place, row in enumerate(rows.tolist())
            ]

        loading = [submit(batch) for batch in batches[:_BATCHES_AHEAD]]
        try:
            for number, (rows, seeds) in enumerate(batches):
                clips = [clip.result() for clip in loading.pop(0)]
                if number + _BATCHES_AHEAD < len(batches):
                    loading.append(submit(batches[number + _BATCHES_AHEAD]))
                batch = ClipBatch(
                    pictures=torch.from_numpy(np.stack([clip.pictures for clip in clips], 1)),
                    masks=torch.from_numpy(np.stack([clip.masks for clip in clips], 1)),
                    factors=torch.from_numpy(np.stack([clip.factors for clip in clips], 1)),
                    grey=torch.tensor([clip.grey for clip in clips]),
                    seed=int(np.random.default_rng((*seeds, len(clips))).integers(2**62)),
                    names=tuple(clip.name for clip in clips),
                )
                yield batch, len(rows)
        finally:
            # The loop may stop in the middle of an epoch; batches that wait are not loaded then.
            loaders.shutdown(wait=False, cancel_futures=True)


def _load_views(
    root: DatasetRoot, clip: ClipTrack, places: Int64, geometry: Geometry, settings: ClipSettings
) -> tuple[Bytes, Bool]:
    """Pictures and masks of both views, without the warp if it empties a first mask."""
    track = clip.track
    views = ((track.source_frames, track.source_masks), (track.dest_frames, track.dest_masks))
    geometries = [geometry, geometry]
    if geometry.is_warp:
        source_emptied, dest_emptied = (
            rows[places[0]] >= 0 and not _mask(clip, int(rows[places[0]]), geometry, settings).any()
            for _, rows in views
        )
        if source_emptied or dest_emptied:
            # The released code warps the source before it checks the destination: if only the
            # destination is emptied, the two views of the clip differ.
            plain = geometry.without_warp()
            geometries = [plain if source_emptied or not settings.native else geometry, plain]
    pictures, masks = [], []
    for (frames, rows), view_geometry in zip(views, geometries, strict=True):
        pictures.append(
            [_picture(root, clip, int(frame), view_geometry, settings) for frame in frames[places]]
        )
        masks.append([_mask(clip, int(row), view_geometry, settings) for row in rows[places]])
    return np.array(pictures, np.uint8), np.array(masks, np.bool_)


def _picture(
    root: DatasetRoot, clip: ClipTrack, frame: int, geometry: Geometry, settings: ClipSettings
) -> Bytes:
    """(S, S, 3)"""
    frames, size = clip.take.frames, settings.size
    row = frames.rows.iloc[frame]
    original_hw = int(row["height"]), int(row["width"])
    if settings.native:
        warped = warp(np.asarray(read_rgb(frames.path(frame))), geometry, original_hw)
        small = Image.fromarray(warped).resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(small, np.uint8)
    camera = str(row["camera"])
    first = int(np.searchsorted(frames.rows["camera"].to_numpy(), camera))
    file = squashed_file(root, (clip.take.take_uid, camera), size)
    return warp(read_squashed_frame(file, frame - first), geometry, original_hw)


def _mask(clip: ClipTrack, row: int, geometry: Geometry, settings: ClipSettings) -> Bool:
    """(S, S); empty for row -1, a view in which the object is not visible."""
    size = settings.size
    if row < 0:
        return np.zeros((size, size), np.bool_)
    rle = clip.take.frames.masks.rle(row)
    if not geometry.is_warp and not geometry.mirrored:
        # Without augmentation the mask is exactly that of prediction.
        return squash_mask(rle, size)
    if settings.native:
        warped = warp_nearest(rle.decode().astype(np.uint8), geometry)
        return np.asarray(squash_to_shares(warped, size) >= 0.5)
    shares = np.rint(squash_to_shares(rle, size) * 255).astype(np.uint8)
    return np.asarray(warp(shares, geometry, (rle.height, rle.width)) >= 128)
