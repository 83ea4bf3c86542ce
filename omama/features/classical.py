"""Dense descriptors without learned weights: colour, gradients, texture and contrast per patch.

Most values are histograms, and a mean of histograms is the histogram of the union, so pooling
over a mask keeps the mix of colours and edges that an object has. Fixed centres and scales
bring all groups to comparable size, so that neither a cosine nor an untrained layer sees
brightness alone; nothing depends on the rest of the image.

Legend: B images, H x W pixels, h x w patches of P pixels, P even.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_GREY = (0.299, 0.587, 0.114)
# Linear sRGB to CIE XYZ over the D65 white point (IEC 61966-2-1), so that grey gives a = b = 0.
_RGB_TO_XYZ = (
    (0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754),
)

_LIGHTNESS_BINS = 8
_AB_BINS = 6
_AB_REACH = 50.0
"""Values of a and b beyond this count to the outer bins."""
_RATIO_BINS = 5
_RATIO_REACH = 1.0
"""The same of log(R / G) and log(B / G)."""
_ANGLES = 8
_LBP_CLASSES = 10
_LBP_THRESHOLD = 2.5 / 255
"""A neighbour must be brighter by more than compression noise; between two grey levels, so that
rounding never decides."""
_NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
"""Around the centre in order, as row and column offsets."""


class ClassicalDescriptors(nn.Module):
    """Images of `omama.features.images.normalise` (B, 3, H, W) → descriptors (B, dim, h, w)."""

    version = "1"
    """Changes with the values; part of a feature cache's key."""
    dim = 128

    def __init__(self, patch_size: int = 14) -> None:
        super().__init__()
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        # Counts and logarithms in bfloat16 would depend on the device.
        with torch.autocast(images.device.type, enabled=False):
            return self._describe(images)

    def _describe(self, images: Tensor) -> Tensor:
        rgb = _denormalise(images.float())
        grey = _grey(rgb)  # (B, 1, H, W)
        # Colour and the coarse scale need half the resolution, a quarter of the time.
        small_rgb = F.avg_pool2d(rgb, 2)
        small_grey = _grey(small_rgb)
        patch, small_patch = self.patch_size, self.patch_size // 2
        lab, ratios = _lab(small_rgb), _log_ratios(small_rgb)  # (B, 3, ..), (B, 2, ..)
        return torch.cat(
            [
                _lightness_histogram(lab, small_patch),  # 8
                _joint_histogram(lab[:, 1:], _AB_REACH, _AB_BINS, small_patch),  # 36
                _joint_histogram(ratios, _RATIO_REACH, _RATIO_BINS, small_patch),  # 25
                _moments(lab, ratios, small_patch),  # 10
                _gradient_histogram(grey, patch),  # 8 + 1
                _gradient_histogram(small_grey, small_patch),  # 8 + 1
                _local_patterns(grey, patch),  # 10
                _local_patterns(small_grey, small_patch),  # 10
                _band_energies(grey, patch, levels=1),  # 1
                _band_energies(small_grey, small_patch, levels=2),  # 2
                _band_energies(lab[:, 1:] / 50, small_patch, levels=2),  # 4
                _surroundings(lab, small_patch),  # 4
            ],
            dim=1,
        )  # (B, 128, h, w)


def _denormalise(images: Tensor) -> Tensor:
    mean, std = images.new_tensor(_MEAN), images.new_tensor(_STD)
    return (images * std[:, None, None] + mean[:, None, None]).clamp(0, 1)


def _grey(rgb: Tensor) -> Tensor:
    red, green, blue = _GREY
    return red * rgb[:, :1] + green * rgb[:, 1:2] + blue * rgb[:, 2:]


def _lab(rgb: Tensor) -> Tensor:
    """sRGB in 0..1 (B, 3, H, W) → CIE L*, a*, b* (B, 3, H, W)."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("bchw,dc->bdhw", linear, rgb.new_tensor(_RGB_TO_XYZ))
    root = torch.where(xyz > 0.008856, xyz.clamp(min=1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = root.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def _log_ratios(rgb: Tensor) -> Tensor:
    """log(R / G), log(B / G) (B, 2, H, W): exposure cancels, white balance is a shift."""
    logs = (rgb + 0.04).log()
    return logs[:, [0, 2]] - logs[:, 1:2]


def _tents(values: Tensor, low: float, high: float, bins: int) -> Tensor:
    """(...) → (..., bins): each value shared between its two nearest bins; ends are open."""
    position = ((values - low) / (high - low) * (bins - 1)).clamp(0, bins - 1)
    centres = torch.arange(bins, device=values.device, dtype=values.dtype)
    return (1 - (position[..., None] - centres).abs()).clamp(min=0)


def _by_patch(values: Tensor, patch: int) -> Tensor:
    """(B, H, W, ...) → (B, h, w, patch * patch, ...)."""
    split = values.unflatten(2, (-1, patch)).unflatten(1, (-1, patch))  # (B, h, P, w, P, ...)
    patches: Tensor = split.transpose(2, 3).flatten(3, 4)
    return patches


def _lightness_histogram(lab: Tensor, patch: int) -> Tensor:
    shares = _by_patch(_tents(lab[:, 0], 5.0, 95.0, _LIGHTNESS_BINS), patch).mean(dim=3)
    return (3 * (shares - 1 / _LIGHTNESS_BINS)).permute(0, 3, 1, 2)  # (B, bins, h, w)


def _joint_histogram(pair: Tensor, reach: float, bins: int, patch: int) -> Tensor:
    """Two channels (B, 2, H, W) → their joint histogram (B, bins * bins, h, w)."""
    first, second = (
        _by_patch(_tents(pair[:, i], -reach, reach, bins), patch) for i in range(2)
    )  # (B, h, w, P * P, bins)
    shares = first.transpose(-1, -2) @ second / first.shape[3]  # (B, h, w, bins, bins)
    return (4 * shares.flatten(3)).permute(0, 3, 1, 2)


def _mean_and_deviation(values: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    mean = F.avg_pool2d(values, patch)
    variance = F.avg_pool2d(values * values, patch) - mean * mean
    return mean, variance.clamp(min=0).sqrt()


def _moments(lab: Tensor, ratios: Tensor, patch: int) -> Tensor:
    values = torch.cat([lab / 25, ratios * 2.5], dim=1)  # (B, 5, H, W)
    mean, deviation = _mean_and_deviation(values, patch)
    mean[:, 0] -= 2  # lightness 50
    return torch.cat([mean, 2 * deviation], dim=1)  # (B, 10, h, w)


def _gradient_histogram(grey: Tensor, patch: int) -> Tensor:
    """Shares of the edges' orientations, and how strong edges are (B, 9, h, w).

    Orientation is unsigned; bins are lobes max(0, cos 2(theta - bin))^2 of the doubled angle,
    which needs no arctangent.
    """
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    strength = (across**2 + down**2 + 1e-12).sqrt()
    cos2, sin2 = (across**2 - down**2) / strength**2, 2 * across * down / strength**2
    angles = torch.arange(_ANGLES, device=grey.device) * (2 * math.pi / _ANGLES)
    axes = torch.stack([angles.cos(), angles.sin()], dim=1)[:, :, None, None]  # (A, 2, 1, 1)
    lobes = F.conv2d(torch.cat([cos2, sin2], dim=1), axes).clamp(min=0) ** 2  # (B, A, H, W)
    edges = F.avg_pool2d(lobes * strength, patch)
    shares = edges / (edges.sum(dim=1, keepdim=True) + 0.01)
    total = (F.avg_pool2d(strength, patch) + 0.01).log() + 2.5
    return torch.cat([5 * (shares - 1 / _ANGLES), total], dim=1)


def _local_patterns(grey: Tensor, patch: int) -> Tensor:
    """Histogram of rotation-invariant uniform local binary patterns (B, 10, h, w).

    T. Ojala et al., "Multiresolution gray-scale and rotation invariant texture classification
    with local binary patterns", 2002: patterns of at most two transitions by their number of
    set bits, and one class for all others.
    """
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")[:, 0] - _LBP_THRESHOLD
    height, width = grey.shape[-2:]
    code = torch.zeros_like(grey[:, 0], dtype=torch.uint8)
    for bit, (dy, dx) in enumerate(_NEIGHBOURS):
        neighbour = padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        code |= (neighbour > grey[:, 0]).to(torch.uint8) << bit
    classes = _uniform_classes().to(grey.device)[code.long()]  # (B, H, W)
    h, w = height // patch, width // patch
    rows = torch.arange(height, device=grey.device) // patch
    cols = torch.arange(width, device=grey.device) // patch
    images = torch.arange(len(grey), device=grey.device)[:, None, None]
    cell = (images * h + rows[:, None]) * w + cols  # (B, H, W)
    counts = torch.bincount(
        (cell * _LBP_CLASSES + classes).flatten(), minlength=len(grey) * h * w * _LBP_CLASSES
    )
    shares = counts.view(len(grey), h, w, _LBP_CLASSES).permute(0, 3, 1, 2) / patch**2
    return 3 * (shares.to(grey.dtype) - 1 / _LBP_CLASSES)


def _uniform_classes() -> Tensor:
    """The class of each of the 256 patterns, (256,) int64."""
    classes = []
    for code in range(256):
        bits = [code >> i & 1 for i in range(8)]
        turns = sum(a != b for a, b in itertools.pairwise([*bits, bits[0]]))
        classes.append(sum(bits) if turns <= 2 else _LBP_CLASSES - 1)
    return torch.tensor(classes)


def _band_energies(values: Tensor, patch: int, *, levels: int) -> Tensor:
    """Log of the mean size of what blurs of growing width take away, (B, C * levels, h, w)."""
    energies = []
    for level in range(levels):
        reach = 2**level
        blurred = F.avg_pool2d(
            F.pad(values, (reach,) * 4, mode="replicate"), 2 * reach + 1, stride=1
        )
        energies.append((F.avg_pool2d((values - blurred).abs(), patch) + 0.005).log() + 4)
        values = blurred
    return torch.cat(energies, dim=1)


def _surroundings(lab: Tensor, patch: int) -> Tensor:
    """How the patch differs from the 3x3 patches around it, and their contrast, (B, 4, h, w)."""
    mean, deviation = _mean_and_deviation(lab / 25, patch)
    wide, spread = (
        F.avg_pool2d(F.pad(v, (1,) * 4, mode="replicate"), 3, stride=1)
        for v in (mean, deviation[:, :1])
    )
    return torch.cat([mean - wide, 2 * spread], dim=1)
