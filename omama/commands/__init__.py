"""Options that several commands of `omama` share."""

import click

from egoexo_tools.commands.choices import NameOf

BACKBONE = NameOf("omama.features.registry:BACKBONES")
METHOD = NameOf("omama.methods:METHODS")

method_option = click.option(
    "--method", type=METHOD, default="o-mama", help="Method that predicts."
)
feature_precision_option = click.option(
    "--feature-precision",
    type=NameOf("omama.config:PRECISIONS"),
    default="fp32",
    help="Precision of the backbone; bf16 is faster on a GPU.",
)
cache_precision_option = click.option(
    "--cache-precision",
    type=NameOf("omama.features.registry:CACHE_PRECISIONS"),
    default="fp16",
    help="Precision of cached tokens; int8 takes half the disk space.",
)
