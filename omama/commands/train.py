"""`omama train`"""

import os
from pathlib import Path
from typing import Any

import click

from egoexo_tools.commands import FILE, root_argument
from omama.commands import backbone_options

POSITIVE = click.IntRange(min=1)


@click.command()
@root_argument
@click.option("--direction", type=click.Choice(["ego2exo", "exo2ego"]), required=True)
@backbone_options
@click.option(
    "--cached/--on-the-fly", default=True, show_default=True, help="Features from the cache or not."
)
@click.option("--run-name", help="Folder under ROOT/runs.  [default: the direction]")
@click.option("--init", type=FILE, help="Start from a checkpoint, ours or the authors'.")
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint.")
@click.option("--epochs", type=POSITIVE, help="[default: 3]")
@click.option("--batch-pairs", type=POSITIVE, help="Pairs in a batch.  [default: 24]")
@click.option("--accumulate", type=POSITIVE, help="Batches in a step.  [default: 1]")
@click.option("--learning-rate", type=float, help="Of AdamW, at the start.  [default: 8e-5]")
@click.option(
    "--average-decay", type=float, help="Keep a moving average of the weights, such as 0.995."
)
@click.option("--width", type=POSITIVE, help="Channels of the model.  [default: 768]")
@click.option("--candidates", type=POSITIVE, help="Candidates of a pair.  [default: 32]")
@click.option("--val-every-steps", type=POSITIVE, help="[default: once an epoch]")
@click.option("--patience", type=POSITIVE, help="Validations without a better one before the end.")
@click.option("--visibility-weight", type=float, help="0: head untrained.  [default: 1]")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    help="Of the model.  [default: auto]",
)
@click.option("--seed", type=int, help="[default: 0]")
@click.option("--reference-behaviour", is_flag=True, default=None, help="Keep its quirks too.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(
    root: Path,
    direction: str,
    backbone: str,
    weights: Path | None,
    feature_precision: str,
    cached: bool,
    run_name: str | None,
    init: Path | None,
    resume: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Train O-MaMa on a root's pairs; several GPUs by torchrun.

    Example: omama train demo/root --direction ego2exo --backbone classical --width 128
    """
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.vocab import Direction
    from omama.matching.config import TrainConfig
    from omama.matching.train import train

    best = train(
        DatasetRoot(root),
        direction=Direction(direction),
        run_name=run_name,
        config=TrainConfig(**{k: v for k, v in settings.items() if v is not None}),
        backbone=backbone,
        weights=weights,
        feature_precision=feature_precision,
        cached=cached,
        resume=resume,
        init=init,
        quiet=quiet,
    )
    if os.environ.get("RANK", "0") == "0":  # torchrun starts one of us per GPU
        click.echo(f"best checkpoint: {best}")
