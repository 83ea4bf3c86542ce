"""Settings: checks, and conversion to the plain values of a checkpoint."""

import json
from pathlib import Path

import pytest

from egoexo_tools.errors import DataError
from egoexo_tools.vocab import Direction
from omama.features.images import PreparationConfig
from omama.matching.config import ModelConfig, TrainConfig


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(direction="ego2exo", feature_width=128, dest_grid_hw=(19, 34)),
        TrainConfig(negative_max_iou=None, precision="bf16"),
        PreparationConfig(patch_size=16),
    ],
    ids=lambda config: type(config).__name__,
)
def test_settings_survive_json(config: ModelConfig | TrainConfig | PreparationConfig) -> None:
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_official_grids_follow_the_direction() -> None:
    config = ModelConfig.official(Direction.EGO2EXO)
    assert (config.source_grid_hw, config.dest_grid_hw) == ((50, 50), (38, 68))
    assert ModelConfig.official(Direction.EXO2EGO) == ModelConfig()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(direction="up"), "'up' is not a direction"),
        (lambda: ModelConfig(width=10), "width=10 is not a multiple of heads=4"),
        (lambda: ModelConfig(dest_grid_hw=(0, 3)), r"dest_grid_hw=\(0, 3\)"),
        (lambda: ModelConfig.from_dict({"colour": 1}), "no setting colour; there are backbone"),
        (lambda: ModelConfig.from_dict({"heads": "4"}), "heads='4'; it must be an integer"),
        (lambda: TrainConfig(epochs=0), "epochs=0; it must be an integer of at least 1"),
        (lambda: TrainConfig(precision="fp8"), "precision='fp8'; use "),
        (lambda: TrainConfig(temperature=0.0), "it must be above 0"),
        (lambda: PreparationConfig(patch_size=0), "patch_size=0"),
    ],
)
def test_bad_settings_are_refused(make, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()


def test_every_training_setting_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
    train = page.partition("### omama train")[2].partition("\n### ")[0]
    options = [f"--{name.replace('_', '-')}" for name in TrainConfig().to_dict()]
    assert [option for option in options if f"{option} " not in train] == []
