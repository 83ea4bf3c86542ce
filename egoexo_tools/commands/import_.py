"""`egoexo-tools import`"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from egoexo_tools.commands import FILE, FOLDER, stage_options

if TYPE_CHECKING:
    from egoexo_tools.running.stage import RunOptions

root_option = click.option("--root", type=FOLDER, required=True, help="Root to write into.")


@click.group()
def command() -> None:
    """Read other people's pictures or predictions.

    Example: egoexo-tools import images my_photos --root my_root
    """


@command.command()
@click.argument("folder", type=FOLDER)
@root_option
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Where the takes go.",
)
@click.option("--scenario", default="imported", show_default=True, help="What the takes show.")
@stage_options()
def images(folder: Path, root: Path, split: str, scenario: str, run: "RunOptions") -> None:
    """Make a root of pictures and masks: FOLDER/<take>/<ego|exo>/<frame>.jpg.

    Masks: <frame>/<object>.png, SAM-style <frame>.json, or COCO JSON; see docs/import.md.

    Example: egoexo-tools import images my_photos --root my_root
    """
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.stages.import_images import STAGE, run_import_images
    from egoexo_tools.stages.left_out import left_out_text
    from egoexo_tools.vocab import Split

    summary = run_import_images(
        DatasetRoot(root), folder, split=Split(split), scenario=scenario, run=run
    )
    if left_out := left_out_text(DatasetRoot(root), STAGE):
        click.echo(left_out)
    click.echo(summary.check().text())


@command.command()
@click.argument("file", type=FILE)
@root_option
@click.option("--run", "run_name", required=True, metavar="NAME", help="Name of the run.")
def predictions(file: Path, root: Path, run_name: str) -> None:
    """Read predictions of another method, to score, report and compare them.

    Example: egoexo-tools import predictions theirs.json --root demo/root --run theirs
    """
    from egoexo_tools.evaluation.predictions import import_predictions
    from egoexo_tools.layout import DatasetRoot

    count = import_predictions(DatasetRoot(root).require(), file, run_name)
    click.echo(f"{count:,} predictions in {DatasetRoot(root).runs / run_name}")
