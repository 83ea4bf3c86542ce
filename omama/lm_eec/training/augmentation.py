"""What a clip looks like when it is learnt from: turned, sheared, mirrored, recoloured.

Numbers and order are LM-EEC's. The geometry is drawn once for a clip, both its views; the colours
too, but for a second jitter of each frame. Geometry is applied on the CPU to uint8 pictures,
colours where the network is, to whole batches.
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
# ImageNet's mean colour: what lies outside of the picture becomes 0 when it is normalised.
_FILL = (123.0, 116.0, 103.0)
# Brightness, contrast and saturation are multiplied by 1 +- these: of a clip, and of each frame.
_CLIP_JITTER = (0.1, 0.03, 0.03)
_FRAME_JITTER = (0.1, 0.05, 0.05)
_LUMA = (0.2989, 0.587, 0.114)


@dataclass(frozen=True)
class Geometry:
    """One clip's."""

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
    """One clip's: factors of brightness, contrast and saturation."""

    clip: Float32
    """(3,)"""
    frames: Float32
    """(2, T, 3) of each frame of the source and of the destination."""
    grey: bool


def draw_geometry(rng: np.random.Generator) -> Geometry:
    """Rotation within 25, shear along x within 20 degrees, mirrored half of the time."""
    return Geometry(
        mirrored=bool(rng.random() < _MIRRORED),
        degrees=float(rng.uniform(-_DEGREES, _DEGREES)),
        shear_degrees=float(rng.uniform(-_SHEAR_DEGREES, _SHEAR_DEGREES)),
    )


def draw_colours(rng: np.random.Generator, frames: int) -> Colours:
    """The factors of a clip of `frames` frames."""
    return Colours(
        clip=_factors(rng, _CLIP_JITTER, (3,)),
        frames=_factors(rng, _FRAME_JITTER, (2, frames, 3)),
        grey=bool(rng.random() < _GREY),
    )


def plain_colours(frames: int) -> Colours:
    """Nothing is changed."""
    return Colours(np.ones(3, np.float32), np.ones((2, frames, 3), np.float32), False)


def warp(picture: Bytes, geometry: Geometry, like: tuple[int, int]) -> Bytes:
    """A picture (H, W, 3), or a mask (H, W) in 0..255, turned about its middle.

    `like` is the (height, width) of the frame as it was filmed: a squashed picture is turned as if
    it were not squashed. Pictures and squashed masks are sampled bilinearly.
    """
    if geometry.mirrored:
        picture = np.ascontiguousarray(picture[:, ::-1])
    if not geometry.is_warp:
        return picture
    height, width = picture.shape[:2]
    return np.asarray(
        cv2.warpAffine(
            picture,
            _matrix(geometry, (height, width), like),
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=_FILL if picture.ndim == 3 else 0,
        ),
        np.uint8,
    )


def warp_nearest(mask: Bytes, geometry: Geometry) -> Bytes:
    """A mask (H, W) at the frame's own size, each pixel from the nearest."""
    if geometry.mirrored:
        mask = np.ascontiguousarray(mask[:, ::-1])
    if not geometry.is_warp:
        return mask
    size = mask.shape[0], mask.shape[1]
    matrix = _matrix(geometry, size, size)
    return np.asarray(cv2.warpAffine(mask, matrix, size[::-1], flags=cv2.INTER_NEAREST), np.uint8)


def recolour(pictures: torch.Tensor, factors: torch.Tensor, grey: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 3, S, S) in 0..1 with factors (N, 2, 3) of clip and frame, grey (N,) bool."""
    pictures = _jitter(pictures, factors[:, 0])
    pictures = torch.where(grey[:, None, None, None], _luma(pictures), pictures)
    return _jitter(pictures, factors[:, 1])


def _factors(
    rng: np.random.Generator, spread: tuple[float, float, float], shape: tuple[int, ...]
) -> Float32:
    reach = np.array(spread)
    return rng.uniform(1 - reach, 1 + reach, shape).astype(np.float32)


def _matrix(geometry: Geometry, size: tuple[int, int], like: tuple[int, int]) -> Float64:
    """(2, 3): pixel index → pixel index, of a picture of `size` that shows a frame `like`."""
    turn, shear = math.radians(geometry.degrees), math.tan(math.radians(geometry.shear_degrees))
    linear = np.array(
        [
            [math.cos(turn), -math.cos(turn) * shear - math.sin(turn)],
            [math.sin(turn), -math.sin(turn) * shear + math.cos(turn)],
        ]
    )
    squash = np.array([size[1] / like[1], size[0] / like[0]])
    linear = linear * squash[:, None] / squash[None]
    middle = np.array([size[1] - 1, size[0] - 1]) / 2
    return np.column_stack([linear, middle - linear @ middle])


def _jitter(pictures: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Brightness, then contrast about the picture's mean grey, then saturation about each grey."""
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    pictures = (pictures * brightness).clamp(0, 1)
    middle = _luma(pictures).mean((2, 3), keepdim=True)
    pictures = (middle + (pictures - middle) * contrast).clamp(0, 1)
    grey = _luma(pictures)
    return (grey + (pictures - grey) * saturation).clamp(0, 1)


def _luma(pictures: torch.Tensor) -> torch.Tensor:
    """(N, 1, S, S) by ITU-R BT.601's weights."""
    weights = pictures.new_tensor(_LUMA)[:, None, None]
    return (pictures * weights).sum(1, keepdim=True)
