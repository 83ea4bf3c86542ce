"""Features of one frame: dense tokens, and a descriptor for each of its masks.

`read_frame` does the part without the backbone (it decodes the picture and samples the masks on the
quarter grid) and may run in a thread. `Extractor` runs the backbone on the pictures of several
frames at once and pools. Legend: M ground-truth masks, N proposals, C channels, h x w tokens,
q x r cells of the quarter grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from egoexo_tools.arrays import Bytes
from egoexo_tools.errors import DataError
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.running.executors import available_cores
from egoexo_tools.video.pictures import read_image
from omama.dataset import FrameTable
from omama.features.descriptors import describe
from omama.features.frame_masks import read_masks
from omama.features.images import (
    PreparationConfig,
    cut_image,
    normalise,
    prepared_size,
    scale_boxes,
)
from omama.features.mask_relations import MaskRelations, relate_masks

if TYPE_CHECKING:
    from omama.features.backbones import Backbone

READERS = max(4, min(16, available_cores()))
"""Threads that read pictures and masks ahead: a GPU consumes several hundred pictures a second."""

IMAGES_AT_ONCE = 8
"""Default number of images in one forward pass."""


@dataclass(frozen=True)
class RawFrame:
    """A prepared frame, before the backbone."""

    image: Tensor
    """(H, W, 3) uint8, at the prepared size."""
    quarters: Tensor
    """(M + N, q, r) bool: ground truth, then proposals."""
    boxes: Tensor
    """(M + N, 4) float32 xywh in pixels of the prepared image."""
    masks: int
    """M: the first M rows of `quarters` and `boxes` are ground truth."""
    relations: MaskRelations


@dataclass(frozen=True)
class FrameFeatures:
    """Features of a frame."""

    tokens: Tensor
    """(C, h, w) output of the backbone."""
    masks: Tensor
    """(M, 2C) descriptors of the ground-truth masks: mask part, context part."""
    proposals: Tensor
    """(N, 2C) descriptors of the proposals."""
    relations: MaskRelations


def read_frame(frames: FrameTable, frame: int, config: PreparationConfig) -> RawFrame:
    """Read and prepare a frame of the table; DataError if its picture cannot be used."""
    rgb = read_image(frames.path(frame))
    row = frames.rows.iloc[frame]
    if rgb.shape[:2] != (row["height"], row["width"]):
        raise DataError(
            f"{frames.path(frame)} has {rgb.shape[1]}x{rgb.shape[0]} pixels, its manifest says "
            f"{row['width']}x{row['height']}; run `egoexo-tools frames --overwrite`"
        )
    try:
        return prepare_frame(
            rgb, frames.masks.of_frame(frame), frames.proposals.of_frame(frame), config
        )
    except DataError as error:
        raise DataError(f"{frames.name(frame)}: {error}") from error


def prepare_frame(
    rgb: Bytes, truths: MaskColumns, proposals: MaskColumns, config: PreparationConfig
) -> RawFrame:
    """Prepare a picture (H, W, 3) uint8, its ground-truth masks (any size) and its proposals."""
    prepared = prepared_size(rgb.shape[0], rgb.shape[1], config)
    masks = read_masks(truths, proposals, prepared_hw=prepared, patch_size=config.patch_size)
    candidates = np.zeros((0, 4), np.float32)
    if len(proposals):
        size = (int(proposals.heights[0]), int(proposals.widths[0]))
        # Masks from manifests have boxes; proposals of a single pair of pictures do not.
        boxes = proposals.measure()[1] if proposals.boxes is None else proposals.boxes
        candidates = scale_boxes(boxes, size, prepared)
    return RawFrame(
        image=torch.from_numpy(cut_image(rgb, config)),
        quarters=torch.from_numpy(masks.quarters),
        boxes=torch.from_numpy(np.concatenate([masks.truth_boxes, candidates])),
        masks=len(truths),
        relations=relate_masks(masks.truth_boxes, candidates, masks.centroids, masks.ious),
    )


class Extractor:
    """A frozen backbone on a device, with the preparation of its pictures."""

    def __init__(
        self,
        backbone: "Backbone",
        *,
        device: torch.device,
        bf16: bool = False,
        squash_portrait: bool = False,
    ) -> None:
        self.backbone = backbone.to(device)
        self.device = device
        self.bf16 = bf16
        self.config = PreparationConfig(
            patch_size=backbone.patch_size, squash_portrait=squash_portrait
        )

    @property
    def width(self) -> int:
        return self.backbone.dim

    def read(self, frames: FrameTable, frame: int) -> RawFrame:
        return read_frame(frames, frame, self.config)

    @torch.no_grad()
    def __call__(self, raws: Sequence[RawFrame]) -> list[FrameFeatures]:
        """Features on the device, in order; on a GPU, pictures of one size share a forward pass."""
        # Ego and exo frames have different sizes and cannot be stacked.
        by_size: dict[torch.Size, list[int]] = {}
        for i, raw in enumerate(raws):
            by_size.setdefault(raw.image.shape, []).append(i)
        features: dict[int, FrameFeatures] = {}
        for members in by_size.values():
            # A CPU's caches hold one picture's features but not a batch's: 30 % faster one by one.
            size = 1 if self.device.type == "cpu" else len(members)
            for start in range(0, len(members), size):
                batch = members[start : start + size]
                results = self._features([raws[i] for i in batch])
                features.update(zip(batch, results, strict=True))
        return [features[i] for i in range(len(raws))]

    def _features(self, raws: Sequence[RawFrame]) -> list[FrameFeatures]:
        try:
            images = torch.stack([raw.image for raw in raws]).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                tokens = self.backbone(normalise(images)).float()  # (B, C, h, w)
            features = []
            for raw, raw_tokens in zip(raws, tokens, strict=True):
                descriptors = describe(
                    raw_tokens,
                    raw.quarters.to(self.device),
                    raw.boxes.to(self.device),
                    patch_size=self.config.patch_size,
                )
                masks, proposals = descriptors[: raw.masks], descriptors[raw.masks :]
                features.append(FrameFeatures(raw_tokens, masks, proposals, raw.relations))
            return features
        except torch.OutOfMemoryError as error:
            count = len(raws)
            smaller = (
                f"try --images-at-once {count // 2} of `omama features`, whose cache training and "
                "prediction read"
                if count > 1
                else "use --feature-precision bf16, or a GPU with more memory"
            )
            raise DataError(
                f"the GPU ran out of memory with {count} images at once; {smaller}"
            ) from error
