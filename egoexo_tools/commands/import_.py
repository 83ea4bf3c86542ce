"""`egoexo-tools import`"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from egoexo_tools.commands import ANY_PATH, FOLDER, stage_options
from egoexo_tools.commands.choices import DIRECTION, SPLIT

if TYPE_CHECKING:
    from egoexo_tools.running.records import RunOptions, StageSummary

root_option = click.option("--root", type=FOLDER, required=True, help="Root to write.")


@click.group()
def command() -> None:
    """Read pictures, datasets or predictions of other tools.

    Example: egoexo-tools import processed demo/root --root my_root
    """


@command.command()
@click.argument("folder", type=FOLDER)
@root_option
@click.option(
    "--split", type=SPLIT, default="test", show_default=True, help="Split of the new takes."
)
@click.option(
    "--scenario", default="imported", show_default=True, help="Scenario of the new takes."
)
@stage_options()
def images(folder: Path, root: Path, split: str, scenario: str, run: "RunOptions") -> None:
    """Make a root of pictures and masks: FOLDER/<take>/<ego or exo camera>/<frame>.jpg.

    Masks are <frame>/<object>.png, SAM-style <frame>.json, or COCO JSON; see docs/import.md.

    \b
    Example (needs your pictures):
      egoexo-tools import images my_photos --root my_root
    """
    from egoexo_tools.importing.images import STAGE, run_import_images
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.vocab import Split

    summary = run_import_images(
        DatasetRoot(root), folder, split=Split(split), scenario=scenario, run=run
    )
    _print_summaries(root, STAGE, [summary])


@command.command()
@click.argument("folder", type=FOLDER)
@click.option("--root", type=FOLDER, help="Root to write.  [default: FOLDER itself]")
@stage_options()
def processed(folder: Path, root: Path | None, run: "RunOptions") -> None:
    """Make a root of a folder that the official script or O-MaMa wrote.

    Frames are linked; annotation.json, pair files and Masks_* folders become manifests.

    Example: egoexo-tools import processed demo/root --root my_root
    """
    from egoexo_tools.importing.roots import PROCESSED, import_processed
    from egoexo_tools.layout import DatasetRoot

    # The official script's folder is `processed` inside of what becomes the root.
    place = root or (folder.parent if folder.name == "processed" else folder)
    _print_summaries(place, PROCESSED, import_processed(DatasetRoot(place), folder, run=run))


@command.command("lm-eec")
@click.argument("folder", type=FOLDER)
@click.option("--root", type=FOLDER, help="Root to write.  [default: FOLDER-root]")
@stage_options()
def lm_eec(folder: Path, root: Path | None, run: "RunOptions") -> None:
    """Make a root of LM-EEC's processed dataset: FOLDER/<split>/<take>/annotation.json.

    \b
    Example:
      egoexo-tools export demo/root --format lm-eec -o their_data
      egoexo-tools import lm-eec their_data --root my_root
    """
    from egoexo_tools.importing.roots import LM_EEC, import_lm_eec
    from egoexo_tools.layout import DatasetRoot

    place = root or folder.with_name(f"{folder.name}-root")
    _print_summaries(place, LM_EEC, import_lm_eec(DatasetRoot(place), folder, run=run))


def _print_summaries(root: Path, stage: str, summaries: "Sequence[StageSummary]") -> None:
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.stages.left_out import left_out_text

    for summary in summaries:
        click.echo(summary.text())
    if left_out := left_out_text(DatasetRoot(root), stage):
        click.echo(left_out)
    click.echo(f"root: {root}")
    for summary in summaries:
        summary.check()


@command.command()
@click.argument("file", type=ANY_PATH)
@root_option
@click.option("--run", "run_name", required=True, metavar="NAME", help="Name of the run.")
@click.option(
    "--direction", type=DIRECTION, help="Direction to read, if FILE holds both directions."
)
def predictions(file: Path, root: Path, run_name: str, direction: str | None) -> None:
    """Read predictions of another method, to score, report and compare them.

    FILE is the official or O-MaMa's JSON, LM-EEC's folder, or SAM 2's folder of palette PNGs.

    \b
    Example:
      egoexo-tools import predictions demo/root/runs/ego2exo-knn/predictions.json \\
        --root demo/root --run theirs
    """
    from egoexo_tools.importing.predictions import LEFT_OUT, import_predictions
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.vocab import Direction

    dataset = DatasetRoot(root).require()
    imported = import_predictions(
        dataset, file, run_name, direction=None if direction is None else Direction(direction)
    )
    folder = dataset.runs / run_name
    if imported.left_out:
        path = folder / LEFT_OUT
        click.echo(f"{len(imported.left_out):,} left out, such as {imported.left_out[0]}: {path}")
    click.echo(f"{imported.predictions:,} predictions in {folder}")
