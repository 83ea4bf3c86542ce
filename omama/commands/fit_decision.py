"""`omama fit-decision`"""

from pathlib import Path

import click

from egoexo_tools.commands import FILE, root_argument
from egoexo_tools.commands.choices import DIRECTION, NameOf
from egoexo_tools.errors import SettingsError
from omama.commands import BACKBONE, feature_precision_option

WITHOUT_CHECKPOINT = NameOf("omama.methods:DECIDED_BASELINES")


@click.command()
@root_argument
@click.option("--direction", type=DIRECTION, required=True)
@click.option("--checkpoint", type=FILE, help="Ours or the authors'.")
@click.option("--matcher", type=WITHOUT_CHECKPOINT, help="Instead of a checkpoint.")
@click.option("--backbone", type=BACKBONE, help="[default: the checkpoint's, dinov2]")
@click.option("--weights", type=FILE, help="The backbone's original checkpoint file.")
@click.option(
    "--cached/--on-the-fly", default=True, show_default=True, help="Features from the cache or not."
)
@feature_precision_option
def command(
    root: Path,
    direction: str,
    checkpoint: Path | None,
    matcher: str | None,
    backbone: str | None,
    weights: Path | None,
    cached: bool,
    feature_precision: str,
) -> None:
    """Fit on val how `omama predict --decide` chooses among candidates.

    The parameters go into our checkpoint, or into a decision.json for k-NN and other people's.

    \b
    Example: omama fit-decision demo/root --direction ego2exo --matcher knn
               --backbone efficientnet-lite0
    """
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.vocab import Direction
    from omama.config import Features
    from omama.deciding.choosing import fit_decision
    from omama.matching.config import MatchingOptions

    if (checkpoint is None) == (matcher is None):
        raise SettingsError("give either a checkpoint or --matcher knn")
    features = Features(backbone, weights, feature_precision, cached)
    options = MatchingOptions(features=features)
    decision, path = fit_decision(
        DatasetRoot(root), Direction(direction), checkpoint, options=options
    )
    click.echo(f"best          val IoU {decision.best_val_iou:.3f}")
    for mode, fitted in decision.modes.items():
        sight = fitted.visibility
        accuracy = None if sight is None else sight.balanced_accuracy
        seen = "" if accuracy is None else f", visibility {accuracy:.3f}"
        click.echo(f"{mode:13} val IoU {fitted.val_iou:.3f}{seen}")
    click.echo(f"{decision.chosen} is what val chose; kept in {path}")
