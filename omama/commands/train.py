"""`omama train`"""

import os
from pathlib import Path
from typing import Any

import click

from egoexo_tools.commands import root_argument
from egoexo_tools.commands.choices import DIRECTION
from omama.commands import method_option
from omama.commands.method_options import MethodCommand


@click.command(cls=MethodCommand, trains=True)
@root_argument
@click.option("--direction", type=DIRECTION, required=True, help="Source view to destination view.")
@method_option
@click.option(
    "--run-name", help="Folder under ROOT/runs.  [default: named by direction and method]"
)
@click.option("--quiet", is_flag=True, help="Show no progress bar.")
def command(
    root: Path,
    direction: str,
    method: str,
    run_name: str | None,
    quiet: bool,
    config: dict[str, Any],
    options: dict[str, Any],
    features: dict[str, Any],
) -> None:
    """Train a method on a root's pairs. Start it with torchrun to use several GPUs.

    \b
    Example:
      omama train demo/root --direction ego2exo --backbone efficientnet-lite0 \\
        --width 128 --epochs 2 --run-name small
    """
    from egoexo_tools import runs
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.vocab import Direction
    from omama import methods
    from omama.config import Features

    dataset, parsed = DatasetRoot(root), Direction(direction)
    run = runs.RunFolder.of(dataset, run_name or runs.run_name(parsed, method))
    method_options = methods.make_options(
        method, options, shared={"features": Features(**features), "quiet": quiet}
    )
    best = methods.train(
        method, dataset, parsed, methods.make_config(method, config), run, options=method_options
    )
    # torchrun starts one process per GPU; one of them does what follows the training.
    if os.environ.get("RANK", "0") == "0":
        methods.finish_training(method, dataset, parsed, run, options=method_options)
        click.echo(f"best checkpoint: {best}")
