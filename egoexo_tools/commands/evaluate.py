"""`egoexo-tools evaluate`"""

from pathlib import Path
from typing import Any

import click

from egoexo_tools.commands import ANY_PATH, FILE, ROOT, quiet_option
from egoexo_tools.commands.choices import DIRECTION, PROTOCOL
from egoexo_tools.layout import DatasetRoot


@click.command()
@click.option("--ground-truth", type=FILE, required=True, help="Official ground-truth file.")
@click.option(
    "--predictions",
    type=ANY_PATH,
    required=True,
    help="Prediction file (official or O-MaMa's), LM-EEC folder, or predictions.parquet.",
)
@click.option("--protocol", type=PROTOCOL, required=True, help="Protocol whose rules apply.")
@click.option("--direction", type=DIRECTION, help="Direction to score, if a file holds both.")
@click.option(
    "--split", help="Split to name in the result.  [default: as in ground truth of this toolkit]"
)
@click.option("--root", type=ROOT, help="Dataset root; adds scenarios and ceilings.")
@click.option(
    "--threshold", type=float, help="Confidence threshold selected on val, reported in addition."
)
@click.option("--out", type=FILE, help="Also write the score of every sample (Parquet).")
@click.option("--json", "json_path", type=FILE, help="Also write the summary (JSON).")
@click.option("--resize-predictions", is_flag=True, help="Resize masks to the official size.")
@click.option(
    "--partial", is_flag=True, help="Score samples that both files hold; report their share."
)
@click.option("--workers", type=click.IntRange(min=1), help="Threads.  [default: all cores]")
@quiet_option
def command(
    ground_truth: Path,
    predictions: Path,
    protocol: str,
    root: DatasetRoot | None,
    out: Path | None,
    json_path: Path | None,
    workers: int | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Score predictions under a protocol.

    \b
    Example:
      egoexo-tools evaluate --protocol official \\
        --ground-truth demo/root/runs/ego2exo/ground_truth.json \\
        --predictions demo/root/runs/ego2exo/predictions.json
    """
    from egoexo_tools.evaluation.analysis import format_summary
    from egoexo_tools.evaluation.evaluate import EvaluateOptions, evaluate

    evaluation = evaluate(
        ground_truth,
        predictions,
        protocol=protocol,
        root=root,
        options=EvaluateOptions(**options),
        workers=workers,
        quiet=quiet,
    )
    evaluation.write(scores=out, summary=json_path)
    click.echo(format_summary(evaluation.summary))
