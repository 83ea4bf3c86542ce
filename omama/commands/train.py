"""`omama train`"""

import os
from pathlib import Path
from typing import Any

import click

from egoexo_tools.commands import FILE, root_argument
from egoexo_tools.commands.choices import DIRECTION, NameOf
from omama.commands import backbone_options, method_option

POSITIVE = click.IntRange(min=1)


@click.command()
@root_argument
@click.option("--direction", type=DIRECTION, required=True)
@method_option
@backbone_options
@click.option(
    "--cached/--on-the-fly", default=True, show_default=True, help="Features from the cache or not."
)
@click.option("--run-name", help="Folder under ROOT/runs.  [default: the direction, -METHOD]")
@click.option("--init", type=FILE, help="Start from a checkpoint, ours or the authors'.")
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint.")
@click.option("--epochs", type=POSITIVE, help="[default: 3]")
@click.option("--batch-pairs", type=POSITIVE, help="Pairs in a batch.  [default: 24]")
@click.option("--accumulate", type=POSITIVE, help="Batches in a step.  [default: 1]")
@click.option("--learning-rate", type=float, help="Of AdamW, at the start.  [default: 8e-5]")
@click.option("--weight-decay", type=float, help="Of AdamW.  [default: 0.01]")
@click.option(
    "--average-decay", type=float, help="Keep a moving average of the weights, such as 0.995."
)
@click.option("--width", type=POSITIVE, help="Channels of the model.  [default: 768]")
@click.option(
    "--residual/--no-residual",
    default=None,
    help="The descriptors' own cosine is a part of the score.  [default: but for dinov2]",
)
@click.option("--candidates", type=POSITIVE, help="Candidates of a pair.  [default: 32]")
@click.option("--val-every-steps", type=POSITIVE, help="[default: once an epoch]")
@click.option("--patience", type=POSITIVE, help="Validations without a better one before the end.")
@click.option("--visibility-weight", type=float, help="0: head untrained.  [default: 1]")
@click.option(
    "--precision",
    type=NameOf("omama.features.registry:PRECISIONS", also=("auto",)),
    help="Of the model.  [default: auto]",
)
@click.option("--seed", type=int, help="[default: 0]")
@click.option("--reference-behaviour", is_flag=True, default=None, help="Keep its quirks too.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(
    root: Path,
    direction: str,
    method: str | None,
    run_name: str | None,
    init: Path | None,
    resume: bool,
    quiet: bool,
    **further: Any,
) -> None:
    """Train a method on a root's pairs, O-MaMa unless another is named; several GPUs by torchrun.

    Example: omama train demo/root --direction ego2exo --backbone efficientnet-lite0 --width 128
    """
    from egoexo_tools import runs
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.vocab import Direction
    from omama import methods

    name = method or methods.DEFAULT_METHOD
    features = _features(further)
    choices = {"init": init, "resume": resume or None}
    options = methods.make_options(
        name, choices, where_known={"features": features, "quiet": quiet}
    )
    settings = {key: value for key, value in further.items() if value is not None}
    dataset_root, parsed = DatasetRoot(root), Direction(direction)
    run = runs.RunFolder.of(dataset_root, run_name or runs.run_name(parsed, name))
    config = methods.make_config(name, settings)
    best = methods.train(name, dataset_root, parsed, config, run, options=options)
    if os.environ.get("RANK", "0") == "0":  # torchrun starts one process per GPU
        methods.finish_training(name, dataset_root, parsed, run, options=options)
        click.echo(f"best checkpoint: {best}")


def _features(further: dict[str, Any]) -> Any:
    """The choice of features, taken out of the other options: what is left are settings."""
    from omama.config import Features

    return Features(
        backbone=further.pop("backbone"),
        weights=further.pop("weights"),
        feature_precision=further.pop("feature_precision"),
        cached=further.pop("cached"),
    )
