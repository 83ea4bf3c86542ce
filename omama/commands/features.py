"""`omama features`"""

from pathlib import Path

import click

from egoexo_tools.commands import all_frames_option, root_argument, stage_options
from egoexo_tools.running.records import RunOptions
from omama.commands import backbone_options, cache_precision_option


@click.command()
@root_argument
@backbone_options
@click.option(
    "--reference-behaviour",
    is_flag=True,
    help="Also portrait frames squashed to landscape, as the reference trains.",
)
@click.option(
    "--images-at-once",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Images in one forward pass.",
)
@cache_precision_option
@click.option("--descriptors-only", is_flag=True, help="No tokens: for k-NN, a fifteenth.")
@all_frames_option
@stage_options("inline")
def command(
    root: Path,
    backbone: str,
    weights: Path | None,
    feature_precision: str,
    reference_behaviour: bool,
    images_at_once: int,
    cache_precision: str,
    descriptors_only: bool,
    all_frames: bool,
    run: RunOptions,
) -> None:
    """Cache a frozen backbone's features for the frames that the root's pairs use.

    What it will take is printed first. With more pairs later only their frames are added.

    Example: omama features demo/root --backbone efficientnet-lite0 --executor process
    """
    from egoexo_tools.layout import DatasetRoot
    from omama.features.cache import CacheOptions, run_features

    summary = run_features(
        DatasetRoot(root),
        backbone=backbone,
        weights=weights,
        feature_precision=feature_precision,
        squash_portrait=reference_behaviour,
        images_at_once=images_at_once,
        cache=CacheOptions(all_frames, cache_precision, descriptors_only),
        run=run,
    )
    click.echo(summary.check().text())
