"""LM-EEC's task for the training loop: batches of clips, the loss, and validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from egoexo_tools.layout import DatasetRoot
from omama.confidence import fit_mask_confidence
from omama.config import IMAGENET_MEAN, IMAGENET_STD
from omama.lm_eec.bank import DEFAULT
from omama.lm_eec.network import LmEecNetwork
from omama.lm_eec.pictures import squash_mask
from omama.lm_eec.settings import LmEecTrainConfig
from omama.lm_eec.take_tracking import TrackingSettings, track_objects
from omama.lm_eec.tracks import FRAME_FIELDS, TakeTracks
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
from omama.lm_eec.weights import METHOD
from omama.task import LoopConfig, Task, ValScore

_VAL_FRAMES = 16
"""Frames of a val track that a validation predicts: two clips, so that banks drop tokens."""


class ClipModule(nn.Module):
    """Batch of clips → loss; data parallelism wraps it."""

    def __init__(self, network: LmEecNetwork, *, bf16: bool) -> None:
        super().__init__()
        self.network = network
        self.bf16 = bf16

    def forward(self, batch: ClipBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        # Dropout depends on the batch only, so that a resumed run drops the same.
        torch.manual_seed(batch.seed)
        source, dest = prepare_pictures(batch)
        source_masks, dest_masks = batch.masks
        device = batch.masks.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16):
            outputs = run_clips(self.network, source, dest, source_masks)
        losses = clip_losses(self.network, outputs, dest_masks)
        parts = {
            name: getattr(losses, name).detach() for name in ("mask", "dice", "iou", "present")
        }
        return losses.total, parts


def prepare_pictures(batch: ClipBatch) -> torch.Tensor:
    """(2, B, T, 3, S, S) float32: recoloured and normalised, on the batch's device."""
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
    """The settings of the loop."""
    return LoopConfig(
        epochs=config.epochs,
        accumulate=config.accumulate,
        average_decay=config.average_decay,
        clip_norm=config.clip_norm,
        val_every_steps=config.val_every_steps,
        patience=config.patience,
    )


def select_val_tracks(takes: Sequence[TakeTracks], count: int) -> list[TakeTracks]:
    """The first frames of about `count` tracks, which are spread evenly over all takes."""
    # Every n-th track, because the first ones would all be of the same few takes.
    every = max(1, sum(len(take.tracks) for take in takes) // count)
    selection, first = [], 0
    for take in takes:
        tracks = [
            replace(track, **{name: getattr(track, name)[:_VAL_FRAMES] for name in FRAME_FIELDS})
            for number, track in enumerate(take.tracks, first)
            if number % every == 0
        ]
        first += len(take.tracks)
        if tracks:
            selection.append(replace(take, tracks=tuple(tracks)))
    return selection


@dataclass(frozen=True)
class ClipTraining:
    """The training of one direction on this rank."""

    module: ClipModule
    config: LmEecTrainConfig
    root: DatasetRoot
    train: Sequence[ClipTrack]
    val: Sequence[TakeTracks]
    """Val tracks with the frames that a validation predicts."""
    accelerator: Accelerator

    def make_task(self) -> Task[ClipBatch]:
        """The task of the loop."""
        config, network = self.config, self.module.network
        ranks = self.accelerator.num_processes
        return Task(
            method=METHOD,
            module=self.module,
            model=network,
            groups=parameter_groups(network, config),
            epoch_samples=self._batches_per_epoch * config.batch_pairs * ranks,
            batches_per_epoch=self._batches_per_epoch,
            batches=self._load,
            to_device=lambda batch, device: batch.to(device),
            validate=self._validate,
            describe_batch=lambda batch: f"one of the clips {'; '.join(batch.names)}",
            config=network.config.to_dict(),
            settings=config.to_dict(),
            features={},
            fingerprint=fingerprint(self.train),
            unit="clip",
            introduction=(
                f"{len(self.train)} train tracks,"
                f" {len(self.train) * config.clips_per_track} clips an epoch;"
                f" {sum(len(take.tracks) for take in self.val)} val tracks"
            ),
        )

    @property
    def _batches_per_epoch(self) -> int:
        """As in the reference, an epoch's last clips that do not fill a batch are left out."""
        clips = len(self.train) * self.config.clips_per_track
        ranks: int = self.accelerator.num_processes
        return max(1, clips // (self.config.batch_pairs * ranks))

    def _load(self, epoch: int, first: int) -> Iterator[tuple[ClipBatch, int]]:
        config = self.config
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        order = epoch_order(len(self.train), config.clips_per_track, seed=config.seed, epoch=epoch)
        # Fewer clips than fill a batch on all ranks are repeated.
        order = np.resize(order, self._batches_per_epoch * config.batch_pairs * ranks)
        order = order[rank::ranks].reshape(-1, config.batch_pairs)
        seeds = [(config.seed, epoch, number, rank) for number in range(len(order))]
        size = self.module.network.config.image_size
        settings = ClipSettings(size, config.seed, config.augment, config.reference_behaviour)
        batches = list(zip(order, seeds, strict=True))[first:]
        return load_batches(self.root, self.train, batches, settings)

    @torch.no_grad()
    def _validate(self, model: nn.Module) -> ValScore:
        """IoU of the val tracks' frames at the network's size; ranks share the takes."""
        network = cast(LmEecNetwork, model)
        network.eval()
        settings = TrackingSettings(
            DEFAULT,
            self.accelerator.device,
            self.config.precision == "bf16",
            self.config.batch_pairs,
        )
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        rows = [
            row for take in self.val[rank::ranks] for row in _score_take(network, take, settings)
        ]
        iou, score, share, visible = np.array(gather_object(rows), np.float64).reshape(-1, 4).T
        network.train()
        is_visible = visible > 0
        # IoU counts frames in which the object is visible; absent ones are for the confidence.
        mean = float(iou[is_visible].mean()) if is_visible.any() else 0.0

        def calibrate() -> Mapping[str, Any] | None:
            confidence = fit_mask_confidence(score, share, is_visible)
            return confidence.to_dict() if confidence else None

        return ValScore(mean, calibrate=calibrate)


def _score_take(
    network: LmEecNetwork, take: TakeTracks, settings: TrackingSettings
) -> Iterator[list[float]]:
    """IoU, object score, share of the picture and visibility of each annotated frame."""
    size = network.config.image_size
    for tracked in track_objects(network, take, settings):
        masks = (network.full_logits(tracked.low_res_logits) > 0).cpu().numpy()
        scores = tracked.object_scores.tolist()
        for i, (number, place) in enumerate(zip(tracked.tracks, tracked.places, strict=True)):
            track = take.tracks[number]
            if not track.dest_annotated[place]:
                continue
            iou, row = 0.0, int(track.dest_masks[place])
            if row >= 0:
                truth = squash_mask(take.frames.masks.rle(row), size)
                union = int((masks[i] | truth).sum())
                iou = int((masks[i] & truth).sum()) / union if union else 1.0
            yield [iou, scores[i], float(masks[i].mean()), float(row >= 0)]
