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
from omama.commands import BACKBONE, cache_precision_option, feature_precision_option, method_option
from omama.config import LEARNED_BACKBONE

if TYPE_CHECKING:
    from egoexo_tools.running.records import RunOptions


@click.command()
@root_argument
@release_option
@direction_option
@click.option("--split-file", type=FILE, help="split.json of `select`.  [default: official]")
@click.option(
    "--scenario", "scenarios", multiple=True, help="Only takes of this scenario. Repeatable."
)
@click.option(
    "--take", "take_uids", multiple=True, metavar="UID", help="Only this take. Repeatable."
)
@click.option(
    "--sampling",
    type=SAMPLING,
    default="annotated",
    show_default=True,
    help="All annotated frames, or frames 0, 30, 60... of the whole video.",
)
@click.option(
    "--size",
    type=NameOf("egoexo_tools.stages.settings:SIZES", without=("full",)),
    default="processed",
    show_default=True,
    help="Size of the frames: ego halved and exo quartered, or the release's small copies (448).",
)
@click.option(
    "--fraction",
    "fractions",
    multiple=True,
    metavar="SPLIT=SHARE",
    help="Share of a split's pairs to keep, such as train=0.2. Repeatable.",
)
@click.option(
    "--count",
    "counts",
    multiple=True,
    metavar="SPLIT=NUMBER",
    help="Exact number of a split's pairs to keep, such as val=1950. Repeatable.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the sample of pairs.")
@click.option(
    "--proposer",
    type=PROPOSER,
    default="regions",
    show_default=True,
    help="Proposer of candidate masks.",
)
@click.option("--proposer-weights", type=FILE, help="FastSAM-x.pt; SAM 2 or 3: model.safetensors")
@method_option
@click.option(
    "--backbone",
    type=BACKBONE,
    default=LEARNED_BACKBONE,
    show_default=True,
    help="Backbone of the features.",
)
@click.option("--backbone-weights", type=FILE, help="The backbone's original checkpoint file.")
@feature_precision_option
@cache_precision_option
@all_frames_option
@click.option(
    "--init",
    type=FILE,
    help="Checkpoint whose weights training starts from; lm-eec needs SAM 2.1's.",
)
@click.option("--epochs", type=int, help="Training epochs.  [default: the method's]")
@click.option("--batch-pairs", type=int, help="Pairs in a batch.  [default: the method's]")
@click.option("--learning-rate", type=float, help="Peak learning rate.  [default: the method's]")
@click.option(
    "--export/--no-export", default=True, show_default=True, help="Also write O-MaMa's layout."
)
@stage_options(shards=False)
def command(root: Path, release: Path, run: "RunOptions", **choices: Any) -> None:
    """Run the whole pipeline, from a release to the score table and a report.

    Example: egoexo-tools run my_root --release demo/release --epochs 1

    \b
    Example (needs the dataset and weights):
      egoexo-tools run data/root --release data/release \\
        --proposer fastsam --proposer-weights FastSAM-x.pt \\
        --backbone dinov2 --backbone-weights dinov2_vitb14_reg4_pretrain.pth
    """
    from egoexo_tools.layout import DOWNSCALED_448, DatasetRoot, Release
    from egoexo_tools.proposers import ProposerOptions
    from egoexo_tools.runs import REPORT
    from egoexo_tools.vocab import directions
    from omama.config import Features
    from omama.pipeline import PipelineOptions, run_pipeline

    training = {name: choices.pop(name) for name in ("epochs", "batch_pairs", "learning_rate")}
    options = PipelineOptions(
        directions=directions(choices.pop("direction")),
        short_side=DOWNSCALED_448 if choices.pop("size") == "448" else None,
        fractions=per_split(choices.pop("fractions"), float),
        counts=per_split(choices.pop("counts"), int),
        proposer_options=ProposerOptions(weights=choices.pop("proposer_weights")),
        features=Features(
            choices.pop("backbone"),
            choices.pop("backbone_weights"),
            choices.pop("feature_precision"),
        ),
        training={name: value for name, value in training.items() if value is not None},
        **choices,
    )
    table = run_pipeline(DatasetRoot(root), Release(release), options, run=run, say=click.echo)
    click.echo(f"\n{table}\n\nReport: {DatasetRoot(root).runs / REPORT}")
