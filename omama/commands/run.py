"""`egoexo-tools run`"""

from typing import Any

import click

from egoexo_tools.commands import (
    FILE,
    all_frames_option,
    counts_option,
    direction_option,
    fractions_option,
    per_split,
    release_option,
    root_argument,
    sampling_option,
    scenarios_option,
    split_file_option,
    stage_options,
    takes_option,
)
from egoexo_tools.commands.choices import PROPOSER, NameOf
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.running.records import RunOptions
from omama.commands import BACKBONE, cache_precision_option, feature_precision_option, method_option
from omama.config import LEARNED_BACKBONE


@click.command()
@root_argument
@release_option
@direction_option
@split_file_option
@scenarios_option
@takes_option
@sampling_option
@click.option(
    "--size",
    type=NameOf("egoexo_tools.stages.settings:SIZES", without=("full",)),
    default="processed",
    help="Size of the frames: ego halved and exo quartered, or the release's small copies (448).",
)
@fractions_option
@counts_option
@click.option("--seed", default=0, help="Seed of the sample of pairs.")
@click.option("--proposer", type=PROPOSER, default="regions", help="Proposer of candidate masks.")
@click.option("--proposer-weights", type=FILE, help="FastSAM-x.pt; SAM 2 or 3: model.safetensors")
@method_option
@click.option(
    "--backbone", type=BACKBONE, default=LEARNED_BACKBONE, help="Backbone of the features."
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
@click.option("--export/--no-export", default=True, help="Also write O-MaMa's layout.")
@stage_options(shards=False)
def command(root: DatasetRoot, release: Release, run: RunOptions, **choices: Any) -> None:
    """Run the whole pipeline, from a release to the score table and a report.

    Example: egoexo-tools run new_root --release demo/release --epochs 1

    \b
    Example (needs the dataset and weights):
      egoexo-tools run data/root --release data/release \\
        --proposer fastsam --proposer-weights FastSAM-x.pt \\
        --backbone dinov2 --backbone-weights dinov2_vitb14_reg4_pretrain.pth
    """
    from egoexo_tools.layout import DOWNSCALED_448
    from egoexo_tools.proposers import ProposerOptions
    from egoexo_tools.runs import REPORT
    from egoexo_tools.vocab import directions
    from omama.config import Features
    from omama.pipeline import PipelineOptions, run_pipeline

    # Without a value the method's own default holds, which differs between methods.
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
    table = run_pipeline(root, release, options, run=run, say=click.echo)
    click.echo(f"\n{table}\n\nReport: {root.runs / REPORT}")
