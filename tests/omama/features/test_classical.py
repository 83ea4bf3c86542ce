"""Classical descriptors: each group on pictures whose answer is known, and what all must keep."""

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from omama.features.backbones import build_backbone
from omama.features.classical import ClassicalDescriptors, _lab, _uniform_classes
from omama.features.images import normalise

LIGHTNESS, AB, ORIENTATION, PATTERNS = slice(0, 8), slice(8, 44), slice(79, 87), slice(97, 107)
SIDE = 14 * 6


def describe(rgb: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 → (128, h, w)."""
    return ClassicalDescriptors()(normalise(torch.from_numpy(rgb)[None]))[0]


def flat(*rgb: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), rgb, np.uint8)


def noise(height: int = SIDE, width: int = SIDE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def stripes(axis: int) -> np.ndarray:
    """Bands of 7 pixels; they change along `axis`."""
    bands = np.where(np.arange(SIDE) // 7 % 2, 200, 50).astype(np.uint8)
    return np.broadcast_to(np.expand_dims(bands, (1 - axis, 2)), (SIDE, SIDE, 3)).copy()


@pytest.mark.parametrize(("height", "width"), [(266, 476), (350, 350), (84, 14)])
def test_shapes_follow_the_patch_grid(height: int, width: int) -> None:
    backbone = build_backbone("classical")
    features = backbone(normalise(torch.from_numpy(np.stack([noise(height, width)] * 2))))
    assert features.shape == (2, 128, height // 14, width // 14)
    assert (backbone.dim, backbone.patch_size, features.dtype) == (128, 14, torch.float32)
    torch.testing.assert_close(features[0], features[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("rgb", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (3, 200, 90)])
def test_flat_pictures_give_finite_values_without_edges(rgb: tuple[int, int, int]) -> None:
    features = describe(flat(*rgb))
    assert torch.isfinite(features).all()
    assert features.abs().max() < 10
    # Float rounding may differ between interior and border, nothing else.
    torch.testing.assert_close(features, features[:, :1, :1].expand_as(features), atol=1e-3, rtol=0)
    whole = 3 * (1 - 1 / 10)
    assert features[PATTERNS, 2, 2][0].item() == pytest.approx(whole), "no neighbour brighter"


def test_lab_is_skimages() -> None:
    rgb = noise(40, 50) / 255
    got = _lab(torch.from_numpy(rgb).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    np.testing.assert_allclose(got, rgb2lab(rgb), atol=0.05)


def test_brighter_means_a_higher_lightness_bin() -> None:
    bins = [describe(flat(v, v, v))[LIGHTNESS, 3, 3].argmax().item() for v in (0, 80, 160, 255)]
    assert bins == sorted(set(bins)) and bins[0] == 0 and bins[-1] == 7


def test_histograms_of_a_patch_sum_to_one() -> None:
    features = describe(noise())
    torch.testing.assert_close((features[LIGHTNESS] / 3 + 1 / 8).sum(0), torch.ones(6, 6))
    torch.testing.assert_close((features[AB] / 4).sum(0), torch.ones(6, 6))
    torch.testing.assert_close((features[PATTERNS] / 3 + 1 / 10).sum(0), torch.ones(6, 6))


def test_edges_have_their_orientation() -> None:
    across, down = (describe(stripes(axis))[ORIENTATION, 2, 2].argmax() for axis in (1, 0))
    assert (across.item(), down.item()) == (0, 4), "half a turn of the doubled angle apart"


def test_uniform_patterns_are_those_of_ojala() -> None:
    classes = _uniform_classes()
    assert classes[[0b0, 0b1, 0b11000001, 0b11111111, 0b101]].tolist() == [0, 1, 3, 8, 9]
    assert (classes != 9).sum() == 58


def test_a_patch_knows_only_its_surroundings() -> None:
    """What happens two patches away changes nothing; a picture moved by a patch moves too."""
    rgb = noise()
    other = rgb.copy()
    other[:, 70:] = 128
    torch.testing.assert_close(describe(rgb)[:, :, :3], describe(other)[:, :, :3])
    moved = describe(np.roll(rgb, 14, axis=1))
    torch.testing.assert_close(moved[:, 2:4, 3:5], describe(rgb)[:, 2:4, 2:4], atol=1e-4, rtol=0)


def test_autocast_changes_nothing() -> None:
    plain = describe(noise())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(describe(noise()), plain)


def test_different_textures_of_one_mean_colour_differ() -> None:
    fine, coarse = noise(seed=1), np.kron(noise(12, 12, seed=2), np.ones((7, 7, 1), np.uint8))
    means = [torch.nn.functional.normalize(describe(rgb).mean((1, 2)), dim=0) for rgb in
             (fine, noise(seed=3), coarse)]  # fmt: skip
    assert means[0] @ means[1] > 0.99 > 0.85 > means[0] @ means[2]
