"""The loss of a training clip, as SAM 2 was fine-tuned with it.

Shapes: B clips, T frames. Summed over the frames, in each divided by the number of clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from omama.lm_eec.bank import TRAINING, TrackMemory
from omama.lm_eec.network import DecodedMasks, ImageFeatures, LmEecNetwork
from omama.lm_eec.tracking import TrackStep, advance, look

_MASK_WEIGHT = 20.0
_ALPHA = 0.25
# Where an object has no pixel, dice compares nothing with nothing.
_SMOOTHING = 1.0


@dataclass(frozen=True)
class ClipLosses:
    """The four parts, each a scalar; `total` is what is minimised."""

    mask: torch.Tensor
    """Focal loss of the pixels (gamma 2, alpha 0.25)."""
    dice: torch.Tensor
    iou: torch.Tensor
    """Distance of the predicted from the actual IoU."""
    present: torch.Tensor
    """Cross entropy of the object score."""

    @property
    def total(self) -> torch.Tensor:
        return _MASK_WEIGHT * self.mask + self.dice + self.iou + self.present


def run_clips(
    network: LmEecNetwork, source: torch.Tensor, dest: torch.Tensor, masks: torch.Tensor
) -> list[DecodedMasks]:
    """Clips (B, T, 3, S, S) of both views with source masks (B, T, S, S) → T frames' answers.

    Each frame sees the network's own earlier predictions, and gradients pass through all of them.
    """
    clips, frames = masks.shape[:2]
    both = network.encode_images(torch.cat([source.flatten(0, 1), dest.flatten(0, 1)]))
    sources, dests = (_part(both, start, clips * frames) for start in (0, clips * frames))
    memory, view = look(network, sources, dests, masks.flatten(0, 1))
    memories = [TrackMemory(frames) for _ in range(clips)]
    answers = []
    for frame in range(frames):
        rows = torch.arange(clips, device=masks.device) * frames + frame
        step = TrackStep([frame] * clips, dests.select(rows), memory[:, rows], view[rows])
        answers.append(advance(network, memories, step, TRAINING))
    return answers


def clip_losses(
    network: LmEecNetwork, answers: Sequence[DecodedMasks], truth: torch.Tensor
) -> ClipLosses:
    """The losses of `run_clips`' answers against the destination's true masks (B, T, S, S)."""
    frames = [
        torch.stack(_frame_losses(network.full_logits(answer.low_res_logits), answer, mask))
        for answer, mask in zip(answers, truth.float().unbind(1), strict=True)
    ]
    mask, dice, iou, present = torch.stack(frames).sum(0).unbind()
    return ClipLosses(mask, dice, iou, present)


def _frame_losses(
    logits: torch.Tensor, answer: DecodedMasks, truth: torch.Tensor
) -> list[torch.Tensor]:
    """Means over the clips of the four losses; the first three only of objects that are there."""
    there = truth.flatten(1).any(1).float()  # (B,)
    parts = [
        _focal(logits, truth),
        _dice(logits, truth),
        (answer.iou - _iou(logits, truth)).abs(),
    ]
    present = binary_cross_entropy_with_logits(answer.object_score, there)
    return [*((part * there).mean() for part in parts), present]


def _focal(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(B,) mean over the pixels of alpha (1 - p)^2 (-log p), p of the true class (Lin et al.)."""
    wrong = (logits * (1 - 2 * truth)).sigmoid()  # the other class's probability
    share = _ALPHA * truth + (1 - _ALPHA) * (1 - truth)
    loss = share * wrong**2 * softplus(logits * (1 - 2 * truth))
    return loss.flatten(1).mean(1)


def _dice(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(B,) 1 - (2 |p t| + 1) / (|p| + |t| + 1), sums over the pixels."""
    part, whole = logits.sigmoid().flatten(1), truth.flatten(1)
    both = (part * whole).sum(1)
    return 1 - (2 * both + _SMOOTHING) / (part.sum(1) + whole.sum(1) + _SMOOTHING)


def _iou(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(B,) IoU of the mask that the logits draw."""
    drawn, whole = (logits > 0).flatten(1), truth.flatten(1) > 0
    union = (drawn | whole).sum(1).clamp(min=1)
    return (drawn & whole).sum(1) / union


def _part(features: ImageFeatures, start: int, length: int) -> ImageFeatures:
    end = start + length
    return ImageFeatures(
        features.stride4[start:end], features.stride8[start:end], features.stride16[start:end]
    )
