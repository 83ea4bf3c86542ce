"""LM-EEC as the training loop sees it: batches of clips, the loss, and validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from egoexo_tools.arrays import Bool, Float64
from egoexo_tools.layout import DatasetRoot
from omama.confidence import fit_mask_confidence
from omama.config import IMAGENET_MEAN, IMAGENET_STD
from omama.lm_eec.bank import DEFAULT
from omama.lm_eec.network import LmEecNetwork
from omama.lm_eec.pictures import squash_mask
from omama.lm_eec.settings import LmEecTrainConfig
from omama.lm_eec.take_tracking import TrackingSettings, track_objects
from omama.lm_eec.tracks import TakeTracks, Track
from omama.lm_eec.training.augmentation import recolour
from omama.lm_eec.training.clips import (
    ClipBatch,
    ClipSettings,
    ClipTrack,
    epoch_order,
    fingerprint,
    load_batches,
)
from omama.lm_eec.training.losses import clip_losses, run_clips
from omama.lm_eec.training.rates import parameter_groups
from omama.lm_eec.weights import METHOD, describe
from omama.task import LoopConfig, Task, ValScore

# Frames of a val track that a validation follows: two clips' worth, so that banks are compressed.
_VAL_FRAMES = 16


@dataclass(frozen=True)
class ClipTrainingData:
    """What a run learns from."""

    root: DatasetRoot
    train: Sequence[ClipTrack]
    val: Sequence[TakeTracks]
    """Of each track the frames that a validation follows."""


class ClipModule(nn.Module):
    """Batch of clips → loss: what data parallelism wraps."""

    def __init__(self, network: LmEecNetwork, *, bf16: bool) -> None:
        super().__init__()
        self.network = network
        self.bf16 = bf16

    def forward(self, batch: ClipBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        # What is dropped follows from the batch alone, so that a resumed run drops the same.
        torch.manual_seed(batch.seed)
        source, dest = prepare_pictures(batch)
        source_masks, dest_masks = batch.masks
        device = batch.masks.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16):
            answers = run_clips(self.network, source, dest, source_masks)
        losses = clip_losses(self.network, answers, dest_masks)
        parts = {
            name: getattr(losses, name).detach() for name in ("mask", "dice", "iou", "present")
        }
        return losses.total, parts


def prepare_pictures(batch: ClipBatch) -> torch.Tensor:
    """(2, B, T, 3, S, S) float32: recoloured and normalised, where the batch is."""
    pictures = batch.pictures.permute(0, 1, 2, 5, 3, 4)  # (2, B, T, 3, S, S)
    shape = pictures.shape
    flat = pictures.flatten(0, 2).float() / 255
    grey = batch.grey[None, :, None].expand(shape[:3]).flatten()
    flat = recolour(flat, batch.factors.flatten(0, 2), grey)
    mean, deviation = (
        flat.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return ((flat - mean) / deviation).view(shape)


def loop_config(config: LmEecTrainConfig) -> LoopConfig:
    """What of the settings concerns the loop."""
    return LoopConfig(
        epochs=config.epochs,
        accumulate=config.accumulate,
        average_decay=config.average_decay,
        clip_norm=config.clip_norm,
        val_every_steps=config.val_every_steps,
        patience=config.patience,
    )


def make_task(
    module: ClipModule, config: LmEecTrainConfig, data: ClipTrainingData, accelerator: Accelerator
) -> Task[ClipBatch]:
    """One direction's training on this rank."""
    network = module.network
    batches = _batches_per_epoch(len(data.train), config, accelerator.num_processes)
    clips = len(data.train) * config.clips_per_track
    return Task(
        method=METHOD,
        module=module,
        model=network,
        groups=parameter_groups(network, config),
        epoch_samples=batches * config.batch_pairs * accelerator.num_processes,
        batches_per_epoch=batches,
        batches=partial(
            _batches, config=config, data=data, accelerator=accelerator, size=_size(network)
        ),
        to_device=_to_device,
        validate=partial(validate, config=config, data=data, accelerator=accelerator),
        describe_batch=lambda batch: f"one of the clips {'; '.join(batch.names)}",
        config=describe(network.config),
        settings=config.to_dict(),
        features={},
        fingerprint=fingerprint(data.train),
        unit="clip",
        introduction=(
            f"{len(data.train)} train tracks, {clips} clips an epoch;"
            f" {sum(len(take.tracks) for take in data.val)} val tracks"
        ),
    )


def select_val_tracks(takes: Sequence[TakeTracks], tracks: int) -> list[TakeTracks]:
    """At most so many tracks, spread over all, of each its first frames."""
    every = max(1, sum(len(take.tracks) for take in takes) // tracks)
    parts, number = [], 0
    for take in takes:
        kept = [
            _shortened(track) for at, track in enumerate(take.tracks) if (number + at) % every == 0
        ]
        number += len(take.tracks)
        if kept:
            parts.append(replace(take, tracks=tuple(kept)))
    return parts


@torch.no_grad()
def validate(
    model: nn.Module, *, config: LmEecTrainConfig, data: ClipTrainingData, accelerator: Accelerator
) -> ValScore:
    """IoU of the val tracks' frames at the network's size; ranks share the takes."""
    network = cast(LmEecNetwork, model)
    network.eval()
    how = TrackingSettings(
        DEFAULT, accelerator.device, config.precision == "bf16", config.batch_pairs
    )
    rows = [
        row
        for take in data.val[accelerator.process_index :: accelerator.num_processes]
        for row in _scored(network, take, how)
    ]
    found = np.array(gather_object(rows), np.float64).reshape(-1, 4).T
    network.train()
    iou, score, share, visible = found
    seen = visible > 0
    mean = float(iou[seen].mean()) if seen.any() else 0.0
    return ValScore(mean, calibrate=lambda: _calibrated(score, share, seen))


def _calibrated(scores: Float64, shares: Float64, visible: Bool) -> Mapping[str, Any] | None:
    found = fit_mask_confidence(scores, shares, visible)
    return found.to_dict() if found else None


def _scored(
    network: LmEecNetwork, take: TakeTracks, how: TrackingSettings
) -> Iterator[list[float]]:
    """IoU, object score, share of the picture, visible; of each annotated frame."""
    size = _size(network)
    for followed in track_objects(network, take, how):
        drawn = (network.full_logits(followed.low_res_logits) > 0).cpu().numpy()
        scores = followed.object_scores.tolist()
        for at, (number, place) in enumerate(zip(followed.tracks, followed.places, strict=True)):
            track = take.tracks[number]
            if track.dest_annotated[place]:
                row = int(track.dest_masks[place])
                iou = _iou(drawn[at], take, row, size) if row >= 0 else 0.0
                yield [iou, scores[at], float(drawn[at].mean()), float(row >= 0)]


def _iou(drawn: Bool, take: TakeTracks, row: int, size: int) -> float:
    truth = squash_mask(take.frames.masks.rle(row), size)
    union = int((drawn | truth).sum())
    return int((drawn & truth).sum()) / union if union else 1.0


def _shortened(track: Track) -> Track:
    part = slice(0, _VAL_FRAMES)
    return replace(
        track,
        frame_idxs=track.frame_idxs[part],
        source_frames=track.source_frames[part],
        dest_frames=track.dest_frames[part],
        source_masks=track.source_masks[part],
        dest_masks=track.dest_masks[part],
        dest_annotated=track.dest_annotated[part],
        wanted=track.wanted[part],
    )


def _batches_per_epoch(tracks: int, config: LmEecTrainConfig, ranks: int) -> int:
    """The last clips of an epoch that fill no batch wait for another epoch, as in the reference."""
    return max(1, tracks * config.clips_per_track // (config.batch_pairs * ranks))


def _batches(
    epoch: int,
    first: int,
    *,
    config: LmEecTrainConfig,
    data: ClipTrainingData,
    accelerator: Accelerator,
    size: int,
) -> Iterator[tuple[ClipBatch, int]]:
    rank, ranks = accelerator.process_index, accelerator.num_processes
    order = epoch_order(len(data.train), config.clips_per_track, seed=config.seed, epoch=epoch)
    # A root of fewer clips than a batch of all ranks meets some of them twice.
    wanted = _batches_per_epoch(len(data.train), config, ranks) * config.batch_pairs * ranks
    order = np.resize(order, wanted)[rank::ranks].reshape(-1, config.batch_pairs)
    seeds = [(config.seed, epoch, number, rank) for number in range(len(order))]
    how = ClipSettings(size, config.seed, config.augment, config.reference_behaviour)
    batches = list(zip(order, seeds, strict=True))[first:]
    return load_batches(data.root, data.train, batches, how)


def _to_device(batch: ClipBatch, device: torch.device) -> ClipBatch:
    return batch.to(device)


def _size(network: LmEecNetwork) -> int:
    return network.config.image_size
