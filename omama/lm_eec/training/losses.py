"""The loss of training clips, as in the fine-tuning of SAM 2.

It is summed over the frames and averaged over the clips. Legend: B clips, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from omama.lm_eec.bank import TRAINING, TrackMemory
from omama.lm_eec.network import DecodedMasks, ImageFeatures, LmEecNetwork
from omama.lm_eec.tracking import TrackStep, advance, encode_source

_MASK_WEIGHT = 20.0
_ALPHA = 0.25
# Without it, dice of an empty mask and an empty prediction would be 0 / 0.
_SMOOTHING = 1.0


@dataclass(frozen=True)
class ClipLosses:
    """The four parts, each a scalar, and their weighted sum `total`, which is minimised."""

    mask: torch.Tensor
    """Focal loss of the pixels (gamma 2, alpha 0.25)."""
    dice: torch.Tensor
    """Dice loss of the mask."""
    iou: torch.Tensor
    """Absolute difference of the predicted and the actual IoU."""
    present: torch.Tensor
    """Cross entropy of the object score."""

    @property
    def total(self) -> torch.Tensor:
        return _MASK_WEIGHT * self.mask + self.dice + self.iou + self.present


def run_clips(
    network: LmEecNetwork, source: torch.Tensor, dest: torch.Tensor, masks: torch.Tensor
) -> list[DecodedMasks]:
    """Predict clips: both views (B, T, 3, S, S), source masks (B, T, S, S) → outputs of T frames.

    Each frame reads memories of the network's own earlier predictions, and gradients pass through
    all of them.
    """
    clips, frames = masks.shape[:2]
    # Both views in one pass: all their pictures are known before the first prediction.
    features = network.encode_images(torch.cat([source.flatten(0, 1), dest.flatten(0, 1)]))
    levels = (features.stride4, features.stride8, features.stride16)
    sources, dests = (
        ImageFeatures(*views) for views in zip(*(level.chunk(2) for level in levels), strict=True)
    )
    memory, view = encode_source(network, sources, dests, masks.flatten(0, 1))
    memories = [TrackMemory(frames) for _ in range(clips)]
    outputs = []
    for frame in range(frames):
        rows = torch.arange(clips, device=masks.device) * frames + frame
        step = TrackStep([frame] * clips, dests.select(rows), memory[:, rows], view[rows])
        outputs.append(advance(network, memories, step, TRAINING))
    return outputs


def clip_losses(
    network: LmEecNetwork, outputs: Sequence[DecodedMasks], truth: torch.Tensor
) -> ClipLosses:
    """The losses of `run_clips`' outputs against the destination's true masks (B, T, S, S)."""
    frames = [
        torch.stack(_frame_losses(network.full_logits(output.low_res_logits), output, mask))
        for output, mask in zip(outputs, truth.float().unbind(1), strict=True)
    ]
    mask, dice, iou, present = torch.stack(frames).sum(0).unbind()
    return ClipLosses(mask, dice, iou, present)


def _frame_losses(
    logits: torch.Tensor, output: DecodedMasks, truth: torch.Tensor
) -> list[torch.Tensor]:
    """Means over the clips of the four losses; the first three only count visible objects."""
    visible = truth.flatten(1).any(1).float()  # (B,)
    losses = [_focal(logits, truth), _dice(logits, truth), (output.iou - _iou(logits, truth)).abs()]
    present = binary_cross_entropy_with_logits(output.object_score, visible)
    return [*((loss * visible).mean() for loss in losses), present]


def _focal(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(B,) mean over the pixels of alpha (1 - p)^2 (-log p), p of the true class (Lin et al.)."""
    wrong = (logits * (1 - 2 * truth)).sigmoid()  # the other class's probability
    alpha = _ALPHA * truth + (1 - _ALPHA) * (1 - truth)
    loss = alpha * wrong**2 * softplus(logits * (1 - 2 * truth))
    return loss.flatten(1).mean(1)  # (B,)


def _dice(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(B,) 1 - (2 |p t| + 1) / (|p| + |t| + 1), sums over the pixels."""
    predicted, true = logits.sigmoid().flatten(1), truth.flatten(1)
    shared = (predicted * true).sum(1)
    return 1 - (2 * shared + _SMOOTHING) / (predicted.sum(1) + true.sum(1) + _SMOOTHING)


def _iou(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(B,) IoU of the mask where the logits are above 0."""
    predicted, true = (logits > 0).flatten(1), truth.flatten(1) > 0
    union = (predicted | true).sum(1).clamp(min=1)
    return (predicted & true).sum(1) / union
