"""`egoexo-tools compare`"""

from pathlib import Path

import click

from egoexo_tools.commands import ANY_PATH, FILE, FOLDER, ROOT
from egoexo_tools.layout import DatasetRoot, write_atomic


@click.command()
@click.argument("run_a", type=ANY_PATH)
@click.argument("run_b", type=ANY_PATH)
@click.option("--json", "json_path", type=FILE, help="Also write the comparison (JSON).")
@click.option("--pictures", type=FOLDER, help="Folder for pictures of wins and losses.")
@click.option("--root", type=ROOT, help="Dataset root with the frames of the pictures.")
@click.option(
    "--count", type=click.IntRange(min=1), default=10, help="Pictures of wins, and of losses."
)
def command(
    run_a: Path,
    run_b: Path,
    json_path: Path | None,
    pictures: Path | None,
    root: DatasetRoot | None,
    count: int,
) -> None:
    """Compare two runs, sample by sample. RUN_A and RUN_B are folders or scores.parquet files.

    \b
    Example:
      egoexo-tools compare demo/root/runs/ego2exo-knn demo/root/runs/ego2exo
    """
    import json

    from egoexo_tools.evaluation.compare import compare, format_comparison, write_pictures

    if (pictures is None) != (root is None):
        raise click.UsageError("--pictures needs --root, and --root needs --pictures")
    comparison = compare(run_a, run_b)
    click.echo(format_comparison(comparison))
    if json_path is not None:
        write_atomic(json_path, json.dumps(comparison.summary, indent=1) + "\n")
    if pictures is not None and root is not None:
        paths = write_pictures(comparison, pictures, root=root, count=count)
        click.echo(f"{len(paths)} pictures in {pictures}")
