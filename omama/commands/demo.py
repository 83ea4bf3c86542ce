"""`egoexo-tools demo`"""

from pathlib import Path

import click

from egoexo_tools.commands import FOLDER


@click.command()
@click.argument("folder", type=FOLDER, default=Path("demo"), metavar="[DIR]")
@click.option("--seed", default=0, show_default=True, help="Seed of the scene and of training.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: all cores]")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(folder: Path, seed: int, workers: int | None, quiet: bool) -> None:
    """Synthesize a release and run everything on it: no weights, no network, no data set.

    Real H.264 videos are rendered at half size, then go through every stage: ingest, frames,
    pairs, proposals, features, training in both directions, test scores, report.

    Example: egoexo-tools demo demo
    """
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.running.stage import RunOptions
    from egoexo_tools.runs import REPORT
    from omama.pipeline import run_demo

    run = RunOptions(workers=workers, quiet=quiet)
    table = run_demo(folder, seed=seed, run=run, say=click.echo)
    click.echo(f"\n{table}\n\nReport: {DatasetRoot(folder / 'root').runs / REPORT}")
