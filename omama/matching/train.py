"""Train O-MaMa on the pairs of a root.

A run is `<root>/runs/<run_name>/`: `checkpoint_best.pt` (by val IoU), `checkpoint_last.pt` (all
that a resumed run needs), `config.json`, `log.jsonl` and TensorBoard files. Batches and candidates
depend on (seed, epoch, batch) alone, so that a resumed run has the losses of an undisturbed one.
Started by torchrun, each rank trains on its share of every epoch.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from egoexo_tools.arrays import Int64
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot, write_atomic
from egoexo_tools.manifests import write_exclusions
from egoexo_tools.runs import RunFolder
from egoexo_tools.vocab import Direction, Split
from omama.checkpoint import load_checkpoint
from omama.config import DEFAULT_BACKBONE, HW, Features
from omama.dataset import UNANNOTATED, VISIBLE, Dataset, leave_out
from omama.features.images import PreparationConfig, token_grid
from omama.features.store import FeatureStore, open_store
from omama.loop import Loop
from omama.matching.config import MatchingOptions, ModelConfig, TrainConfig
from omama.matching.loading import pair_descriptors
from omama.matching.model import OMama
from omama.matching.model_files import METHOD, load_model
from omama.matching.objective import Objective, explain_full_gpu
from omama.matching.task import MatchingTraining, TrainingData, loop_config
from omama.tables.loading import load_dataset

logger = logging.getLogger(__name__)


def train(
    root: DatasetRoot,
    direction: Direction,
    config: TrainConfig,
    run: RunFolder,
    *,
    options: MatchingOptions = MatchingOptions(),
    stop_after: int | None = None,
) -> Path:
    """Train one direction into a run's folder; returns the best checkpoint.

    Of the options it uses `features`, `init` (a checkpoint to start from), `resume` (continue from
    the run's last checkpoint) and `quiet`. `stop_after` ends after that many steps as a signal
    would. Raises DataError for input that cannot be used, SettingsError for a resumed run with
    other settings.
    """
    # Without cpu=True, accelerate does not connect the ranks of a machine without a GPU.
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    if config.precision == "auto":
        precision = "bf16" if accelerator.device.type == "cuda" else "fp32"
        config = replace(config, precision=precision)
    train_data = _load_train_data(root.require(), direction, config)
    val_data = load_dataset(root, split=Split.VAL, direction=direction)
    # The reference trains on squashed portrait frames, but predicts on portrait ones.
    squash_portrait = config.reference_behaviour
    train_store = _open_store(train_data, options.features, squash_portrait=squash_portrait)
    val_store = _open_store(val_data, options.features, squash_portrait=False)
    data = TrainingData(train_data, val_data, train_store, val_store)

    # Only the model's initial weights are drawn from torch's generator.
    torch.manual_seed(config.seed)
    if options.init is None:
        model = _new_model(data, direction, config)
    else:
        model = _load_init(options.init, direction, config, train_store)
    visible_share = float((train_data.pairs.state == VISIBLE).mean())
    objective = Objective(model, config, visible_share=visible_share).to(accelerator.device)
    training = MatchingTraining(objective, config, data, accelerator)
    has_init = options.init is not None
    task = training.make_task(
        # A descriptor part alone already matches better than chance.
        keeps_start=has_init or model.descriptor_part is not None,
        averages_start=has_init,
    )
    loop = Loop(task, loop_config(config), accelerator=accelerator, folder=run.path)
    if options.resume:
        loop.resume(overwrite=options.overwrite)
    if accelerator.is_main_process:
        _write_config(run, training, options.features.weights)
        write_exclusions(root, "train", run.name, [*train_data.left_out, *val_data.left_out])
    accelerator.wait_for_everyone()
    with explain_full_gpu(config.batch_pairs):
        best = loop.run(quiet=options.quiet, stop_after=stop_after)
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        accelerator.end_training()
    return best


def _load_train_data(root: DatasetRoot, direction: Direction, config: TrainConfig) -> Dataset:
    """The train pairs of a direction that training can use."""
    data = load_dataset(root, split=Split.TRAIN, direction=direction)
    proposals = np.diff(data.frames.proposals.start)[data.pairs.dest_frame]
    reasons = {"the destination frame has no proposals": proposals == 0}
    if not config.reference_behaviour:
        # The reference trains on them as on absent objects, although nothing says so.
        unannotated = data.pairs.state == UNANNOTATED
        reasons = {"the destination was never annotated": unannotated, **reasons}
    data = leave_out(data, reasons)
    if not (data.pairs.state == VISIBLE).any():
        raise DataError(
            f"{root.path} has no train pair of {direction} with a visible destination and "
            "proposals; look at manifests/exclusions, then run pairs or propose again"
        )
    return data


def _open_store(data: Dataset, features: Features, *, squash_portrait: bool) -> FeatureStore:
    return open_store(
        data.frames,
        backbone=features.backbone or DEFAULT_BACKBONE,
        weights=features.weights,
        cached=features.cached,
        feature_precision=features.feature_precision or "fp32",
        squash_portrait=squash_portrait,
        pairs=data.pairs,
    )


def _new_model(data: TrainingData, direction: Direction, config: TrainConfig) -> OMama:
    key, pairs = data.train_store.key, data.train.pairs
    preparation = PreparationConfig(patch_size=key.patch_size, squash_portrait=key.squash_portrait)
    model = OMama(
        ModelConfig(
            direction=str(direction),
            backbone=key.backbone,
            feature_width=key.width,
            width=config.width,
            source_grid_hw=_most_common_grid(data.train, pairs.source_frame, preparation),
            dest_grid_hw=_most_common_grid(data.train, pairs.dest_frame, preparation),
            reference_behaviour=config.reference_behaviour,
            residual=config.wants_residual(key.backbone),
        )
    )
    if model.descriptor_part is not None:
        model.descriptor_part.fit(*pair_descriptors(data.train, data.train_store))
    return model


def _most_common_grid(data: Dataset, frames: Int64, preparation: PreparationConfig) -> HW:
    """The token grid of most pairs' frames; for other grids, positions are interpolated."""
    sizes = data.frames.rows[["height", "width"]].to_numpy()[frames]
    unique, counts = np.unique(sizes, axis=0, return_counts=True)
    height, width = unique[counts.argmax()].tolist()
    return token_grid(height, width, preparation)


def _load_init(init: Path, direction: Direction, config: TrainConfig, store: FeatureStore) -> OMama:
    """The model of a checkpoint, ours or the authors', to train further on these features."""
    model = load_model(init, direction=direction)
    if config.residual is not None and config.residual != model.config.residual:
        raise SettingsError(
            f"residual={config.residual}, but {init} is a model "
            f"{'with' if model.config.residual else 'without'} a descriptor part; leave out "
            "--residual and --no-residual, or --init"
        )
    if model.config.feature_width != store.key.width:
        raise DataError(
            f"{init} takes features of {model.config.feature_width} channels, "
            f"{store.key.backbone} has {store.key.width}; give the backbone that it was trained on"
        )
    # The settings of this training replace those that the checkpoint was trained with.
    model.config = replace(
        model.config, backbone=store.key.backbone, reference_behaviour=config.reference_behaviour
    )
    return model


def _write_config(run: RunFolder, training: MatchingTraining, weights: Path | None) -> None:
    data, model = training.data, training.objective.model
    settings = {
        "direction": model.config.direction,
        "backbone": data.train_store.key.backbone,
        "weights": str(weights) if weights else None,
        "feature_precision": data.train_store.key.feature_precision,
        "cached": data.train_store.is_cache,
        "train_pairs": len(data.train.pairs),
        "val_pairs": len(data.val.pairs),
        "image_features_per_epoch": training.image_features_per_epoch,
        "model": model.config.to_dict(),
        "training": training.config.to_dict(),
    }
    write_atomic(run.config, json.dumps(settings, indent=1) + "\n")


def write_outcome(run: RunFolder) -> None:
    """Add the val IoU of the best checkpoint, and of what it started from, to config.json."""
    checkpoint = load_checkpoint(run.checkpoint_best, method=METHOD)
    settings = json.loads(run.config.read_text(encoding="utf-8"))
    outcome = {"best": checkpoint.val_iou, "best_step": checkpoint.step}
    settings["val_iou"] = {**checkpoint.state.start, **outcome}
    write_atomic(run.config, json.dumps(settings, indent=1) + "\n")
