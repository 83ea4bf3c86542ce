"""What the commands of `omama` share."""

from typing import Any

import click

from egoexo_tools.commands import FILE, feature_precision_option
from omama.methods import METHODS

method_option = click.option(
    "--method", type=click.Choice(list(METHODS)), help="What predicts.  [default: o-mama]"
)


def backbone_options(function: Any) -> Any:
    """--backbone, --weights and --feature-precision: which frozen features."""
    for option in (
        feature_precision_option,
        click.option("--weights", type=FILE, help="The backbone's original checkpoint file."),
        click.option(
            "--backbone",
            default="dinov2",
            show_default=True,
            help="dinov2, dinov3, dinov3-b, resnet50-dino, resnet50-dino-s16, efficientnet-lite0, "
            "classical or rgb_grid.",
        ),
    ):
        function = option(function)
    return function
