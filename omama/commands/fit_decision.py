"""`omama fit-decision`"""

from pathlib import Path
from typing import Any

import click

from egoexo_tools.commands import FILE, root_argument
from egoexo_tools.commands.choices import DIRECTION, NameOf
from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.vocab import Direction
from omama.commands.method_options import dataclass_options
from omama.config import Features


@click.command(params=list(dataclass_options("features", Features)))
@root_argument
@click.option("--direction", type=DIRECTION, required=True, help="Source view to destination view.")
@click.option("--checkpoint", type=FILE, help="Checkpoint of O-MaMa, ours or the authors'.")
@click.option(
    "--method",
    type=NameOf("omama.methods:BASELINES_WITH_FEATURES"),
    help="A method without a checkpoint.",
)
def command(
    root: DatasetRoot,
    direction: Direction,
    checkpoint: Path | None,
    method: str | None,
    **features: Any,
) -> None:
    """Fit on val how `omama predict --decide` chooses among candidates.

    The parameters are written into our checkpoint; for knn and the authors' checkpoints, into a
    decision.json file.

    \b
    Example:
      omama fit-decision demo/root --direction ego2exo --method knn \\
        --backbone efficientnet-lite0
    """
    from omama.deciding.fitting import fit_decision
    from omama.matching.config import MatchingOptions

    if (checkpoint is None) == (method is None):
        raise SettingsError("give either --checkpoint FILE or --method knn")
    decision, path = fit_decision(
        root, direction, checkpoint, options=MatchingOptions(features=Features(**features))
    )
    click.echo(f"best          val IoU {decision.best_val_iou:.3f}")
    for mode, fitted in decision.modes.items():
        accuracy = fitted.visibility and fitted.visibility.balanced_accuracy
        accuracy_text = "" if accuracy is None else f", visibility {accuracy:.3f}"
        click.echo(f"{mode:13} val IoU {fitted.val_iou:.3f}{accuracy_text}")
    click.echo(f"best on val: {decision.best_mode}; written to {path}")
