"""Trainings of O-MaMa on the tiny root of squares, shared by several test modules."""

import json
from pathlib import Path
from typing import Any

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.runs import RunFolder
from egoexo_tools.vocab import Direction
from omama import methods
from omama.config import Features
from omama.features.descriptor_part import DescriptorPart
from omama.matching.config import MatchingOptions, TrainConfig
from omama.matching.train import train

CONFIG = TrainConfig(epochs=3, batch_pairs=4, width=16, learning_rate=3e-3)


def train_run(
    root: DatasetRoot,
    name: str,
    config: TrainConfig = CONFIG,
    *,
    cached: bool = True,
    stop_after: int | None = None,
    **options: Any,
) -> Path:
    """Train ego2exo into runs/`name`; returns the best checkpoint."""
    features = Features("rgb_grid", cached=cached)
    return train(
        root,
        Direction.EGO2EXO,
        config,
        RunFolder.of(root, name),
        options=MatchingOptions(features=features, **{"quiet": True, **options}),
        stop_after=stop_after,
    )


def finish_run(root: DatasetRoot, name: str) -> None:
    """The part of `omama train` after training."""
    options = MatchingOptions(features=Features("rgb_grid"))
    run = RunFolder.of(root, name)
    methods.finish_training("o-mama", root, Direction.EGO2EXO, run, options=options)


def read_log(root: DatasetRoot, name: str) -> list[dict[str, Any]]:
    lines = RunFolder.of(root, name).log.read_text().splitlines()
    return [json.loads(line) for line in lines]


def read_losses(root: DatasetRoot, name: str) -> list[float]:
    return [line["loss"] for line in read_log(root, name) if "loss" in line]


def read_config(root: DatasetRoot, name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(RunFolder.of(root, name).config.read_text())
    return config


def blind(part: DescriptorPart) -> None:
    """Make all similarities of a model equal, so that it chooses the first proposal."""
    part.mean.fill_(1e8)  # all descriptors minus this are equal
    part.logit.data.fill_(-60)
