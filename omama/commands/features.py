"""`omama features`"""

from typing import Any

import click

from egoexo_tools.commands import FILE, all_frames_option, root_argument, stage_options
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import RunOptions
from omama.commands import BACKBONE, cache_precision_option, feature_precision_option


@click.command()
@root_argument
@click.option("--backbone", type=BACKBONE, default="dinov2", help="Backbone to run.")
@click.option("--weights", type=FILE, help="The backbone's original checkpoint file.")
@feature_precision_option
@click.option(
    "--reference-behaviour",
    "squash_portrait",
    is_flag=True,
    help="Also cache portrait frames squashed to landscape, as the reference trains on them.",
)
@click.option(
    "--images-at-once", type=click.IntRange(min=1), default=8, help="Images in one forward pass."
)
@cache_precision_option
@click.option(
    "--descriptors-only",
    is_flag=True,
    help="Cache no tokens: enough for knn, and a fifteenth of the disk space.",
)
@all_frames_option
@stage_options("inline")
def command(
    root: DatasetRoot,
    all_frames: bool,
    cache_precision: str,
    descriptors_only: bool,
    run: RunOptions,
    **features: Any,
) -> None:
    """Cache a frozen backbone's features for the frames that the root's pairs use.

    Prints the number of frames, the time and the disk space first. When pairs are added later,
    only the features of their frames are computed.

    Example: omama features demo/root --backbone efficientnet-lite0
    """
    from omama.features.cache import CacheOptions, run_features

    cache = CacheOptions(all_frames, cache_precision, descriptors_only)
    click.echo(run_features(root, cache=cache, run=run, **features).check().text())
