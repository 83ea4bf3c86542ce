"""`omama predict`"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from egoexo_tools.commands import FILE, FOLDER
from egoexo_tools.commands.choices import DIRECTIONS, SPLIT, NameOf
from egoexo_tools.errors import SettingsError
from omama.commands import BACKBONE, PRECISION, method_option

if TYPE_CHECKING:
    from egoexo_tools.vocab import Direction


@click.command()
@click.argument("root", type=FOLDER, required=False)
@click.option("--direction", type=DIRECTIONS, help="`both`: with one checkpoint.")
@click.option("--split", type=SPLIT)
@method_option
@click.option("--checkpoint", type=FILE, help="Ours or the authors'.")
@click.option(
    "--matcher",
    type=NameOf("omama.methods:untrained"),
    help="The same as --method, of those that need no checkpoint.",
)
@click.option(
    "--backbone", type=BACKBONE, help="As of `omama features`.  [default: the checkpoint's, dinov2]"
)
@click.option("--weights", type=FILE, help="The backbone's original checkpoint file.")
@click.option("-o", "--output", type=FILE, help="Prediction file of a split; PNG of one pair.")
@click.option(
    "--cached/--on-the-fly", default=True, show_default=True, help="Features from the cache or not."
)
@click.option(
    "--size",
    type=NameOf("omama.config:MASK_SIZES"),
    help="Masks with long side 480, or at the kept image's size.  [default: official]",
)
@click.option("--run-name", help="Folder under ROOT/runs.  [default: the direction, -METHOD]")
@click.option("--batch-pairs", type=click.IntRange(min=1), help="[default: 64]")
@click.option(
    "--decide",
    type=NameOf("egoexo_tools.runs:DECISIONS"),
    help="By the pair alone, the frame, the track so far, or the whole track.  [default: what val "
    "chose for ours and k-NN, else best]",
)
@click.option("--source-image", type=FILE, help="One pair of pictures: where the object is marked.")
@click.option("--source-mask", type=FILE, help="PNG (not black = object) or JSON {size, counts}.")
@click.option("--dest-image", type=FILE, help="Where to look for it.")
@click.option(
    "--proposer",
    type=NameOf("egoexo_tools.proposers.registry:PROPOSERS", without=("oracle",)),
    default="regions",
)
@click.option("--proposer-weights", type=FILE, help="FastSAM-x.pt; SAM 2 or 3: model.safetensors")
@click.option("--precision", type=PRECISION, help="Of the model.  [default: fp32]")
@click.option(
    "--feature-precision",
    type=PRECISION,
    help="Of the backbone.  [default: the checkpoint's, fp32]",
)
@click.option(
    "--reference-behaviour",
    is_flag=True,
    default=None,
    help="Portrait frames as the authors' code.",
)
@click.option("--quiet", is_flag=True, help="No progress.")
def command(root: Path | None, source_image: Path | None, **options: Any) -> None:
    """Predict destination masks for a split, or for one pair of pictures.

    Example: omama predict demo/root --direction ego2exo --split test --checkpoint best.pt

    Example: omama predict demo/root --direction ego2exo --split test --method knn

    \b
    Example: omama predict --source-image ego.jpg --source-mask cup.png --dest-image exo.jpg
               --checkpoint best.pt -o overlay.png
    """
    if root is not None and source_image is None:
        click.echo(_predict_root(root, options))
    elif root is None and source_image is not None:
        click.echo(_predict_pair(source_image, options))
    else:
        raise SettingsError("give either a dataset ROOT, or --source-image and its companions")


def _predict_root(root: Path, given: dict[str, Any]) -> str:
    from egoexo_tools.layout import DatasetRoot, write_atomic
    from egoexo_tools.runs import DEFAULT_DECISION, RunFolder, run_name
    from egoexo_tools.vocab import Split
    from omama import methods
    from omama.writing import predict_runs

    _require(given, "direction", "split")
    directions, method = _directions(given), _method(given)
    names = {
        direction: given["run_name"]
        or run_name(direction, method, given["decide"] or DEFAULT_DECISION)
        for direction in directions
    }
    options = methods.make_options(
        method,
        _choices(given),
        where_known={
            "quiet": given["quiet"],
            "run_name": names[directions[0]] if len(directions) == 1 else None,
        },
    )
    paths = predict_runs(
        method,
        DatasetRoot(root),
        Split(given["split"]),
        {d: RunFolder.of(DatasetRoot(root), name) for d, name in names.items()},
        checkpoint=given["checkpoint"],
        options=options,
    )
    if given["output"] is not None:
        write_atomic(given["output"], paths[0].read_bytes())
    return "\n".join(f"predictions: {given['output'] or path}" for path in paths)


def _directions(given: dict[str, Any]) -> "tuple[Direction, ...]":
    """One, or both, which need a folder each."""
    from egoexo_tools.vocab import Direction

    if given["direction"] != "both":
        return (Direction(given["direction"]),)
    for name in ("run_name", "output"):
        if given[name] is not None:
            raise SettingsError(
                f"--direction both writes two runs, --{name.replace('_', '-')} names one; give one"
                " direction, or leave it out"
            )
    return tuple(Direction)


def _method(given: dict[str, Any]) -> str:
    """The method's name; O-MaMa is meant where a checkpoint says so."""
    from omama import methods

    named = {given["method"], given["matcher"]} - {None}
    if len(named) > 1:
        raise SettingsError(f"--method {given['method']} and --matcher {given['matcher']} differ")
    name: str = next(iter(named), methods.DEFAULT_METHOD)
    learns = methods.method(name).train is not None
    if named and learns and given["checkpoint"] is None:
        raise SettingsError(f"{name} predicts with a checkpoint: give --checkpoint, or train first")
    if (given["checkpoint"] is None) == learns:
        raise SettingsError(
            f"give either a checkpoint or a matcher ({', '.join(methods.untrained())})"
        )
    return name


def _choices(given: dict[str, Any]) -> dict[str, Any]:
    """What the user chose, under the names of a method's options."""
    from omama.config import Features

    features = Features(
        backbone=given["backbone"],
        weights=given["weights"],
        feature_precision=given["feature_precision"],
        cached=given["cached"] is not False,
    )
    return {
        "features": None if features == Features() else features,
        "model_precision": given["precision"],
        "reference_behaviour": given["reference_behaviour"],
        "size": given["size"],
        "batch_pairs": given["batch_pairs"],
        "decision": given["decide"],
    }


def _predict_pair(source_image: Path, given: dict[str, Any]) -> str:
    from egoexo_tools.evaluation.metrics import CONFIDENCE_THRESHOLD
    from egoexo_tools.proposers import Frame, ProposerOptions, proposer_entry
    from egoexo_tools.viewing.painting import write_picture
    from omama import methods
    from omama.matching.predict_pair import pair_picture, predict_pair, read_mask, read_rgb

    _require(given, "source_mask", "dest_image", "output")
    source, dest = read_rgb(source_image), read_rgb(given["dest_image"])
    mask = read_mask(given["source_mask"])
    propose = proposer_entry(given["proposer"]).load(
        ProposerOptions(weights=given["proposer_weights"])
    )
    (found,) = propose([Frame(given["dest_image"], *dest.shape[:2])])
    directions = _directions(given) if given["direction"] else (None,)
    if len(directions) > 1:
        raise SettingsError("a pair of pictures has one direction; leave --direction both out")
    prediction = predict_pair(
        source,
        mask,
        dest,
        [proposal.rle for proposal in found.proposals],
        direction=directions[0],
        checkpoint=given["checkpoint"],
        matcher=given["matcher"],
        options=methods.make_options(methods.DEFAULT_METHOD, _choices(given)),
    )
    write_picture(given["output"], pair_picture(source, mask, dest, prediction))
    seen = "visible" if prediction.confidence > CONFIDENCE_THRESHOLD else "absent"
    return (
        f"{seen}, confidence {prediction.confidence:.2f}, proposal {prediction.proposal_idx} of "
        f"{len(found.proposals)}; overlay: {given['output']}"
    )


def _require(given: dict[str, Any], *names: str) -> None:
    missing = [f"--{name.replace('_', '-')}" for name in names if given[name] is None]
    if missing:
        raise SettingsError(f"{', '.join(missing)} missing; see omama predict --help")
