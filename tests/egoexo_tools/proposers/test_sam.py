"""`--proposer sam2` with tiny networks of the same architectures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")

from egoexo_tools.errors import DataError, SettingsError  # noqa: E402
from egoexo_tools.proposers import sam  # noqa: E402
from egoexo_tools.proposers.base import Frame, ProposerOptions  # noqa: E402
from egoexo_tools.proposers.registry import proposer_entry  # noqa: E402


def tiny_sam2() -> "transformers.PreTrainedModel":
    channels = [8, 16, 32, 64]
    config = transformers.Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "num_attention_heads": 1,
                "image_size": [128, 128],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": channels,
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "global_attention_blocks": [3],
                "window_positional_embedding_background_size": [4, 4],
            },
            "backbone_channel_list": channels[::-1],
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        prompt_encoder_config={"image_size": 128},
    )
    return transformers.Sam2Model(config)


def tiny_sam3() -> "transformers.PreTrainedModel":
    config = transformers.Sam3TrackerConfig(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 112,
                "pretrain_image_size": 112,
                "window_size": 4,
                "global_attn_indexes": [1],
            },
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        prompt_encoder_config={"image_size": 112, "hidden_size": 32},
        mask_decoder_config={
            "hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 4, "iou_head_hidden_dim": 32
        },
    )  # fmt: skip
    return transformers.Sam3TrackerModel(config)


def save(make: Callable[[], Any], folder: Path) -> Path:
    import torch

    torch.manual_seed(0)
    make().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_sam2, tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def sam3_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not hasattr(transformers, "Sam3TrackerModel"):
        pytest.skip(f"transformers {transformers.__version__} has no SAM 3")
    return save(tiny_sam3, tmp_path_factory.mktemp("sam3"))


def noise_images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(count)]


@pytest.fixture
def accept_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every mask: a network with random weights predicts only low scores."""
    monkeypatch.setattr(sam, "MIN_PREDICTED_IOU", -10.0)
    monkeypatch.setattr(sam, "MIN_STABILITY", 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("accept_all")
def test_images_become_proposals(checkpoint: Path) -> None:
    network = sam.load_network(checkpoint, device="cpu")
    frame_proposals = sam.propose(network, noise_images(2), points=4)
    assert len(frame_proposals) == 2
    (second,) = sam.propose(network, noise_images(2)[1:], points=4)
    assert [p.rle for p in frame_proposals[1].proposals] == [p.rle for p in second.proposals]
    for proposals in (frame.proposals for frame in frame_proposals):
        assert proposals, "no mask at all"
        assert {(p.rle.height, p.rle.width) for p in proposals} == {(48, 64)}
        scores = [p.score for p in proposals]
        assert scores == sorted(scores, reverse=True)
    (limited,) = sam.propose(network, noise_images(1), max_det=1, points=4)
    assert len(limited.proposals) == 1
    assert limited.truncated == (len(frame_proposals[0].proposals) > 1)


@pytest.mark.slow
@pytest.mark.usefixtures("accept_all")
def test_sam_3_uses_the_same_module(sam3_checkpoint: Path) -> None:
    network = sam.load_network(sam3_checkpoint, device="cpu")
    processor = network.image_processor
    assert type(processor).__name__ == "Sam3ImageProcessor"
    assert list(processor.image_mean) == [0.5] * 3  # SAM 2's are ImageNet's
    assert (processor.size["height"], processor.size["width"]) == (112, 112)
    (frame_proposals,) = sam.propose(network, noise_images(1), points=4)
    assert frame_proposals.proposals
    assert {(p.rle.height, p.rle.width) for p in frame_proposals.proposals} == {(48, 64)}


def test_a_transformers_without_sam_3_is_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "sam3_tracker"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(sam, "_transformers", lambda: SimpleNamespace(__version__="4.50"))
    with pytest.raises(SettingsError, match="4.50 does not support.* Sam3TrackerModel"):
        sam.load_network(tmp_path)


@pytest.mark.slow
def test_the_entry_loads_the_proposer(checkpoint: Path, tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "0.png"), noise_images(1)[0])
    options = ProposerOptions(weights=checkpoint / "model.safetensors", device="cpu", max_det=5)
    entry = proposer_entry("sam2")
    settings = entry.settings(options)
    assert settings["max_det"] == 5 and len(settings["weights"]) == 64
    (frame_proposals,) = entry.load(options)([Frame(tmp_path / "0.png", 48, 64)])
    assert len(frame_proposals.proposals) <= 5


def test_unsuitable_weights_are_explained(checkpoint: Path, tmp_path: Path) -> None:
    def message(**options: object) -> str:
        with pytest.raises((SettingsError, DataError)) as error:
            proposer_entry("sam2").settings(ProposerOptions(**options))  # type: ignore[arg-type]
        return str(error.value)

    assert "needs --weights" in message()
    assert "leave out --image-size" in message(weights=checkpoint, image_size=512)
    assert "has no config.json" in message(weights=tmp_path / "sam2.pt")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "model.safetensors").write_bytes(b"no")
    assert "contains a 'bert'" in message(weights=tmp_path)
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    with pytest.raises(DataError, match="not contain a readable network"):
        sam.load_network(tmp_path)
