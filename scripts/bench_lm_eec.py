"""Speed of LM-EEC: our tracking against one object at a time, and a training step.

    python scripts/bench_lm_eec.py                                 # tiny network on a CPU
    python scripts/bench_lm_eec.py --device cuda --folder bench    # base-plus in bfloat16

A take with one ego and two exo cameras is drawn. Every object is tracked in both directions
between both camera pairs: by scripts/plain_lm_eec.py, which reads and encodes both pictures for
every object and frame, as LM-EEC's released code does, and by omama.lm_eec. The logits of both are
compared. Times are the best of --repeat, from reading the first file to the last logits, as wall
time and as processor time. On a GPU a training step of eight clips follows, with the encoder's
blocks recomputed. Weights are random; they do not change the speed. All files go to --folder.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers
from drawn_root import EGO, EXO, draw_root
from plain_lm_eec import plain_track

from egoexo_tools.vocab import Direction, Split
from omama.features.images import normalise
from omama.lm_eec.bank import DEFAULT
from omama.lm_eec.config import CLIP_LENGTH, NetworkConfig
from omama.lm_eec.network import LmEecNetwork, build_network
from omama.lm_eec.pictures import read_squashed, squash_mask
from omama.lm_eec.settings import LmEecTrainConfig
from omama.lm_eec.take_tracking import TrackingSettings, track_objects
from omama.lm_eec.tracks import TakeTracks, load_tracks
from omama.lm_eec.training.clips import ClipBatch
from omama.lm_eec.training.rates import add_stochastic_depth, parameter_groups, recompute_blocks
from omama.lm_eec.training.task import ClipModule

CAMERAS = {EGO: (704, 704), EXO: (540, 960), "cam02": (540, 960)}
GIB = 2**30
Logits = dict[tuple[int, int], torch.Tensor]
"""(track, place in the track) → mask logits."""


class Cost(NamedTuple):
    """The price of one measured call."""

    wall_seconds: float
    processor_seconds: float
    gpu_gib: float
    """Peak GPU memory; 0 on a CPU."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--network", choices=("tiny", "base_plus"), help="[tiny on a CPU]")
    parser.add_argument("--objects", type=int, default=6)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, help="Threads of torch.  [all cores]")
    parser.add_argument("--clips", type=int, help="Clips of a training step.  [8 on a GPU, else 0]")
    parser.add_argument("--steps", type=int, default=5, help="Training steps after the first.")
    parser.add_argument("--profile", action="store_true", help="Write a profile to --folder.")
    parser.add_argument("--folder", type=Path, help="Folder to write to.  [a temporary one]")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.folder is None:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), options)
    else:
        options.folder.mkdir(parents=True, exist_ok=True)
        measure(options.folder, options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Print each measurement when it is made; all of them go to `folder/bench_lm_eec.txt`."""
    cuda = options.device == "cuda"
    config = getattr(NetworkConfig, options.network or ("base_plus" if cuda else "tiny"))()
    root = draw_root(
        folder / "root",
        takes=1,
        frames=options.frames,
        objects=options.objects,
        cameras=CAMERAS,
        splits=(Split.TEST,),
        directions=tuple(Direction),
    )
    (take,) = load_tracks(root, Split.TEST, tuple(Direction))
    network = random_network(config, options.device)
    settings = TrackingSettings(DEFAULT, torch.device(options.device), bf16=cuda, batch=32)
    clips = 8 if options.clips is None and cuda else options.clips
    lines = description(take, config, options.device)
    print("\n".join(lines), flush=True)
    lines += (table := compare(network, take, settings, options.repeat))
    print("\n".join(table), flush=True)
    if options.profile:
        profile(network, take, settings, folder / "profile.txt")
    if clips:
        lines.append(measure_training(config, options.device, clips, options.steps))
        print(lines[-1], flush=True)
    (folder / "bench_lm_eec.txt").write_text("\n".join(lines) + "\n")


def description(take: TakeTracks, config: NetworkConfig, device: str) -> list[str]:
    """The machine, the versions and the amount of work."""
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    machine = f"{threads} threads of {platform.machine()}, load {load:.1f}, float32"
    if device == "cuda":
        machine = f"{torch.cuda.get_device_name()}, bfloat16, {os.cpu_count()} cores"
    object_frames = sum(len(track) for track in take.tracks)
    return [
        f"{config.name} at {config.image_size} pixels, random weights; {machine};"
        f" torch {torch.__version__}, transformers {transformers.__version__}",
        f"{len(take.tracks)} tracks, {object_frames} object-frames, {len(take.frames)} pictures",
    ]


def random_network(config: NetworkConfig, device: str) -> LmEecNetwork:
    """A network whose random weights let every part contribute and report the object as visible."""
    torch.manual_seed(0)
    network = build_network(config, None).to(device)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
        network.sam.mask_decoder.pred_obj_score_head.proj_out.bias += 3
    return network


def compare(
    network: LmEecNetwork, take: TakeTracks, settings: TrackingSettings, repeat: int
) -> list[str]:
    """A row for each tracker, their ratio, and the difference between their logits."""
    object_frames = sum(len(track) for track in take.tracks)
    trackers = {"one object at a time": track_alone, "ours": track_together}
    logits: dict[str, Logits] = {}
    encodings: dict[str, int] = {}
    for label, tracker in trackers.items():  # this first call warms up
        with count_encodings(network) as pictures:
            logits[label] = tracker(network, take, settings)
            encodings[label] = sum(pictures)
    costs = lowest_costs(
        {
            label: lambda tracker=tracker: tracker(network, take, settings)
            for label, tracker in trackers.items()
        },
        settings.device,
        repeat,
    )
    lines = [
        f"| {label} | {cost.wall_seconds:.2f} s |"
        f" {1e3 * cost.wall_seconds / object_frames:.2f} ms per object-frame |"
        f" processor {cost.processor_seconds:.2f} s | {cost.gpu_gib:.2f} GiB of GPU memory |"
        f" {encodings[label]} encodings |"
        for label, cost in costs.items()
    ]
    plain, ours = costs.values()
    lines.append(
        f"{plain.wall_seconds / ours.wall_seconds:.1f} x faster in wall time,"
        f" {plain.processor_seconds / ours.processor_seconds:.1f} x in processor time"
    )
    return [*lines, difference(*logits.values())]


def difference(plain: Logits, ours: Logits) -> str:
    """The largest difference between logits, and the IoU of the masks that they give."""
    assert plain.keys() == ours.keys()
    largest = max(float((ours[key] - values).abs().max()) for key, values in plain.items())
    ious = []
    for key, values in plain.items():
        first, second = values > 0, ours[key] > 0
        union = int((first | second).sum())
        ious.append(int((first & second).sum()) / union if union else 1.0)
    return (
        f"logits differ by at most {largest:.1g}; IoU of the two masks: mean {np.mean(ious):.4f},"
        f" lowest {min(ious):.4f}"
    )


@torch.no_grad()
def track_alone(network: LmEecNetwork, take: TakeTracks, settings: TrackingSettings) -> Logits:
    size, logits = network.config.image_size, {}
    for number, track in enumerate(take.tracks):
        source, dest = (
            normalise(
                torch.from_numpy(
                    np.stack([read_squashed(take.frames.path(int(f)), size) for f in frames])
                ).to(settings.device)
            )
            for frames in (track.source_frames, track.dest_frames)
        )
        masks = [squash_mask(take.frames.masks.rle(int(row)), size) for row in track.source_masks]
        source_masks = torch.from_numpy(np.stack(masks)).float().to(settings.device)
        with torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.bf16):
            outputs = plain_track(network, source, dest, source_masks, reference=False, quick=True)
        logits |= {(number, place): out.low_res_logits[0] for place, out in outputs.items()}
    return logits


def track_together(network: LmEecNetwork, take: TakeTracks, settings: TrackingSettings) -> Logits:
    return {
        key: part.low_res_logits[row]
        for part in track_objects(network, take, settings)
        for row, key in enumerate(zip(part.tracks, part.places, strict=True))
    }


def lowest_costs(
    calls: dict[str, Callable[[], object]], device: torch.device, repeat: int
) -> dict[str, Cost]:
    """The lowest times of each call, made in turns, and the highest peak of GPU memory."""
    costs: dict[str, list[Cost]] = {label: [] for label in calls}
    for _ in range(repeat):
        for label, call in calls.items():
            costs[label].append(cost_of(call, device))
    return {
        label: Cost(
            min(cost.wall_seconds for cost in turns),
            min(cost.processor_seconds for cost in turns),
            max(cost.gpu_gib for cost in turns),
        )
        for label, turns in costs.items()
    }


def cost_of(call: Callable[[], object], device: torch.device) -> Cost:
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    wall, processor = time.perf_counter(), time.process_time()
    call()
    if cuda:
        torch.cuda.synchronize()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return Cost(wall, processor, torch.cuda.max_memory_allocated() / GIB if cuda else 0.0)


def profile(
    network: LmEecNetwork, take: TakeTracks, settings: TrackingSettings, path: Path
) -> None:
    """Write the operations that take most time in our tracking."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if settings.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as recording:
        track_together(network, take, settings)
    orders = ["self_cpu_time_total", "self_device_time_total"][: len(activities)]
    averages = recording.key_averages()
    path.write_text("\n".join(averages.table(sort_by=order, row_limit=25) for order in orders))


def measure_training(config: NetworkConfig, device: str, clips: int, steps: int) -> str:
    """Time steps as `omama train` makes them, without reading clips."""
    torch.manual_seed(0)
    network = build_network(config, None).to(device).train()
    add_stochastic_depth(network)
    recompute_blocks(network)
    module = ClipModule(network, bf16=device == "cuda")
    settings = LmEecTrainConfig()
    groups = [
        {"params": group.parameters, "lr": group.learning_rate, "weight_decay": group.weight_decay}
        for group in parameter_groups(network, settings)
    ]
    optimizer = torch.optim.AdamW(groups)
    batch = random_clips(clips, config.image_size).to(torch.device(device))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, _ = module(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
        optimizer.step()
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss of a training step is {float(loss)}")

    step()
    cost = lowest_costs({"step": step}, torch.device(device), steps)["step"]
    return (
        f"a training step of {clips} clips of {CLIP_LENGTH} frames, blocks recomputed:"
        f" {cost.wall_seconds:.2f} s ({clips / cost.wall_seconds:.1f} clips/s),"
        f" at most {cost.gpu_gib:.1f} GiB of GPU memory"
    )


def random_clips(clips: int, size: int) -> ClipBatch:
    """Noise, with a square as the object."""
    pictures = torch.randint(256, (2, clips, CLIP_LENGTH, size, size, 3), dtype=torch.uint8)
    masks = torch.zeros(2, clips, CLIP_LENGTH, size, size, dtype=torch.bool)
    masks[..., size // 4 : size // 2, size // 4 : size // 2] = True
    factors = torch.ones(2, clips, CLIP_LENGTH, 2, 3)
    return ClipBatch(pictures, masks, factors, torch.zeros(clips, dtype=torch.bool), 0, ("noise",))


@contextmanager
def count_encodings(network: LmEecNetwork) -> Iterator[list[int]]:
    """The number of pictures in each pass through the encoder."""
    pictures: list[int] = []
    hook = network.sam.vision_encoder.register_forward_pre_hook(
        lambda module, args: pictures.append(len(args[0]))
    )
    yield pictures
    hook.remove()


if __name__ == "__main__":
    main()
