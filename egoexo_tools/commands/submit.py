"""`egoexo-tools submit`"""

from pathlib import Path

import click

from egoexo_tools.commands import ANY_PATH, FILE


@click.command()
@click.argument("ego2exo", type=ANY_PATH)
@click.argument("exo2ego", type=ANY_PATH)
@click.option("-o", "--out", type=FILE, required=True, help="Submission to write.")
@click.option(
    "--ground-truth",
    type=FILE,
    multiple=True,
    help="Official ground truth to check the keys against; give it twice if each direction has "
    "its own.",
)
@click.option("--resize-predictions", is_flag=True, help="Resize masks to the official size.")
def command(
    ego2exo: Path,
    exo2ego: Path,
    out: Path,
    ground_truth: tuple[Path, ...],
    resize_predictions: bool,
) -> None:
    """Join the predictions of both directions, files or run folders, into an EvalAI submission.

    \b
    Example:
      egoexo-tools submit demo/root/runs/ego2exo/predictions.json \\
        demo/root/runs/exo2ego/predictions.json -o submission.json
    """
    from egoexo_tools.evaluation.submission import submit, truths_by_direction

    counts = submit(
        ego2exo,
        exo2ego,
        out=out,
        ground_truth=truths_by_direction(ground_truth),
        resize_predictions=resize_predictions,
    )
    parts = [f"{count:,} {direction}" for direction, count in counts.items()]
    note = "" if ground_truth else "; keys not checked, because there is no --ground-truth"
    click.echo(f"{out}: {' and '.join(parts)} predictions{note}")
