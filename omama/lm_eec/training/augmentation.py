"""Augmentation of training clips: rotation, shear, mirroring and colour jitter.

Parameters and order are LM-EEC's. A clip has one geometry for both views, and one colour jitter;
each frame has a second colour jitter of its own. Geometry is applied to uint8 pictures on the CPU,
colours to whole batches on the network's device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from egoexo_tools.arrays import Bytes, Float32, Float64

_DEGREES, _SHEAR_DEGREES = 25.0, 20.0
_MIRRORED, _GREY = 0.5, 0.05
# Colour of pixels outside the picture: ImageNet's mean, which normalisation turns into 0.
_FILL = (123.0, 116.0, 103.0)
# Brightness, contrast and saturation are multiplied by a factor within 1 plus or minus these.
_CLIP_JITTER = (0.1, 0.03, 0.03)
_FRAME_JITTER = (0.1, 0.05, 0.05)
_LUMA = (0.2989, 0.587, 0.114)


@dataclass(frozen=True)
class Geometry:
    """Geometric augmentation of a clip."""

    mirrored: bool = False
    degrees: float = 0.0
    shear_degrees: float = 0.0

    @property
    def is_warp(self) -> bool:
        return bool(self.degrees or self.shear_degrees)

    def without_warp(self) -> Geometry:
        return Geometry(self.mirrored)


@dataclass(frozen=True)
class Colours:
    """Colour augmentation of a clip: factors of brightness, contrast and saturation."""

    clip: Float32
    """(3,)"""
    frames: Float32
    """(2, T, 3) for each frame of the source and of the destination."""
    grey: bool
    """Whether the clip becomes grey, between its own jitter and that of its frames."""


def draw_geometry(rng: np.random.Generator) -> Geometry:
    """Random rotation within 25 degrees, shear along x within 20 degrees, and mirroring."""
    return Geometry(
        mirrored=bool(rng.random() < _MIRRORED),
        degrees=float(rng.uniform(-_DEGREES, _DEGREES)),
        shear_degrees=float(rng.uniform(-_SHEAR_DEGREES, _SHEAR_DEGREES)),
    )


def draw_colours(rng: np.random.Generator, frames: int) -> Colours:
    """Random factors for a clip of `frames` frames; grey with probability 0.05."""
    return Colours(
        clip=_factors(rng, _CLIP_JITTER, (3,)),
        frames=_factors(rng, _FRAME_JITTER, (2, frames, 3)),
        grey=bool(rng.random() < _GREY),
    )


def plain_colours(frames: int) -> Colours:
    """Factors that change nothing."""
    return Colours(np.ones(3, np.float32), np.ones((2, frames, 3), np.float32), False)


def warp(picture: Bytes, geometry: Geometry, original_hw: tuple[int, int]) -> Bytes:
    """A picture (H, W, 3) or a mask (H, W) in 0..255, warped about its centre, bilinear.

    `original_hw` is the (height, width) of the recorded frame: a squashed picture is warped as if
    it were not squashed.
    """
    # Mirrored before the rotation, as in the released code.
    if geometry.mirrored:
        picture = np.ascontiguousarray(picture[:, ::-1])
    if not geometry.is_warp:
        return picture
    height, width = picture.shape[:2]
    return np.asarray(
        cv2.warpAffine(
            picture,
            _matrix(geometry, (height, width), original_hw),
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=_FILL if picture.ndim == 3 else 0,
        ),
        np.uint8,
    )


def warp_nearest(mask: Bytes, geometry: Geometry) -> Bytes:
    """A mask (H, W) at the frame's own size, warped by nearest neighbour."""
    if geometry.mirrored:
        mask = np.ascontiguousarray(mask[:, ::-1])
    if not geometry.is_warp:
        return mask
    size = mask.shape[0], mask.shape[1]
    matrix = _matrix(geometry, size, size)
    return np.asarray(cv2.warpAffine(mask, matrix, size[::-1], flags=cv2.INTER_NEAREST), np.uint8)


def recolour(pictures: torch.Tensor, factors: torch.Tensor, grey: torch.Tensor) -> torch.Tensor:
    """Recolour pictures (N, 3, S, S) in 0..1 by factors (N, 2, 3) of clip and frame.

    grey (N,) bool: the picture becomes grey between the two.
    """
    pictures = _jitter(pictures, factors[:, 0])
    pictures = torch.where(grey[:, None, None, None], _luma(pictures), pictures)  # (N, 3, S, S)
    return _jitter(pictures, factors[:, 1])


def _factors(
    rng: np.random.Generator, spread: tuple[float, float, float], shape: tuple[int, ...]
) -> Float32:
    reach = np.array(spread)
    return rng.uniform(1 - reach, 1 + reach, shape).astype(np.float32)


def _matrix(geometry: Geometry, size: tuple[int, int], original_hw: tuple[int, int]) -> Float64:
    """(2, 3) affine map of pixel indices, for a picture of `size` that shows a larger frame."""
    angle, shear = math.radians(geometry.degrees), math.tan(math.radians(geometry.shear_degrees))
    linear = np.array(
        [
            [math.cos(angle), -math.cos(angle) * shear - math.sin(angle)],
            [math.sin(angle), -math.sin(angle) * shear + math.cos(angle)],
        ]
    )
    # Undo the squash, rotate and shear, and squash again.
    squash = np.array([size[1] / original_hw[1], size[0] / original_hw[0]])
    linear = linear * squash[:, None] / squash[None]
    centre = np.array([size[1] - 1, size[0] - 1]) / 2
    return np.column_stack([linear, centre - linear @ centre])


def _jitter(pictures: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Change brightness, then contrast about the mean grey, then saturation about each grey."""
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)  # (N, 1, 1, 1)
    pictures = (pictures * brightness).clamp(0, 1)
    mean = _luma(pictures).mean((2, 3), keepdim=True)
    pictures = (mean + (pictures - mean) * contrast).clamp(0, 1)
    grey = _luma(pictures)
    return (grey + (pictures - grey) * saturation).clamp(0, 1)


def _luma(pictures: torch.Tensor) -> torch.Tensor:
    """Grey values (N, 1, S, S) by the weights of ITU-R BT.601."""
    weights = pictures.new_tensor(_LUMA)[:, None, None]
    return (pictures * weights).sum(1, keepdim=True)
