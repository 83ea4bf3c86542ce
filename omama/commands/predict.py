"""`omama predict`"""

from pathlib import Path
from typing import Any

import click

from egoexo_tools.commands import FILE, ROOT, quiet_option
from egoexo_tools.commands.choices import DIRECTIONS, SPLIT, NameOf
from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import DatasetRoot
from omama.commands import method_option
from omama.commands.method_options import MethodCommand


@click.command(cls=MethodCommand)
@click.argument("root", type=ROOT, required=False)
@click.option(
    "--direction",
    type=DIRECTIONS,
    help="Source view to destination view; `both` uses one checkpoint for both.",
)
@click.option("--split", type=SPLIT, help="Split to predict.")
@method_option
@click.option(
    "--checkpoint", type=FILE, help="Checkpoint of a method that is trained, ours or the authors'."
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="Copy of the prediction file (JSON), or overlay of a pair (PNG).",
)
@click.option(
    "--run-name", help="Folder under ROOT/runs.  [default: named by direction, method and decision]"
)
@click.option("--source-image", type=FILE, help="Instead of ROOT: picture that shows the object.")
@click.option(
    "--source-mask", type=FILE, help="Object in it: PNG (not black) or JSON {size, counts}."
)
@click.option("--dest-image", type=FILE, help="Picture in which to find the object.")
@click.option(
    "--proposer",
    type=NameOf("egoexo_tools.proposers.registry:PROPOSERS", without=("oracle",)),
    default="regions",
    help="Proposer of candidate masks in --dest-image.",
)
@click.option("--proposer-weights", type=FILE, help="FastSAM-x.pt; SAM 2 or 3: model.safetensors")
@quiet_option
def command(
    root: DatasetRoot | None,
    method: str,
    checkpoint: Path | None,
    source_image: Path | None,
    **arguments: Any,
) -> None:
    """Predict destination masks for a split, or for one pair of pictures.

    \b
    Examples:
      omama predict demo/root --direction ego2exo --split test \\
        --checkpoint demo/root/runs/ego2exo/checkpoint_best.pt
      omama predict demo/root --direction ego2exo --split test --method knn \\
        --backbone efficientnet-lite0

    \b
    Example (needs your pictures):
      omama predict --source-image ego.jpg --source-mask cup.png --dest-image exo.jpg \\
        --checkpoint demo/root/runs/ego2exo/checkpoint_best.pt -o overlay.png
    """
    from omama import methods

    if (root is None) == (source_image is None):
        raise SettingsError("give either a dataset ROOT, or --source-image and its companions")
    required = ("direction", "split") if root else ("source_mask", "dest_image", "output")
    if missing := [name for name in required if arguments[name] is None]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise SettingsError(f"{options} missing; see omama predict --help")
    is_trained = methods.get_method(method).train is not None
    if is_trained and checkpoint is None:
        raise SettingsError(
            f"{method} predicts with a checkpoint: give --checkpoint, or a --method without one "
            f"({', '.join(methods.untrained_methods())})"
        )
    if checkpoint is not None and not is_trained:
        raise SettingsError(f"{method} takes no checkpoint; leave --checkpoint out")
    if root is not None:
        click.echo(_predict_root(root, method, checkpoint, arguments))
    elif source_image is not None:
        click.echo(_predict_pair(source_image, method, checkpoint, arguments))


def _predict_root(
    root: DatasetRoot, method: str, checkpoint: Path | None, arguments: dict[str, Any]
) -> str:
    from egoexo_tools.layout import write_atomic
    from egoexo_tools.runs import DEFAULT_DECISION, RunFolder, run_name
    from egoexo_tools.vocab import directions
    from omama import methods
    from omama.writing import predict_runs

    run_argument, output = arguments["run_name"], arguments["output"]
    if arguments["direction"] == "both" and (run_argument, output) != (None, None):
        raise SettingsError(
            f"--direction both writes two runs, {'--output' if output else '--run-name'} names one;"
            " give one direction, or leave it out"
        )
    decision = arguments["options"].get("decision") or DEFAULT_DECISION
    names = {
        direction: run_argument or run_name(direction, method, decision)
        for direction in directions(arguments["direction"])
    }
    # A method's progress bar shows the run's name; both directions share one bar.
    shared = {
        "quiet": arguments["quiet"],
        "run_name": None if len(names) > 1 else min(names.values()),
    }
    paths = predict_runs(
        method,
        root,
        arguments["split"],
        {direction: RunFolder.of(root, name) for direction, name in names.items()},
        checkpoint=checkpoint,
        options=methods.make_options(method, arguments["options"], shared=shared),
    )
    if output is not None:
        # The run keeps its own files: report and evaluate read them by their usual names.
        write_atomic(output, paths[0].read_bytes())
        paths = [output]
    return "\n".join(f"predictions: {path}" for path in paths)


def _predict_pair(
    source_image: Path, method: str, checkpoint: Path | None, arguments: dict[str, Any]
) -> str:
    from egoexo_tools.evaluation.metrics import CONFIDENCE_THRESHOLD
    from egoexo_tools.proposers import Frame, ProposerOptions, proposer_entry
    from egoexo_tools.viewing.painting import write_picture
    from omama import methods
    from omama.matching.predict_pair import pair_picture, predict_pair, read_mask, read_rgb

    if arguments["direction"] == "both":
        raise SettingsError("a pair of pictures has one direction; leave --direction both out")
    usable_methods = (methods.DEFAULT_METHOD, *methods.BASELINES_WITH_FEATURES)
    if method not in usable_methods:
        raise SettingsError(
            f"{method} does not predict a pair of pictures; use {' or '.join(usable_methods)}"
        )
    dest_image, output = arguments["dest_image"], arguments["output"]
    source, dest = read_rgb(source_image), read_rgb(dest_image)
    mask = read_mask(arguments["source_mask"])
    proposer_options = ProposerOptions(weights=arguments["proposer_weights"])
    propose = proposer_entry(arguments["proposer"]).load(proposer_options)
    (frame,) = propose([Frame(dest_image, *dest.shape[:2])])
    prediction = predict_pair(
        source,
        mask,
        dest,
        [proposal.rle for proposal in frame.proposals],
        direction=arguments["direction"],
        checkpoint=checkpoint,
        baseline=None if checkpoint is not None else method,
        options=methods.make_options(method, arguments["options"]),
    )
    write_picture(output, pair_picture(source, mask, dest, prediction))
    visibility = "visible" if prediction.confidence > CONFIDENCE_THRESHOLD else "absent"
    return (
        f"{visibility}, confidence {prediction.confidence:.2f}, proposal "
        f"{prediction.proposal_idx} of {len(frame.proposals)}; overlay: {output}"
    )
