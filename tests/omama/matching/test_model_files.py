"""O-MaMa's model in files: the authors' format, our checkpoints, and files that do not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from egoexo_tools.errors import DataError
from egoexo_tools.vocab import Direction
from omama.checkpoint import Checkpoint, save_checkpoint
from omama.matching.config import ModelConfig
from omama.matching.model import OMama
from omama.matching.model_files import load_model, load_official, save_official

SMALL = ModelConfig(feature_width=12, width=8, source_grid_hw=(2, 3), dest_grid_hw=(3, 3))


def small() -> Checkpoint:
    return Checkpoint(SMALL.to_dict(), OMama(SMALL).state_dict(), "o-mama")


@pytest.mark.parametrize("visibility_head", [True, False])
@pytest.mark.parametrize("direction", list(Direction))
def test_official_checkpoints_survive_a_round_trip(
    tmp_path: Path, direction: Direction, visibility_head: bool
) -> None:
    model = OMama(ModelConfig.official(direction, visibility_head=visibility_head))
    save_official(model, tmp_path / "official.pt")
    content = torch.load(tmp_path / "official.pt", weights_only=True)
    assert type(content) is dict and set(content) == set(model.state_dict())
    loaded = load_official(tmp_path / "official.pt", direction=direction)
    assert loaded.config == model.config
    assert not loaded.training
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert [path.name for path in tmp_path.iterdir()] == ["official.pt"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model_state_dict": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
    ids=["model_state_dict", "state_dict of DataParallel"],
)
def test_wrapped_state_dicts_are_unwrapped(tmp_path: Path, wrap) -> None:
    state = OMama(ModelConfig.official(Direction.EGO2EXO)).state_dict()
    torch.save(wrap(state), tmp_path / "wrapped.pt")
    assert load_official(tmp_path / "wrapped.pt").config.direction == "ego2exo"


def official(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = dict(OMama(ModelConfig.official(Direction.EXO2EGO)).state_dict())
    state.update({key: value for key, value in changes.items() if value is not None})
    return {key: value for key, value in state.items() if changes.get(key, value) is not None}


class Harmful:
    def __reduce__(self):  # what a pickle would run
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (official(), "was trained for exo2ego, not ego2exo; give the checkpoint of ego2exo"),
        (official(pos_embed_T=torch.zeros(1, 2500, 384)), "has width 384, the published model's"),
        (official(pos_embed_T=torch.zeros(1, 99, 768)), "2584 source and 99 destination positions"),
        (official(pos_embed_T=torch.zeros(1, 2584, 768)), "identify no direction"),
        (official(pos_embed_T=None), "lacks pos_embed_T and pos_embed_Q"),
        ({"pos_embed_T": 3}, "contains no state dict of tensors"),
        ([1, 2], "contains no state dict of tensors"),
        (Harmful(), "holds more than tensors and plain values"),
        (b"not a checkpoint", "is not a PyTorch checkpoint"),
        (b"", "is not a PyTorch checkpoint"),
        (None, "model.pt does not exist"),
    ],
)
def test_files_that_do_not_fit_are_rejected_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    for load in (load_official, load_model):
        with pytest.raises(DataError, match=message):
            load(path, direction=Direction.EGO2EXO)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "key", ["CROSS_context_attn.query.weight", "mlp.mlp.4.bias", "mlp_visible.6.weight"]
)
def test_a_missing_tensor_is_named(tmp_path: Path, key: str) -> None:
    torch.save(official(**{key: None}), tmp_path / "model.pt")
    with pytest.raises(DataError, match=rf"1 of its tensors do not fit, the first {key} \(missing"):
        load_official(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "another"}, "has width 8, the published model's is 768"),
        ({"version": 99}, "has checkpoint version 99, this program reads 1"),
        ({"model_config": {"colour": 1}}, "ModelConfig has no setting colour"),
        ({"model_config": None}, "lacks a part of a checkpoint: 'model_config'"),
        ({"method": "lm-eec"}, "is a checkpoint of lm-eec, not of o-mama; give one of o-mama"),
    ],
)
def test_other_formats_are_rejected(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(small(), path)
    content = torch.load(path, weights_only=True)
    removed = {key for key, value in change.items() if value is None}
    changed = {**content, **change}
    torch.save({key: value for key, value in changed.items() if key not in removed}, path)
    with pytest.raises(DataError, match=message):
        load_model(path)


def test_a_checkpoint_of_another_direction_or_shape_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(small(), path)
    with pytest.raises(DataError, match="was trained for exo2ego, not ego2exo"):
        load_model(path, direction=Direction.EGO2EXO)
    other = replace(SMALL, width=16)
    save_checkpoint(replace(small(), config=other.to_dict()), path)
    with pytest.raises(DataError, match="does not fit its own settings"):
        load_model(path)


def test_a_projection_does_not_fit_the_authors_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not fit the authors' format"):
        save_official(OMama(SMALL), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())
