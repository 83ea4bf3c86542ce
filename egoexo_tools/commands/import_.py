"""`egoexo-tools import`"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from egoexo_tools.commands import FOLDER, stage_options
from egoexo_tools.commands.choices import DIRECTION, SPLIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from egoexo_tools.running.records import RunOptions, StageSummary

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
    type=SPLIT,
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
    from egoexo_tools.importing.images import STAGE, run_import_images
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.stages.left_out import left_out_text
    from egoexo_tools.vocab import Split

    summary = run_import_images(
        DatasetRoot(root), folder, split=Split(split), scenario=scenario, run=run
    )
    if left_out := left_out_text(DatasetRoot(root), STAGE):
        click.echo(left_out)
    click.echo(summary.check().text())


@command.command()
@click.argument("folder", type=FOLDER)
@click.option("--root", type=FOLDER, help="Root to write into.  [default: FOLDER itself]")
@stage_options()
def processed(folder: Path, root: Path | None, run: "RunOptions") -> None:
    """Make a root of a folder that the official script, or O-MaMa, wrote.

    Frames are linked; annotation.json, pair files and Masks_* folders become manifests.

    Example: egoexo-tools import processed their_data --root my_root
    """
    from egoexo_tools.importing.roots import PROCESSED, import_processed

    home = folder.parent if root is None and folder.name == "processed" else folder
    _import_root(import_processed, PROCESSED, folder, root or home, run)


@command.command("lm-eec")
@click.argument("folder", type=FOLDER)
@click.option("--root", type=FOLDER, help="Root to write into.  [default: FOLDER-root]")
@stage_options()
def lm_eec(folder: Path, root: Path | None, run: "RunOptions") -> None:
    """Make a root of LM-EEC's processed data set: FOLDER/<split>/<take>/annotation.json.

    Example: egoexo-tools import lm-eec their_data --root my_root
    """
    from egoexo_tools.importing.roots import LM_EEC, import_lm_eec

    place = root or folder.with_name(f"{folder.name}-root")
    _import_root(import_lm_eec, LM_EEC, folder, place, run)


def _import_root(
    function: "Callable[..., list[StageSummary]]",
    stage: str,
    folder: Path,
    root: Path,
    run: "RunOptions",
) -> None:
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.stages.left_out import left_out_text

    summaries = function(DatasetRoot(root), folder, run=run)
    for summary in summaries:
        click.echo(summary.text())
    if left_out := left_out_text(DatasetRoot(root), stage):
        click.echo(left_out)
    click.echo(f"root: {root}")
    for summary in summaries:
        summary.check()


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@root_option
@click.option("--run", "run_name", required=True, metavar="NAME", help="Name of the run.")
@click.option(
    "--direction",
    type=DIRECTION,
    help="Which, where FILE holds both.  [default: what it holds]",
)
def predictions(file: Path, root: Path, run_name: str, direction: str | None) -> None:
    """Read predictions of another method, to score, report and compare them.

    FILE is the official or O-MaMa's JSON, LM-EEC's folder, or SAM 2's folder of palette PNGs.

    Example: egoexo-tools import predictions theirs.json --root demo/root --run theirs
    """
    from egoexo_tools.importing.predictions import LEFT_OUT, import_run
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.vocab import Direction

    dataset = DatasetRoot(root).require()
    chosen = Direction(direction) if direction else None
    done = import_run(dataset, file, run_name, direction=chosen)
    folder = dataset.runs / run_name
    if done.left_out:
        click.echo(f"{len(done.left_out):,} left out, as {done.left_out[0]}: {folder / LEFT_OUT}")
    click.echo(f"{done.predictions:,} predictions in {folder}")
