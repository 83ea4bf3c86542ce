"""Backbones from original checkpoint files, and the two that need none."""

import urllib.request
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from torchvision.models.resnet import Bottleneck, ResNet

from egoexo_tools.errors import DataError
from omama.features.backbones import BACKBONES, build_backbone

TINY_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}


def saved(path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save(state, path)
    return path


def dinov2_state(goldens: Path, rng: np.random.RandomState) -> dict[str, torch.Tensor]:
    golden = np.load(goldens / "dinov2_reg.npz")
    state = {}
    for key, text in zip(golden["keys"], golden["shapes"], strict=True):
        shape = [int(size) for size in text.strip("()").split(",") if size]
        state[str(key)] = torch.from_numpy((rng.standard_normal(shape) * 0.05).astype(np.float32))
    return state


def test_dinov2_equals_the_golden_tokens(goldens: Path, tmp_path: Path) -> None:
    golden = np.load(goldens / "dinov2_reg.npz")
    rng = np.random.RandomState(7)
    path = saved(tmp_path / "dinov2.pth", dinov2_state(goldens, rng))
    backbone = build_backbone("dinov2", path, embed_dim=96, depth=2, num_heads=4)
    assert (backbone.name, backbone.patch_size, backbone.dim) == ("dinov2", 14, 96)
    for view, height, width in (("exo", 532, 952), ("ego", 700, 700)):
        image = torch.from_numpy(rng.standard_normal((1, 3, height, width)).astype(np.float32))
        features = backbone(image)
        assert features.shape == (1, 96, height // 14, width // 14)
        tokens = features[0].flatten(1).T[::37]
        np.testing.assert_allclose(tokens, golden[view], atol=1e-5, rtol=0)


def dinov3_state(*, gated: bool, width: int = 32, blocks: int = 2) -> dict[str, torch.Tensor]:
    """The original format of a tiny DINOv3, weights of a size that lets every part matter."""
    hidden = width * 4
    mlp = (
        {f"w{i}": shape for i, shape in ((1, (hidden, width)), (2, (hidden, width)))}
        | {"w3": (width, hidden)}
        if gated
        else {"fc1": (hidden, width), "fc2": (width, hidden)}
    )
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "storage_tokens": (1, 4, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for block in (f"blocks.{i}" for i in range(blocks)):
        linears = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        for name, shape in {**linears, **{f"mlp.{k}": v for k, v in mlp.items()}}.items():
            shapes[f"{block}.{name}.weight"], shapes[f"{block}.{name}.bias"] = shape, shape[:1]
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"{block}.{name}"] = (width,)
        shapes[f"{block}.ls1.gamma"] = shapes[f"{block}.ls2.gamma"] = (width,)
    generator = torch.Generator().manual_seed(8)
    state = {key: torch.randn(shape, generator=generator) * 0.2 for key, shape in shapes.items()}
    state["rope_embed.periods"] = 100.0 ** (torch.arange(4) / 4)
    for i in range(blocks):
        mask = torch.ones(3 * width)
        mask[width : 2 * width] = 0  # keys have no bias
        state[f"blocks.{i}.attn.qkv.bias_mask"] = mask
    return state


@pytest.mark.parametrize(("name", "gated"), [("dinov3", True), ("dinov3-b", False)])
def test_dinov3_equals_its_slow_twin(tmp_path: Path, name: str, gated: bool) -> None:
    state = dinov3_state(gated=gated)
    options = {"mlp_ratio": 4, "swiglu_mlp": gated, **TINY_VIT}
    backbone = build_backbone(name, saved(tmp_path / "dinov3.pth", state), **options)
    for height, width in [(48, 80), (80, 48)]:
        image = torch.randn(3, height, width, generator=torch.Generator().manual_seed(1))
        features = backbone(image[None])
        assert features.shape == (1, 32, height // 16, width // 16)
        expected = reference.plain_dinov3(state, image, heads=2)
        torch.testing.assert_close(features[0].flatten(1).T, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "stride"), [("resnet50-dino", 32), ("resnet50-dino-s16", 16)])
def test_resnet_equals_torchvisions(tmp_path: Path, name: str, stride: int) -> None:
    torch.manual_seed(0)
    layers = [1, 1, 1, 2]
    dilated = [False, False, stride == 16]
    network = ResNet(Bottleneck, layers, replace_stride_with_dilation=dilated).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    state = {key: v for key, v in network.state_dict().items() if not key.startswith("fc.")}
    path = saved(tmp_path / "dino_resnet50.pth", state)
    backbone = build_backbone(name, path, layers=layers)
    image = torch.randn(1, 3, 64, 96)
    expected = torch.nn.Sequential(*list(network.children())[:-2])(image)
    features = backbone(image)
    assert (backbone.patch_size, backbone.dim) == (stride, 2048)
    assert features.shape == (1, 2048, 64 // stride, 96 // stride)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


def test_published_networks_have_their_sizes() -> None:
    """Names in timm change; the shapes of the networks that we mean do not."""
    import timm

    for name, width, depth in [("dinov2", 768, 12), ("dinov3", 384, 12), ("dinov3-b", 768, 12)]:
        architecture = BACKBONES[name].keywords["architecture"]
        with torch.device("meta"):
            network = timm.create_model(architecture, pretrained=False, num_classes=0)
        assert (network.num_features, len(network.blocks)) == (width, depth)


def test_backbones_are_frozen_and_stay_in_evaluation_mode(tmp_path: Path) -> None:
    path = saved(tmp_path / "dinov3.pth", dinov3_state(gated=True))
    backbone = build_backbone("dinov3", path, mlp_ratio=4, **TINY_VIT)
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone(torch.randn(1, 3, 32, 32, requires_grad=True)).requires_grad


def test_the_weights_hash_depends_on_weights_and_not_on_the_file(tmp_path: Path) -> None:
    state = dinov3_state(gated=True)
    other = {**state, "norm.bias": state["norm.bias"] + 1e-3}
    hashes = [
        build_backbone("dinov3", path, mlp_ratio=4, **TINY_VIT).weights_hash
        for path in (
            saved(tmp_path / "a.pth", state),
            saved(tmp_path / "b.pth", {"model": state}),
            saved(tmp_path / "c.pth", other),
        )
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    assert (
        build_backbone("efficientnet-lite0").weights_hash != build_backbone("rgb_grid").weights_hash
    )


def test_bad_weights_are_rejected_with_a_message(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harmed",))

    missing = dinov3_state(gated=True)
    del missing["blocks.1.attn.proj.weight"]
    (tmp_path / "text.pth").write_bytes(b"no weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    resnet = ResNet(Bottleneck, [1, 1, 1, 1]).state_dict()
    cases = {
        tmp_path / "none.pth": "file .*none.pth does not exist; give the original checkpoint",
        tmp_path / "text.pth": "does not hold the weights of dinov3",
        tmp_path / "empty.pth": "does not hold the weights of dinov3",
        saved(tmp_path / "wide.pth", dinov3_state(gated=True, width=48)): "size mismatch",
        saved(tmp_path / "short.pth", missing): "Missing key.*blocks.1.attn.proj.weight",
        saved(tmp_path / "resnet.pth", resnet): "does not hold the weights of dinov3",
        saved(tmp_path / "harmful.pth", {"model": Harmful()}): "holds more than tensors",
    }
    for path, message in cases.items():
        with pytest.raises(DataError, match=message):
            build_backbone("dinov3", path, mlp_ratio=4, **TINY_VIT)
    assert not (tmp_path / "harmed").exists()
    with pytest.raises(DataError, match=r"resnet50-dino \(.*Missing key"):
        short = {key: value for key, value in resnet.items() if "layer4" not in key}
        build_backbone("resnet50-dino", saved(tmp_path / "r.pth", short), layers=[1, 1, 1, 1])
    with pytest.raises(DataError, match="'dinov9' is not a backbone; use one of dinov2, dinov3"):
        build_backbone("dinov9")
    with pytest.raises(DataError, match="rgb_grid has no weights; leave out"):
        build_backbone("rgb_grid", tmp_path / "short.pth")


def test_without_a_network_the_error_asks_for_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    # urllib keeps the proxies of its first use: these must not stay for other tests.
    monkeypatch.setattr(urllib.request, "_opener", None)
    with pytest.raises(DataError, match=r"resnet50-dino could not be fetched \(.*give their file"):
        build_backbone("resnet50-dino", layers=[1, 1, 1, 1])


def test_images_must_be_multiples_of_the_patch() -> None:
    with pytest.raises(DataError, match="multiples of 14, not 30x28"):
        build_backbone("rgb_grid")(torch.zeros(1, 3, 28, 30))


def test_rgb_grid_is_the_mean_colour_of_each_patch() -> None:
    image = torch.zeros(1, 3, 28, 42)
    image[0, 1, 14:, 28:] = 2
    features = build_backbone("rgb_grid")(image)
    expected = torch.zeros(1, 3, 2, 3)
    expected[0, 1, 1, 2] = 2
    torch.testing.assert_close(features, expected)
