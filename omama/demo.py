"""The demo: a release rendered from nothing, and the whole chain run on it.

What it renders and how it trains are the two records below; everything else is `run_pipeline`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import RunOptions
from omama.pipeline import PipelineOptions, Say, run_pipeline


@dataclass(frozen=True)
class Demo:
    """What is rendered, and how it is learned from."""

    scene: Mapping[str, Any]
    """Fields of SyntheticOptions."""
    training: Mapping[str, Any]
    """Fields of TrainConfig."""


DEMO = Demo(
    # Two fifths of the size and few pictures a second: rendering and encoding 4K would alone take
    # longer than all the rest. Six instants a take, so that there is something to follow.
    scene={
        "scale": 0.4,
        "train_takes": 20,
        "val_takes": 3,
        "test_takes": 5,
        "exo_cameras": 1,
        "annotated_frames": 6,
        "motion_fps": 3,
    },
    # A small model on small features learns faster than the reference's settings allow for.
    training={
        "epochs": 8,
        "learning_rate": 1e-3,
        "average_decay": 0.995,
        "weight_decay": 0.3,
        "width": 128,
        "candidates": 64,
    },
)

TINY = Demo(
    # Whether everything works: far too little to learn anything from.
    scene={
        "scale": 0.2,
        "train_takes": 2,
        "val_takes": 1,
        "test_takes": 1,
        "exo_cameras": 1,
        "annotated_frames": 2,
        "motion_fps": 1,
    },
    training={"epochs": 2, "batch_pairs": 16, "width": 64, "candidates": 32},
)


def run_demo(folder: Path, demo: Demo = DEMO, *, seed: int, run: RunOptions, say: Say) -> str:
    """Synthesize FOLDER/release, run everything into FOLDER/root, return the score table."""
    from egoexo_tools.synthetic import SyntheticOptions, synthesize

    say("Synthesizing a release (rendered scenes, real H.264 videos) ...")
    options = SyntheticOptions(seed=seed, **demo.scene)
    root = DatasetRoot(folder / "root")
    release = synthesize(folder / "release", options, quiet=run.quiet, workers=run.workers)
    return run_pipeline(
        root,
        release,
        PipelineOptions(training={**demo.training, "seed": seed}, seed=seed),
        run=run,
        say=say,
    )
