"""The demo: a synthetic release, and the whole pipeline run on it.

The two records below set what is rendered and how a model is trained on it.
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
    """A synthetic release and the training on it."""

    scene: Mapping[str, Any]
    """Fields of SyntheticOptions."""
    training: Mapping[str, Any]
    """Fields of TrainConfig."""


DEMO = Demo(
    # At full size and frame rate, rendering and encoding would take longer than everything else.
    # Six annotated instants a take, so that objects can be followed.
    scene={
        "scale": 0.4,
        "train_takes": 20,
        "val_takes": 3,
        "test_takes": 5,
        "exo_cameras": 1,
        "annotated_frames": 6,
        "motion_fps": 3,
    },
    # A small model needs fewer epochs and a higher learning rate than the reference's.
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
    # Only checks that everything works; it is far too small to learn from.
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
    """Make `folder`/release, run the pipeline into `folder`/root; returns the score table."""
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
