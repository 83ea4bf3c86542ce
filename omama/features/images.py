"""Preparation of a frame, its masks and their boxes for a backbone.

A frame is resampled to a multiple of the patch size by nearest neighbour, and so are its masks. The
reference uses two conventions of "nearest", so both are here: OpenCV's for ground truth, torch's
for candidates. Sizes are (height, width).
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from egoexo_tools.arrays import Bytes, Float32, Int64
from egoexo_tools.errors import DataError
from omama.config import HW, IMAGENET_MEAN, IMAGENET_STD, PlainSettings, check_positive
from omama.features.descriptors import quarter_grid


@dataclass(frozen=True)
class PreparationConfig(PlainSettings):
    """How a frame is prepared for a backbone."""

    patch_size: int = 14
    """Height and width are rounded down to multiples of this number of pixels."""
    squash_portrait: bool = False
    """Resize portrait frames to the landscape size, as the reference does in training only."""

    def __post_init__(self) -> None:
        check_positive("patch_size", self.patch_size)


def prepared_size(height: int, width: int, config: PreparationConfig) -> HW:
    """Size of the prepared frame: multiples of the patch size, rounded down.

    With `squash_portrait`, height and width of a portrait frame are swapped. Raises DataError for a
    frame smaller than one patch.
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
    """Rows and columns of a frame's tokens."""
    prepared = prepared_size(height, width, config)
    return prepared[0] // config.patch_size, prepared[1] // config.patch_size


def cut_image(rgb: Bytes, config: PreparationConfig) -> Bytes:
    """A frame (H, W, 3) uint8 → the frame at its prepared size, nearest neighbour."""
    height, width = prepared_size(rgb.shape[0], rgb.shape[1], config)
    cut = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(cut, dtype=np.uint8)


def normalise(images: Tensor) -> Tensor:
    """Cut images (B, H, W, 3) uint8 → (B, 3, H, W) float32 by ImageNet's mean and deviation.

    Runs on the tensor's device, so that bytes are copied to a GPU and not floats.
    """
    mean = images.new_tensor(IMAGENET_MEAN, dtype=torch.float32)[:, None, None]
    std = images.new_tensor(IMAGENET_STD, dtype=torch.float32)[:, None, None]
    # Divided by 255 first, as torchvision does: another order changes the last digit.
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std  # (B, 3, H, W)


def prepare_image(rgb: Bytes, config: PreparationConfig) -> Tensor:
    """A frame (H, W, 3) uint8 → the backbone's input (3, H', W') float32."""
    return normalise(torch.from_numpy(cut_image(rgb, config))[None])[0]


def candidate_idx(size_in: int, size_out: int) -> Int64:
    """(size_out,) index of the input row that torch's nearest interpolation takes for each output.

    Computed in float32, as torch does: in float64 some rows would differ.
    """
    scale = np.float32(size_in) / np.float32(size_out)
    idx = np.floor(np.arange(size_out, dtype=np.float32) * scale).astype(np.int64)
    return np.asarray(np.minimum(idx, size_in - 1), dtype=np.int64)


def quarter_idx(
    mask_hw: HW, prepared_hw: HW, patch_size: int, nearest: Callable[[int, int], Int64]
) -> tuple[Int64, Int64]:
    """Rows and columns of a mask that the quarter grid samples.

    Sampling run lengths at them equals resizing the mask to the prepared image and then to the
    grid. `mask_hw` is the mask's own size. `nearest` is the reference's convention for the first
    step: `nearest_idxs` (OpenCV's) for ground truth, `candidate_idx` (torch's) for candidates.
    """
    grid = quarter_grid(prepared_hw[0] // patch_size, prepared_hw[1] // patch_size, patch_size)
    rows, cols = (
        nearest(size, prepared)[candidate_idx(prepared, quarter)]
        for size, prepared, quarter in zip(mask_hw, prepared_hw, grid, strict=True)
    )
    return rows, cols


def scale_boxes(boxes_xywh: ArrayLike, from_hw: HW, to_hw: HW) -> Float32:
    """Boxes (N, 4) of candidate masks of one size → boxes in the prepared image, float32."""
    down, across = to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]
    factors = np.array([across, down, across, down], dtype=np.float32)
    return np.asarray(boxes_xywh, dtype=np.float32).reshape(-1, 4) * factors
