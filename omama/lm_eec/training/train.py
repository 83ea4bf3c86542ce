"""Train LM-EEC on the tracks of a root, in either direction: its line in METHODS.

A run is `<root>/runs/<run>/`, as of every method. Before the first step the frames of the train
takes are stored small (frame_store.py), once for all runs and both directions.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import DatasetRoot, write_atomic
from egoexo_tools.running.records import RunOptions
from egoexo_tools.runs import RunFolder
from egoexo_tools.vocab import Direction, Split
from omama.lm_eec.gpu import explain_full_gpu, on_device
from omama.lm_eec.network import LmEecNetwork
from omama.lm_eec.settings import LmEecOptions, LmEecTrainConfig
from omama.lm_eec.tracks import load_tracks
from omama.lm_eec.training.clips import ClipBatch, load_clip_tracks
from omama.lm_eec.training.frame_store import run_squash
from omama.lm_eec.training.rates import add_stochastic_depth, recompute_blocks
from omama.lm_eec.training.task import (
    ClipModule,
    ClipTrainingData,
    loop_config,
    make_task,
    select_val_tracks,
)
from omama.lm_eec.weights import WANTED, load_network
from omama.loop import Loop
from omama.task import Task


def train(
    root: DatasetRoot,
    direction: Direction,
    config: LmEecTrainConfig,
    run: RunFolder,
    *,
    options: LmEecOptions = LmEecOptions(),
    stop_after: int | None = None,
) -> Path:
    """Train one direction; returns the best checkpoint by val IoU.

    `stop_after` ends after that many steps as a signal would. Raises SettingsError where there is
    nothing to start from and for what the released code does not learn, DataError for input that
    cannot be used (a clip by its name).
    """
    if config.reference_behaviour and direction is Direction.EXO2EGO:
        raise SettingsError(
            "LM-EEC's released code learns ego to exo alone; train exo2ego without"
            " --reference-behaviour"
        )
    # The released code's graph has parameters without a gradient; ours freezes them.
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(static_graph=config.recompute)],
    )
    config = replace(config, precision=_precision(config.precision, accelerator.device))
    torch.manual_seed(config.seed)
    network = on_device(_network(run, options, config), accelerator.device)
    data = _data(root, direction, config, network, accelerator, options)
    module = ClipModule(network, bf16=config.precision == "bf16")
    task = make_task(module, config, data, accelerator)
    loop = Loop(task, loop_config(config), accelerator=accelerator, folder=run.path)
    if options.resume:
        loop.resume()
    if accelerator.is_main_process:
        _write_config(run, direction, task, options)
    accelerator.wait_for_everyone()
    with _advice(config):
        best = loop.run(quiet=options.quiet, stop_after=stop_after)
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        accelerator.end_training()
    return best


def _network(run: RunFolder, options: LmEecOptions, config: LmEecTrainConfig) -> LmEecNetwork:
    start = options.init
    if start is None and options.resume and run.checkpoint_last.is_file():
        start = run.checkpoint_last
    if start is None:
        raise SettingsError(f"LM-EEC starts from SAM 2.1's weights: give --init, {WANTED}")
    network = load_network(start, to_train=True).network.train()
    add_stochastic_depth(network)
    if config.recompute:
        recompute_blocks(network)
    return network


def _data(
    root: DatasetRoot,
    direction: Direction,
    config: LmEecTrainConfig,
    network: LmEecNetwork,
    accelerator: Accelerator,
    options: LmEecOptions,
) -> ClipTrainingData:
    tracks = load_clip_tracks(root.require(), direction, Split.TRAIN)
    val = select_val_tracks(list(load_tracks(root, Split.VAL, (direction,))), config.val_clips)
    if not config.reference_behaviour and accelerator.is_main_process:
        cameras = [
            (clip.take.take_uid, camera)
            for clip in tracks
            for camera in (clip.track.source_camera, clip.track.dest_camera)
        ]
        stage = RunOptions(executor="inline", quiet=options.quiet)
        run_squash(root, cameras, size=network.config.image_size, run=stage).check()
    accelerator.wait_for_everyone()
    return ClipTrainingData(root, tracks, val)


def _write_config(
    run: RunFolder, direction: Direction, task: Task[ClipBatch], options: LmEecOptions
) -> None:
    settings = {
        "direction": str(direction),
        "init": str(options.init) if options.init else None,
        "train": task.introduction,
        "model": task.config,
        "training": task.settings,
    }
    write_atomic(run.config, json.dumps(settings, indent=1) + "\n")


def _precision(wanted: str, device: torch.device) -> str:
    return ("bf16" if device.type == "cuda" else "fp32") if wanted == "auto" else wanted


def _advice(config: LmEecTrainConfig) -> AbstractContextManager[None]:
    """A step stays the same where its batches become smaller and more."""
    clips, step = config.batch_pairs, config.batch_pairs * config.accumulate
    fewer = max((n for n in range(1, clips // 2 + 1) if step % n == 0), default=None)
    smaller = None
    if fewer is not None:
        smaller = f"--batch-pairs {fewer} and --accumulate {step // fewer}, for the same step"
    return explain_full_gpu(f"{clips} clips a batch", smaller)
