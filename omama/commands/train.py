"""`omama train`"""

import os
from typing import Any

import click

from egoexo_tools.commands import quiet_option, root_argument
from egoexo_tools.commands.choices import DIRECTION
from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.vocab import Direction
from omama.commands import method_option
from omama.commands.method_options import MethodCommand


@click.command(cls=MethodCommand, trains=True)
@root_argument
@click.option("--direction", type=DIRECTION, required=True, help="Source view to destination view.")
@method_option
@click.option(
    "--run-name", help="Folder under ROOT/runs.  [default: named by direction and method]"
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace a run of this name, together with its predictions and scores.",
)
@quiet_option
def command(
    root: DatasetRoot,
    direction: Direction,
    method: str,
    run_name: str | None,
    overwrite: bool,
    quiet: bool,
    config: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Train a method on a root's pairs. Start it with torchrun to use several GPUs.

    \b
    Example:
      omama train demo/root --direction ego2exo --backbone efficientnet-lite0 \\
        --width 128 --epochs 2 --run-name small
    """
    from egoexo_tools import runs
    from omama import methods

    run = runs.RunFolder.of(root, run_name or runs.run_name(direction, method))
    if overwrite and options.get("resume"):
        raise SettingsError("--resume continues a run, --overwrite replaces it; give one of them")
    method_options = methods.make_options(method, options, shared={"quiet": quiet})
    training = methods.make_config(method, config)
    best = methods.train(
        method, root, direction, training, run, options=method_options, overwrite=overwrite
    )
    # torchrun starts one process per GPU; one of them does what follows the training.
    if os.environ.get("RANK", "0") == "0":
        methods.finish_training(method, root, direction, run, options=method_options)
        click.echo(f"best checkpoint: {best}")
