"""Training of LM-EEC on the tracks of a root, in either direction: its entry in METHODS.

A run is `<root>/runs/<run>/`, as for every method. Before the first step, the frames of the train
takes are stored at the network's size (frame_store.py), once for all runs and both directions.
"""

from __future__ import annotations

import json
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
from omama.lm_eec.training.clips import load_clip_tracks
from omama.lm_eec.training.frame_store import run_squash
from omama.lm_eec.training.rates import add_stochastic_depth, recompute_blocks
from omama.lm_eec.training.task import ClipModule, ClipTraining, loop_config, select_val_tracks
from omama.lm_eec.weights import ACCEPTED_FILES, load_network
from omama.loop import Loop


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

    `stop_after` ends the run after that many steps, as a signal would. Raises SettingsError without
    initial weights, and for a direction that the released code does not train; DataError for input
    that cannot be used (a clip by its name).
    """
    if config.reference_behaviour and direction is Direction.EXO2EGO:
        raise SettingsError(
            "LM-EEC's released code only trains ego to exo; train exo2ego without"
            " --reference-behaviour"
        )
    # Recomputed blocks need a static graph. Parameters without a gradient, which the released code
    # searches for in each step, are frozen here.
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(static_graph=config.recompute)],
    )
    if config.precision == "auto":
        precision = "bf16" if accelerator.device.type == "cuda" else "fp32"
        config = replace(config, precision=precision)
    # Before the network: a fusion that is missing in the file is drawn from this seed.
    torch.manual_seed(config.seed)
    network = on_device(_initial_network(run, options, config), accelerator.device)
    tracks = load_clip_tracks(root.require(), direction, Split.TRAIN)
    val_tracks = list(load_tracks(root, Split.VAL, (direction,)))
    # The released code reads frames at their own size, so that it does not need squashed ones.
    if not config.reference_behaviour and accelerator.is_main_process:
        cameras = [
            (clip.take.take_uid, camera)
            for clip in tracks
            for camera in (clip.track.source_camera, clip.track.dest_camera)
        ]
        stage = RunOptions(executor="inline", quiet=options.quiet)
        run_squash(root, cameras, size=network.config.image_size, run=stage).check()
    accelerator.wait_for_everyone()
    module = ClipModule(network, bf16=config.precision == "bf16")
    val_tracks = select_val_tracks(val_tracks, config.val_clips)
    task = ClipTraining(module, config, root, tracks, val_tracks, accelerator).make_task()
    loop = Loop(task, loop_config(config), accelerator=accelerator, folder=run.path)
    if options.resume:
        loop.resume(overwrite=options.overwrite)
    if accelerator.is_main_process:
        settings = {
            "direction": str(direction),
            "init": str(options.init) if options.init else None,
            "train": task.introduction,
            "model": task.config,
            "training": task.settings,
        }
        write_atomic(run.config, json.dumps(settings, indent=1) + "\n")
    accelerator.wait_for_everyone()
    with explain_full_gpu(f"{config.batch_pairs} clips a batch", _smaller_batches(config)):
        best = loop.run(quiet=options.quiet, stop_after=stop_after)
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        accelerator.end_training()
    return best


def _initial_network(
    run: RunFolder, options: LmEecOptions, config: LmEecTrainConfig
) -> LmEecNetwork:
    start = options.init
    if start is None and options.resume and run.checkpoint_last.is_file():
        start = run.checkpoint_last
    if start is None:
        raise SettingsError(f"LM-EEC starts from SAM 2.1's weights: give --init, {ACCEPTED_FILES}")
    network = load_network(start, to_train=True).network.train()
    add_stochastic_depth(network)
    if config.recompute:
        recompute_blocks(network)
    return network


def _smaller_batches(config: LmEecTrainConfig) -> str | None:
    """Options for smaller batches whose step has the same clips; None if there are none."""
    step = config.batch_pairs * config.accumulate
    sizes = [n for n in range(1, config.batch_pairs // 2 + 1) if step % n == 0]
    if not sizes:
        return None
    return f"--batch-pairs {sizes[-1]} and --accumulate {step // sizes[-1]}, for the same step"
