"""`egoexo-tools import`"""

from collections.abc import Sequence
from pathlib import Path

import click

from egoexo_tools.commands import ANY_PATH, FOLDER, ROOT, stage_options
from egoexo_tools.commands.choices import DIRECTION, SPLIT
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import RunOptions, StageSummary
from egoexo_tools.vocab import Direction, Split

root_option = click.option("--root", type=ROOT, required=True, help="Root to write.")


@click.group()
def command() -> None:
    """Read pictures, datasets or predictions of other tools.

    Example: egoexo-tools import processed demo/root --root copied_root
    """


@command.command()
@click.argument("folder", type=FOLDER)
@root_option
@click.option("--split", type=SPLIT, default="test", help="Split of the new takes.")
@click.option("--scenario", default="imported", help="Scenario of the new takes.")
@stage_options()
def images(folder: Path, root: DatasetRoot, split: Split, scenario: str, run: RunOptions) -> None:
    """Make a root of pictures and masks: FOLDER/<take>/<ego or exo camera>/<frame>.jpg.

    Masks are <frame>/<object>.png, SAM-style <frame>.json, or COCO JSON; see docs/import.md.

    \b
    Example (needs your pictures):
      egoexo-tools import images my_photos --root my_root
    """
    from egoexo_tools.importing.images import STAGE, run_import_images

    summary = run_import_images(root, folder, split=split, scenario=scenario, run=run)
    _print_summaries(root, STAGE, [summary])


@command.command()
@click.argument("folder", type=FOLDER)
@click.option("--root", type=ROOT, help="Root to write.  [default: FOLDER itself]")
@stage_options()
def processed(folder: Path, root: DatasetRoot | None, run: RunOptions) -> None:
    """Make a root of a folder that the official script or O-MaMa wrote.

    Frames are linked; annotation.json, pair files and Masks_* folders become manifests.

    Example: egoexo-tools import processed demo/root --root copied_root
    """
    from egoexo_tools.importing.roots import PROCESSED, import_processed

    # The official script's folder is `processed` inside of what becomes the root.
    root = root or DatasetRoot(folder.parent if folder.name == "processed" else folder)
    _print_summaries(root, PROCESSED, import_processed(root, folder, run=run))


@command.command("lm-eec")
@click.argument("folder", type=FOLDER)
@click.option("--root", type=ROOT, help="Root to write.  [default: FOLDER-root]")
@stage_options()
def lm_eec(folder: Path, root: DatasetRoot | None, run: RunOptions) -> None:
    """Make a root of LM-EEC's processed dataset: FOLDER/<split>/<take>/annotation.json.

    \b
    Example:
      egoexo-tools export demo/root --format lm-eec -o their_data
      egoexo-tools import lm-eec their_data
    """
    from egoexo_tools.importing.roots import LM_EEC, import_lm_eec

    root = root or DatasetRoot(folder.with_name(f"{folder.name}-root"))
    _print_summaries(root, LM_EEC, import_lm_eec(root, folder, run=run))


def _print_summaries(root: DatasetRoot, stage: str, summaries: Sequence[StageSummary]) -> None:
    from egoexo_tools.stages.left_out import left_out_text

    for summary in summaries:
        click.echo(summary.text())
    if left_out := left_out_text(root, stage):
        click.echo(left_out)
    click.echo(f"root: {root.path}")
    # After the output above: what was left out explains most failures.
    for summary in summaries:
        summary.check()


@command.command()
@click.argument("file", type=ANY_PATH)
@root_option
@click.option("--run", "run_name", required=True, metavar="NAME", help="Name of the run.")
@click.option(
    "--direction", type=DIRECTION, help="Direction to read, if FILE holds both directions."
)
def predictions(file: Path, root: DatasetRoot, run_name: str, direction: Direction | None) -> None:
    """Read predictions of another method, to score, report and compare them.

    FILE is the official or O-MaMa's JSON, LM-EEC's folder, or SAM 2's folder of palette PNGs.

    \b
    Example:
      egoexo-tools import predictions demo/root/runs/ego2exo-knn/predictions.json \\
        --root demo/root --run theirs
    """
    from egoexo_tools.importing.predictions import LEFT_OUT, import_predictions

    imported = import_predictions(root.require(), file, run_name, direction=direction)
    folder = root.runs / run_name
    if imported.left_out:
        path = folder / LEFT_OUT
        click.echo(f"{len(imported.left_out):,} left out, such as {imported.left_out[0]}: {path}")
    click.echo(f"{imported.predictions:,} predictions in {folder}")
