"""`omama predict`"""

from pathlib import Path
from typing import Any

import click

from egoexo_tools.commands import FILE, FOLDER
from egoexo_tools.errors import SettingsError

PRECISION = click.Choice(["fp32", "bf16"])


@click.command()
@click.argument("root", type=FOLDER, required=False)
@click.option("--direction", type=click.Choice(["ego2exo", "exo2ego"]))
@click.option("--split", type=click.Choice(["train", "val", "test"]))
@click.option("--checkpoint", type=FILE, help="Ours or the authors'.")
@click.option("--matcher", type=click.Choice(["knn", "oracle", "random"]), help="No checkpoint.")
@click.option("--backbone", help="As of `omama features`.  [default: the checkpoint's, dinov2]")
@click.option("--weights", type=FILE, help="The backbone's original checkpoint file.")
@click.option("-o", "--output", type=FILE, help="Prediction file of a split; PNG of one pair.")
@click.option(
    "--cached/--on-the-fly", default=True, show_default=True, help="Features from the cache or not."
)
@click.option(
    "--size",
    type=click.Choice(["official", "image"]),
    default="official",
    show_default=True,
    help="Masks with long side 480, or at the kept image's size.",
)
@click.option("--run-name", help="Folder under ROOT/runs.  [default: the direction, -MATCHER]")
@click.option("--batch-pairs", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--source-image", type=FILE, help="One pair of pictures: where the object is marked.")
@click.option("--source-mask", type=FILE, help="PNG (not black = object) or JSON {size, counts}.")
@click.option("--dest-image", type=FILE, help="Where to look for it.")
@click.option("--proposer", type=click.Choice(["regions", "fastsam"]), default="regions")
@click.option("--proposer-weights", type=FILE, help="FastSAM checkpoint.")
@click.option(
    "--precision", type=PRECISION, default="fp32", show_default=True, help="Of the model."
)
@click.option(
    "--feature-precision",
    type=PRECISION,
    help="Of the backbone.  [default: the checkpoint's, fp32]",
)
@click.option("--reference-behaviour", is_flag=True, help="Portrait frames as the authors' code.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(root: Path | None, source_image: Path | None, **options: Any) -> None:
    """Predict destination masks for a split, or for one pair of pictures.

    Example: omama predict demo/root --direction ego2exo --split test --checkpoint best.pt

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


def _predict_root(root: Path, options: dict[str, Any]) -> str:
    from egoexo_tools.layout import DatasetRoot, write_atomic
    from egoexo_tools.vocab import Direction, Split
    from omama.matching.predict import predict_split

    _require(options, "direction", "split")
    matcher, run_name = options["matcher"], options["run_name"]
    default_name = options["direction"] + (f"-{matcher}" if matcher else "")
    path = predict_split(
        DatasetRoot(root),
        direction=Direction(options["direction"]),
        split=Split(options["split"]),
        run_name=run_name or default_name,
        **{
            name: options[name]
            for name in (
                "checkpoint",
                "matcher",
                "backbone",
                "weights",
                "cached",
                "size",
                "batch_pairs",
                "precision",
                "feature_precision",
                "reference_behaviour",
                "quiet",
            )
        },
    )
    if options["output"] is not None:
        write_atomic(options["output"], path.read_bytes())
    return f"predictions: {options['output'] or path}"


def _predict_pair(source_image: Path, options: dict[str, Any]) -> str:
    from egoexo_tools.looking.painting import write_picture
    from egoexo_tools.proposers import Frame, ProposerOptions, entry
    from egoexo_tools.vocab import Direction
    from omama.features.frame_features import read_picture
    from omama.matching.predict_pair import pair_picture, predict_pair, read_mask

    _require(options, "source_mask", "dest_image", "output")
    source, dest = read_picture(source_image), read_picture(options["dest_image"])
    mask = read_mask(options["source_mask"])
    propose = entry(options["proposer"]).load(ProposerOptions(weights=options["proposer_weights"]))
    (found,) = propose([Frame(options["dest_image"], *dest.shape[:2])])
    prediction = predict_pair(
        source,
        mask,
        dest,
        [proposal.rle for proposal in found.proposals],
        direction=Direction(options["direction"]) if options["direction"] else None,
        **{
            name: options[name]
            for name in (
                "checkpoint",
                "matcher",
                "backbone",
                "weights",
                "precision",
                "feature_precision",
                "reference_behaviour",
            )
        },
    )
    write_picture(options["output"], pair_picture(source, mask, dest, prediction))
    seen = "visible" if prediction.confidence > 0.5 else "absent"
    return (
        f"{seen}, confidence {prediction.confidence:.2f}, proposal {prediction.proposal_idx} of "
        f"{len(found.proposals)}; overlay: {options['output']}"
    )


def _require(options: dict[str, Any], *names: str) -> None:
    missing = [f"--{name.replace('_', '-')}" for name in names if options[name] is None]
    if missing:
        raise SettingsError(f"{', '.join(missing)} missing; see omama predict --help")
