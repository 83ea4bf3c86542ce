"""`egoexo-tools demo`"""

from pathlib import Path

import click

from egoexo_tools.commands import FOLDER


@click.command()
@click.argument("folder", type=FOLDER, required=False, metavar="[DIR]")
@click.option(
    "--tiny", is_flag=True, help="Under a minute: shows that everything works, and learns nothing."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the scene and of training.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: all cores]")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(folder: Path | None, tiny: bool, seed: int, workers: int | None, quiet: bool) -> None:
    """Synthesize a release and run everything on it: no weights, no network, no data set.

    Real H.264 videos are rendered at half size, then go through every stage: ingest, frames,
    pairs, proposals, features, training in both directions, test scores, report.

    DIR is `demo`, or `demo-tiny` with --tiny.

    Example: egoexo-tools demo demo
    """
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.running.records import RunOptions
    from egoexo_tools.runs import REPORT
    from omama.demo import DEMO, TINY, run_demo

    # So little work is done before a second process has started.
    inline = tiny and workers is None
    run = RunOptions(
        workers=1 if inline else workers, quiet=quiet, executor="inline" if inline else "process"
    )
    folder = folder or Path("demo-tiny" if tiny else "demo")
    table = run_demo(folder, TINY if tiny else DEMO, seed=seed, run=run, say=click.echo)
    click.echo(f"\n{table}\n\nReport: {DatasetRoot(folder / 'root').runs / REPORT}")
