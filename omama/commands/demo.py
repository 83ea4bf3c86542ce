"""`egoexo-tools demo`"""

from pathlib import Path

import click

from egoexo_tools.commands import FOLDER, quiet_option
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import RunOptions


@click.command()
@click.argument("folder", type=FOLDER, required=False, metavar="[DIR]")
@click.option(
    "--tiny", is_flag=True, help="Under a minute; shows that everything works, but learns nothing."
)
@click.option("--seed", default=0, help="Seed of the scenes and of training.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: all cores]")
@quiet_option
def command(folder: Path | None, tiny: bool, seed: int, workers: int | None, quiet: bool) -> None:
    """Synthesize a release and run the whole pipeline on it. Needs no weights, network or dataset.

    Renders H.264 videos at a reduced size and runs every stage on them: ingest, frames, pairs,
    proposals, features, training in both directions, test scores, report. A finished demo is not
    run again.

    DIR is `demo`, or `demo-tiny` with --tiny.

    Example: egoexo-tools demo --tiny
    """
    from egoexo_tools.runs import REPORT
    from omama.demo import DEMO, TINY, run_demo

    # The work of --tiny takes less time than starting a second process.
    inline = tiny and workers is None
    run = RunOptions(
        workers=1 if inline else workers, quiet=quiet, executor="inline" if inline else "process"
    )
    folder = folder or Path("demo-tiny" if tiny else "demo")
    table = run_demo(folder, TINY if tiny else DEMO, seed=seed, run=run, say=click.echo)
    click.echo(f"\n{table}\n\nReport: {DatasetRoot(folder / 'root').runs / REPORT}")
