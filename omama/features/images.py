"""How a frame, its masks and their boxes become a backbone's input.

A frame is cut down to multiples of the patch by nearest resampling, so masks are resampled by
index too, never blurred. Two conventions of "nearest" meet here, because the reference mixes
them: ground truth goes through OpenCV's, candidates through torch's. Sizes are (height, width).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from egoexo_tools.arrays import Bytes, Float32, Int64
from egoexo_tools.errors import DataError
from egoexo_tools.masks.resizing import nearest_idxs
from omama.config import HW, IMAGENET_MEAN, IMAGENET_STD, PlainSettings, check_positive
from omama.features.descriptors import quarter_grid


@dataclass(frozen=True)
class PreparationConfig(PlainSettings):
    """How a frame becomes a backbone's input."""

    patch_size: int = 14
    """Height and width are cut down to multiples of this many pixels."""
    squash_portrait: bool = False
    """Give a portrait frame the landscape size, as the reference does in training only."""

    def __post_init__(self) -> None:
        check_positive("patch_size", self.patch_size)


def prepared_size(height: int, width: int, config: PreparationConfig) -> HW:
    """The size that a frame has for the backbone: multiples of the patch, rounded down.

    With `squash_portrait` a portrait frame gets its landscape size, as in the reference's
    training. Raises DataError for a frame smaller than one patch.
    """
    patch = config.patch_size
    if min(height, width) < patch:
        raise DataError(
            f"a frame of {width}x{height} pixels is smaller than one {patch}-pixel patch"
        )
    if config.squash_portrait and height > width:
        height, width = width, height
    return height // patch * patch, width // patch * patch


def token_grid(height: int, width: int, config: PreparationConfig) -> HW:
    """The tokens (rows, columns) of a frame."""
    prepared = prepared_size(height, width, config)
    return prepared[0] // config.patch_size, prepared[1] // config.patch_size


def cut_image(rgb: Bytes, config: PreparationConfig) -> Bytes:
    """A frame (H, W, 3) uint8 → the same at its prepared size, nearest."""
    height, width = prepared_size(rgb.shape[0], rgb.shape[1], config)
    cut = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(cut, dtype=np.uint8)


def normalise(images: Tensor) -> Tensor:
    """Cut images (B, H, W, 3) uint8 → (B, 3, H, W) float32 by ImageNet's mean and deviation.

    Runs on the tensor's device: bytes travel to the accelerator, not floats.
    """
    mean = images.new_tensor(IMAGENET_MEAN, dtype=torch.float32)[:, None, None]
    std = images.new_tensor(IMAGENET_STD, dtype=torch.float32)[:, None, None]
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std  # (B, 3, H, W)


def prepare_image(rgb: Bytes, config: PreparationConfig) -> Tensor:
    """A frame (H, W, 3) uint8 → the backbone's input (3, h, w) float32."""
    return normalise(torch.from_numpy(cut_image(rgb, config))[None])[0]


def candidate_idx(size_in: int, size_out: int) -> Int64:
    """Which of `size_in` rows torch's nearest interpolation, in float32, takes for each output."""
    scale = np.float32(size_in) / np.float32(size_out)
    idx = np.floor(np.arange(size_out, dtype=np.float32) * scale).astype(np.int64)
    return np.asarray(np.minimum(idx, size_in - 1), dtype=np.int64)


def truth_quarter_idx(mask_hw: HW, prepared_hw: HW, patch_size: int) -> tuple[Int64, Int64]:
    """Rows and columns of a ground-truth mask that make it on the quarter grid.

    `mask_hw` is the mask's own size: it may be the source video's. Sampling a mask's run lengths
    at these rows and columns equals resizing it to the prepared image and then to the grid.
    """
    grid = quarter_grid(prepared_hw[0] // patch_size, prepared_hw[1] // patch_size, patch_size)
    return tuple(  # type: ignore[return-value]
        nearest_idxs(size, prepared)[candidate_idx(prepared, quarter)]
        for size, prepared, quarter in zip(mask_hw, prepared_hw, grid, strict=True)
    )


def candidate_quarter_idx(mask_hw: HW, prepared_hw: HW, patch_size: int) -> tuple[Int64, Int64]:
    """The same of a candidate mask, whose size is the frame's."""
    grid = quarter_grid(prepared_hw[0] // patch_size, prepared_hw[1] // patch_size, patch_size)
    return tuple(  # type: ignore[return-value]
        candidate_idx(size, prepared)[candidate_idx(prepared, quarter)]
        for size, prepared, quarter in zip(mask_hw, prepared_hw, grid, strict=True)
    )


def scale_boxes(boxes_xywh: ArrayLike, from_hw: HW, to_hw: HW) -> Float32:
    """Candidates' boxes (N, 4) of masks of one size → at the prepared image's, float32."""
    down, across = to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]
    factors = np.array([across, down, across, down], dtype=np.float32)
    return np.asarray(boxes_xywh, dtype=np.float32).reshape(-1, 4) * factors
