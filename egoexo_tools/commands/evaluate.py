"""`egoexo-tools evaluate`"""

import json
from pathlib import Path
from typing import Any

import click

from egoexo_tools.commands import ANY_PATH, FILE, ROOT, quiet_option
from egoexo_tools.commands.choices import DIRECTION, PROTOCOL
from egoexo_tools.layout import DatasetRoot


@click.command()
@click.option(
    "--ground-truth",
    type=FILE,
    help="Official ground-truth file.  [default: of the run, if --predictions is its folder]",
)
@click.option(
    "--predictions",
    type=ANY_PATH,
    required=True,
    help="Run folder, which also stores the scores; or prediction file (official or O-MaMa's), "
    "LM-EEC folder, or predictions.parquet.",
)
@click.option("--protocol", type=PROTOCOL, required=True, help="Protocol whose rules apply.")
@click.option(
    "--relation",
    type=FILE,
    help="Relation file (JSON) whose samples and order are used where both "
    "views must show the object.",
)
@click.option(
    "--ranks",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that v2sam-released assumes.",
)
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
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace scores of a run folder that were made with another ground truth.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Threads.  [default: all cores]")
@quiet_option
def command(
    ground_truth: Path | None,
    predictions: Path,
    protocol: str,
    relation: Path | None,
    ranks: int,
    root: DatasetRoot | None,
    out: Path | None,
    json_path: Path | None,
    overwrite: bool,
    workers: int | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Score predictions under a protocol, or under every protocol in one table.

    \b
    Examples:
      egoexo-tools evaluate --protocol official \\
        --ground-truth demo/root/runs/ego2exo/ground_truth.json \\
        --predictions demo/root/runs/ego2exo
      egoexo-tools evaluate --protocol all --predictions demo/root/runs/ego2exo
    """
    from egoexo_tools.evaluation.analysis import format_summary
    from egoexo_tools.evaluation.evaluate import EvaluateOptions, evaluate, require_writable
    from egoexo_tools.evaluation.protocols import (
        BOTH_VISIBLE_PROTOCOLS,
        evaluate_protocols,
        format_protocols,
    )
    from egoexo_tools.layout import write_atomic
    from egoexo_tools.runs import run_of
    from egoexo_tools.vocab import Protocol

    run = run_of(predictions)
    # Only a folder stores its scores, and brings a ground truth.
    folder = run if predictions.is_dir() else None
    if folder is not None:
        predictions, ground_truth = folder.scored_file, ground_truth or folder.ground_truth
    if ground_truth is None:
        raise click.UsageError("--ground-truth is missing; only a run folder brings its own")
    if protocol == "all" or protocol in BOTH_VISIBLE_PROTOCOLS:
        if out is not None:
            raise click.UsageError("--out needs one of the protocols official, omama and lm-eec")
        summaries = evaluate_protocols(
            ground_truth,
            predictions,
            protocols=tuple(Protocol) if protocol == "all" else (Protocol(protocol),),
            root=root,
            relation=relation,
            ranks=ranks,
            options=EvaluateOptions(**options),
            quiet=quiet,
        )
        if json_path is not None:
            write_atomic(json_path, json.dumps(summaries, indent=1, allow_nan=False) + "\n")
        click.echo(format_protocols(summaries))
        if all("error" in summary for summary in summaries.values()):
            raise SystemExit(1)
        return
    if folder is not None:
        require_writable(folder)
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
    if folder is not None and protocol in folder.summaries:
        for path in evaluation.store(folder, overwrite=overwrite):
            click.echo(f"removed {path}, scores of other predictions or another ground truth")
        click.echo(f"scores stored in {folder.path}")
    elif folder is not None:
        click.echo(f"not stored: a run stores scores of {' and '.join(folder.summaries)}")
    elif run is not None:
        click.echo(f"not stored in the run; give the folder {run.path} to store the scores")
