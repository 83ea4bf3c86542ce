"""What the commands of `omama` share."""

from typing import Any

import click

from egoexo_tools.commands import FILE
from egoexo_tools.commands.choices import NameOf

BACKBONE = NameOf("omama.features.registry:BACKBONES")
METHOD = NameOf("omama.methods:METHODS")
CACHE_PRECISION = NameOf("omama.features.registry:CACHE_PRECISIONS")
PRECISION = NameOf("omama.features.registry:PRECISIONS")

method_option = click.option("--method", type=METHOD, help="What predicts.  [default: o-mama]")
feature_precision_option = click.option(
    "--feature-precision",
    type=PRECISION,
    default="fp32",
    show_default=True,
    help="Of the backbone; bf16 is faster on a GPU.",
)

cache_precision_option = click.option(
    "--cache-precision",
    type=CACHE_PRECISION,
    default="fp16",
    show_default=True,
    help="Of cached tokens; int8 takes half the disk.",
)


def backbone_options(function: Any) -> Any:
    """--backbone, --weights and --feature-precision: which frozen features."""
    for option in (
        feature_precision_option,
        click.option("--weights", type=FILE, help="The backbone's original checkpoint file."),
        click.option(
            "--backbone",
            type=BACKBONE,
            default="dinov2",
            show_default=True,
            help="Whose features.",
        ),
    ):
        function = option(function)
    return function
