"""`egoexo-tools run`"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from egoexo_tools.commands import (
    FILE,
    all_frames_option,
    direction_option,
    per_split,
    release_option,
    root_argument,
    stage_options,
)
from egoexo_tools.commands.choices import PROPOSER, SAMPLING, NameOf
from omama.commands import (
    BACKBONE,
    cache_precision_option,
    feature_precision_option,
    method_option,
)
from omama.config import LEARNED_BACKBONE

if TYPE_CHECKING:
    from egoexo_tools.running.records import RunOptions
    from omama.pipeline import PipelineOptions


@click.command()
@root_argument
@release_option
@direction_option
@click.option("--split-file", type=FILE, help="split.json of `select`.  [default: official]")
@click.option("--scenario", "scenarios", multiple=True, help="Only takes of this scenario.")
@click.option("--take", "take_uids", multiple=True, metavar="UID", help="Only this take.")
@click.option("--sampling", type=SAMPLING, default="annotated")
@click.option(
    "--size",
    type=NameOf("egoexo_tools.stages.settings:SIZES", without=("full",)),
    default="processed",
    show_default=True,
    help="Frames of the videos, ego halved and exo quartered; or of the release's small copies.",
)
@click.option("--fraction", "fractions", multiple=True, metavar="SPLIT=F", help="train=0.2")
@click.option("--count", "counts", multiple=True, metavar="SPLIT=N", help="val=1950")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--proposer",
    type=PROPOSER,
    default="regions",
    show_default=True,
)
@click.option("--proposer-weights", type=FILE, help="FastSAM-x.pt; SAM 2 or 3: model.safetensors")
@method_option
@click.option("--backbone", type=BACKBONE, default=LEARNED_BACKBONE, show_default=True)
@click.option("--backbone-weights", type=FILE, help="Original checkpoint of the backbone.")
@feature_precision_option
@cache_precision_option
@all_frames_option
@click.option(
    "--init", type=FILE, help="Train on from these weights; lm-eec starts from SAM 2.1's."
)
@click.option("--epochs", type=int, help="Training epochs.")
@click.option("--batch-pairs", type=int, help="Training pairs a step.")
@click.option("--learning-rate", type=float, help="Peak learning rate.")
@click.option("--export/--no-export", default=True, help="Also write the O-MaMa layout.")
@stage_options(shards=False)
def command(root: Path, release: Path, run: "RunOptions", **choices: Any) -> None:
    """All of it: from raw videos to the score table and a page of pictures.

    Example: egoexo-tools run root --release release --proposer fastsam
    --proposer-weights FastSAM-x.pt --backbone dinov2 --backbone-weights dinov2_vitb14_reg4.pth
    """
    from egoexo_tools.layout import DatasetRoot, Release
    from egoexo_tools.runs import REPORT
    from omama.pipeline import run_pipeline

    table = run_pipeline(
        DatasetRoot(root), Release(release), _options(choices), run=run, say=click.echo
    )
    click.echo(f"\n{table}\n\nReport: {DatasetRoot(root).runs / REPORT}")


def _options(choices: dict[str, Any]) -> "PipelineOptions":
    """The command's choices by topic; those that are the pipeline's own by name go as they are."""
    from egoexo_tools.layout import DOWNSCALED_448
    from egoexo_tools.proposers import ProposerOptions
    from egoexo_tools.vocab import directions
    from omama.config import Features
    from omama.methods import DEFAULT_METHOD
    from omama.pipeline import PipelineOptions

    training = {name: choices.pop(name) for name in ("epochs", "batch_pairs", "learning_rate")}
    backbone, weights, feature_precision = (
        choices.pop(name) for name in ("backbone", "backbone_weights", "feature_precision")
    )
    return PipelineOptions(
        directions=directions(choices.pop("direction")),
        short_side=DOWNSCALED_448 if choices.pop("size") == "448" else None,
        fractions=per_split(choices.pop("fractions"), float),
        counts=per_split(choices.pop("counts"), int),
        proposer_options=ProposerOptions(weights=choices.pop("proposer_weights")),
        features=Features(backbone, weights, feature_precision),
        method=choices.pop("method") or DEFAULT_METHOD,
        training={name: value for name, value in training.items() if value is not None},
        **choices,
    )
