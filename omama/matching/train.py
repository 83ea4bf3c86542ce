"""Train O-MaMa on the pairs of a root.

A run is `<root>/runs/<run_name>/`: `checkpoint_best.pt` (by val IoU), `checkpoint_last.pt`
(everything that a resumed run needs), `config.json`, `log.jsonl` and TensorBoard files. Batches
and candidates follow from (seed, epoch, batch), so that a run resumed at any step has the losses
that it would have had. Started by torchrun, each rank takes its share of every epoch.
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
from omama.dataset import UNANNOTATED, VISIBLE, Dataset, leave_out, load_dataset
from omama.features.images import PreparationConfig, token_grid
from omama.features.store import FeatureStore, open_store
from omama.loop import Loop
from omama.matching.config import MatchingOptions, ModelConfig, TrainConfig
from omama.matching.loading import pair_descriptors
from omama.matching.model import OMama
from omama.matching.model_files import METHOD, load_model
from omama.matching.objective import Objective, explain_full_gpu
from omama.matching.samples import Bucket
from omama.matching.task import (
    TrainingData,
    image_features_per_epoch,
    loop_config,
    make_task,
)
from omama.task import Task

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
    """Train one direction into a run's folder; returns the best checkpoint. As METHODS calls it.

    `options` say which features, whether to start from the weights of a checkpoint (`init`) and
    whether to go on from the run's last one (`resume`). `stop_after` ends after that many steps as
    a signal would. Raises DataError for input that cannot be used, SettingsError where a resumed
    run has other settings.
    """
    # Without cpu=True, accelerate runs the ranks of a machine without a GPU as strangers.
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    config = replace(config, precision=_precision(config.precision, accelerator.device))
    folder, init = run.path, options.init
    data = training_data(root, direction, config)
    val = load_dataset(root.require(), split=Split.VAL, direction=direction)
    store = _open_store(data, options.features, squash_portrait=config.reference_behaviour)
    val_store = _open_store(val, options.features, squash_portrait=False)
    torch.manual_seed(config.seed)
    model = _make_model(data, direction, config, store, init)
    if model.descriptor_part is not None and init is None:
        model.descriptor_part.fit(*pair_descriptors(data, store))
    visible_share = float((data.pairs.state == VISIBLE).mean())
    objective = Objective(model, config, visible_share=visible_share).to(accelerator.device)
    learnt = TrainingData(data, val, store, val_store)
    keeps_start = init is not None or model.descriptor_part is not None
    task = make_task(
        objective,
        config,
        learnt,
        accelerator,
        keeps_start=keeps_start,
        averages_start=init is not None,
    )
    loop = Loop(task, loop_config(config), accelerator=accelerator, folder=folder)
    if options.resume:
        loop.resume()
    if accelerator.is_main_process:
        passes = image_features_per_epoch(config, learnt, accelerator)
        _write_config(folder, task, learnt, options.features.weights, passes)
        write_exclusions(root, "train", folder.name, [*data.left_out, *val.left_out])
    accelerator.wait_for_everyone()
    with explain_full_gpu(config.batch_pairs):
        best = loop.run(quiet=options.quiet, stop_after=stop_after)
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        accelerator.end_training()
    return best


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


def training_data(root: DatasetRoot, direction: Direction, config: TrainConfig) -> Dataset:
    """The train pairs of a direction that training can use."""
    data = load_dataset(root.require(), split=Split.TRAIN, direction=direction)
    proposals = np.diff(data.frames.proposals.start)[data.pairs.dest_frame]
    reasons = {"the destination frame has no proposals": proposals == 0}
    if not config.reference_behaviour:
        unannotated = data.pairs.state == UNANNOTATED
        reasons = {"the destination was never annotated": unannotated, **reasons}
    data = leave_out(data, reasons)
    if not (data.pairs.state == VISIBLE).any():
        raise DataError(
            f"{root.path} has no train pair of {direction} with a visible destination and "
            "proposals; look at manifests/exclusions, then run pairs or propose again"
        )
    return data


def _make_model(
    data: Dataset,
    direction: Direction,
    config: TrainConfig,
    store: FeatureStore,
    init: Path | None,
) -> OMama:
    backbone = store.key.backbone
    if init is not None:
        model = load_model(init, direction=direction)
        if config.residual is not None and config.residual != model.config.residual:
            raise SettingsError(
                f"residual={config.residual}, but {init} is a model "
                f"{'with' if model.config.residual else 'without'} a descriptor part; leave out "
                "--residual and --no-residual, or --init"
            )
        if model.config.feature_width != store.key.width:
            raise DataError(
                f"{init} takes features of {model.config.feature_width} channels, {backbone} has "
                f"{store.key.width}; give the backbone that it was trained on"
            )
        # What it now becomes a model of, whatever it was trained on before.
        model.config = replace(
            model.config, backbone=backbone, reference_behaviour=config.reference_behaviour
        )
        return model
    preparation = PreparationConfig(
        patch_size=store.key.patch_size, squash_portrait=store.key.squash_portrait
    )
    return OMama(
        ModelConfig(
            direction=str(direction),
            backbone=backbone,
            feature_width=store.key.width,
            width=config.width,
            source_grid_hw=_usual_grid(data, data.pairs.source_frame, preparation),
            dest_grid_hw=_usual_grid(data, data.pairs.dest_frame, preparation),
            reference_behaviour=config.reference_behaviour,
            residual=config.wants_residual(backbone),
        )
    )


def _usual_grid(data: Dataset, frames: Int64, preparation: PreparationConfig) -> HW:
    """The token grid of most pairs' frames; other sizes get interpolated positions."""
    sizes = data.frames.rows[["height", "width"]].to_numpy()[frames]
    usual, counts = np.unique(sizes, axis=0, return_counts=True)
    height, width = usual[counts.argmax()].tolist()
    return token_grid(height, width, preparation)


def _write_config(
    folder: Path,
    task: Task[list[Bucket]],
    data: TrainingData,
    weights: Path | None,
    passes: int,
) -> None:
    settings = {
        "direction": task.config["direction"],
        "backbone": data.train_store.key.backbone,
        "weights": str(weights) if weights else None,
        "feature_precision": data.train_store.key.feature_precision,
        "cached": data.train_store.is_cache,
        "train_pairs": len(data.train.pairs),
        "val_pairs": len(data.val.pairs),
        "image_features_per_epoch": passes,
        "model": task.config,
        "training": task.settings,
    }
    write_atomic(RunFolder(folder).config, json.dumps(settings, indent=1) + "\n")


def write_outcome(run: RunFolder) -> None:
    """Add the val IoU of the best checkpoint, and of what it started from, to config.json."""
    checkpoint = load_checkpoint(run.checkpoint_best, method=METHOD)
    settings = json.loads(run.config.read_text(encoding="utf-8"))
    outcome = {"best": checkpoint.val_iou, "best_step": checkpoint.step}
    settings["val_iou"] = {**checkpoint.state.start, **outcome}
    write_atomic(run.config, json.dumps(settings, indent=1) + "\n")


def _precision(wanted: str, device: torch.device) -> str:
    return ("bf16" if device.type == "cuda" else "fp32") if wanted == "auto" else wanted
