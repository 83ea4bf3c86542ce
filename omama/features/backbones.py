"""Frozen dense backbones by name: images (B, 3, H, W) → features (B, C, h, w).

`dinov2`, `dinov3` and `resnet50-dino` load their original checkpoint file through timm, or
download it if no file is given. `efficientnet-lite0` takes its weights from an installed package;
`rgb_grid` needs none. To add a backbone, write a builder (weights file or None → Backbone) and
enter it in BACKBONES (registry.py); `rgb_grid` is the template.
"""

import hashlib
import pickle
import textwrap
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egoexo_tools.errors import DataError
from omama.features.lite import LiteFeatures
from omama.features.registry import BACKBONES

DINO_RESNET50_URL = (
    "https://dl.fbaipublicfiles.com/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth"
)


class Backbone(nn.Module):
    """A frozen network with its name, patch size and number of channels.

    Images are (B, 3, H, W) float32 from `omama.features.images.normalise`, H and W multiples of
    `patch_size`; features are (B, dim, H / patch_size, W / patch_size).
    """

    def __init__(self, network: nn.Module, *, name: str, patch_size: int, dim: int) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.name = name
        self.patch_size = patch_size
        self.dim = dim

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2] % self.patch_size or images.shape[-1] % self.patch_size:
            raise DataError(
                f"{self.name} takes images whose sides are multiples of {self.patch_size}, not "
                f"{images.shape[-1]}x{images.shape[-2]}; cut them by features.images.cut_image"
            )
        return self.network(images)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Self:
        """Does nothing: a frozen network stays in evaluation mode."""
        return super().train(False)

    @cached_property
    def weights_hash(self) -> str:
        """16 hex digits: a hash of name, version and weights; part of a feature cache's key."""
        digest = hashlib.sha256(f"{self.name} {getattr(self.network, 'version', '')}".encode())
        for key, value in sorted(self.network.state_dict().items()):
            digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]


def build_backbone(name: str, weights: Path | None = None, **options: Any) -> Backbone:
    """The backbone `name`, in evaluation mode on the CPU.

    `weights` is the original checkpoint file; without it the weights come from the hub.
    `options` go to timm (smaller networks in tests). Raises DataError for an unknown name, a
    missing or wrong file, or a hub that cannot be reached.
    """
    if name not in BACKBONES:
        raise DataError(f"{name!r} is not a backbone; use one of {', '.join(BACKBONES)}")
    backbone: Backbone = BACKBONES[name](weights, **options)
    return backbone


class RgbGrid(nn.Module):
    """The mean colour of each patch: the smallest possible backbone, for tests."""

    version = "1"

    def __init__(self, patch_size: int = 14) -> None:
        super().__init__()
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, self.patch_size)


class _PatchTokens(nn.Module):
    """A vision transformer's normalised patch tokens, on their grid."""

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: Tensor) -> Tensor:
        grid = [side // self.vit.patch_embed.patch_size[0] for side in images.shape[-2:]]
        tokens = self.vit.forward_features(images)[:, self.vit.num_prefix_tokens :]  # (B, hw, C)
        features: Tensor = tokens.transpose(1, 2).unflatten(2, grid)
        return features  # (B, C, h, w)


class _LastMap(nn.Module):
    """A convolutional network's last feature map."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network.forward_features(images)
        return features  # (B, C, h, w)


def vit(weights: Path | None, *, name: str, architecture: str, **options: Any) -> Backbone:
    # dynamic_img_size: position embeddings are interpolated to any grid.
    vit = _load(name, architecture, weights, {}, dynamic_img_size=True, **options)
    patch_size = int(vit.patch_embed.patch_size[0])
    return Backbone(_PatchTokens(vit), name=name, patch_size=patch_size, dim=vit.num_features)


def resnet(weights: Path | None, *, name: str, stride: int, **options: Any) -> Backbone:
    hub = {"url": DINO_RESNET50_URL, "hf_hub_id": None}
    network = _load(name, "resnet50", weights, hub, output_stride=stride, **options)
    return Backbone(_LastMap(network), name=name, patch_size=stride, dim=network.num_features)


def efficientnet_lite0(weights: Path | None) -> Backbone:
    network = LiteFeatures(weights)
    return Backbone(
        network, name="efficientnet-lite0", patch_size=network.patch_size, dim=network.dim
    )


def weight_free(
    weights: Path | None, *, name: str, network: Callable[[], nn.Module], dim: int
) -> Backbone:
    """A network of 14-pixel patches that loads nothing; DataError if `weights` are given."""
    if weights is not None:
        raise DataError(f"{name} has no weights; leave out {weights}")
    return Backbone(network(), name=name, patch_size=14, dim=dim)


def rgb_grid(weights: Path | None) -> Backbone:
    return weight_free(weights, name="rgb_grid", network=RgbGrid, dim=3)


def _load(
    name: str, architecture: str, weights: Path | None, hub: dict[str, Any], **options: Any
) -> Any:
    """The timm network with the weights of a file, or of the hub."""
    if weights is not None and not weights.is_file():
        raise DataError(
            f"the weights file {weights} does not exist; give the original checkpoint of {name}, "
            "or leave it out to fetch it from the hub"
        )
    # num_classes=0 on both sides keeps timm strict: otherwise missing weights pass silently.
    overlay = {**hub, "num_classes": 0}
    if weights is not None:
        overlay["file"] = str(weights)
    try:
        return timm.create_model(
            architecture, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **options
        )
    except Exception as error:
        # timm, huggingface_hub and urllib raise different exceptions for the same cause.
        text = textwrap.shorten(" ".join(str(error).split()), 160, placeholder=" ...")
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
        if weights is None:
            raise DataError(
                f"the weights of {name} could not be fetched ({reason}); give their file instead"
            ) from error
        if isinstance(error, pickle.UnpicklingError | EOFError) or "weights_only" in reason:
            reason = "it is not a checkpoint, or holds more than tensors"
        raise DataError(
            f"{weights} does not hold the weights of {name} ({reason}); give its original "
            "checkpoint file"
        ) from error
