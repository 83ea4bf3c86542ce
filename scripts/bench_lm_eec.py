"""How fast LM-EEC follows a take, ours against one object at a time, and how fast it learns.

    python scripts/bench_lm_eec.py                                 # tiny network, CPU, all cores
    python scripts/bench_lm_eec.py --device cuda --folder bench    # base-plus in bfloat16

A take of an ego and two exo cameras is drawn, and every object followed in both directions and both
camera pairs: by scripts/plain_lm_eec.py, which reads and encodes both pictures for every object and
frame, as LM-EEC's released code does, and by omama.lm_eec. Both must draw the same masks. Times are
the best of --repeat, from the first file read to the last logits made; in processor time too, since
a shared machine's clock says little. On a GPU a step of training follows, of eight clips, with the
encoder's blocks computed again. Weights are random: no time depends on them. Nothing is written
outside of --folder.
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

import numpy as np
import torch
import transformers
from PIL import Image
from plain_lm_eec import plain_track

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import write_manifest
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.runs import join_pair_id
from egoexo_tools.vocab import Direction, Split, view_of
from omama.features.images import normalise
from omama.lm_eec.bank import DEFAULT
from omama.lm_eec.config import CLIP_LENGTH, NetworkConfig
from omama.lm_eec.following import TrackingSettings, follow
from omama.lm_eec.network import LmEecNetwork, build_model
from omama.lm_eec.pictures import read_squashed, squash_mask
from omama.lm_eec.settings import LmEecTrainConfig
from omama.lm_eec.tracks import TakeTracks, load_tracks
from omama.lm_eec.training.clips import ClipBatch
from omama.lm_eec.training.rates import (
    add_stochastic_depth,
    parameter_groups,
    recompute_blocks,
)
from omama.lm_eec.training.task import ClipModule

TAKE = "11111111-0000-4000-8000-000000000001"
CAMERAS = {"aria01_214-1": (704, 704), "cam01": (540, 960), "cam02": (540, 960)}
GIB = 2**30
Answers = dict[tuple[int, int], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--network", choices=("tiny", "base_plus"), help="by default the device's")
    parser.add_argument("--objects", type=int, default=6)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch; by default as many as cores")
    parser.add_argument("--clips", type=int, help="of a training step; 8 on a GPU, else none")
    parser.add_argument("--steps", type=int, default=5, help="of training, after a first")
    parser.add_argument("--profile", action="store_true", help="where the time goes, to --folder")
    parser.add_argument("--folder", type=Path, help="by default a temporary one")
    given = parser.parse_args()
    cuda = given.device == "cuda"
    config = getattr(NetworkConfig, given.network or ("base_plus" if cuda else "tiny"))()
    if given.threads:
        torch.set_num_threads(given.threads)
    begun = time.perf_counter()
    with folder_of(given.folder) as folder:
        (take,) = draw_root(folder / "root", given.objects, given.frames)
        lines = about(take, config, given.device)
        show(lines, f"ready after {time.perf_counter() - begun:.0f} s")
        network = drawn_network(config, given.device)
        how = TrackingSettings(DEFAULT, torch.device(given.device), bf16=cuda, batch=32)
        table = compare(network, take, how, given.repeat)
        show(lines, *table)
        if given.profile:
            profile(network, take, how, folder / "profile.txt")
        clips = 8 if given.clips is None and cuda else given.clips
        if clips:
            show(lines, *learn(config, given.device, clips, given.steps))
        show(lines, f"all of it: {time.perf_counter() - begun:.0f} s")
        (folder / "bench_lm_eec.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(["", *lines]))


@contextmanager
def folder_of(given: Path | None) -> Iterator[Path]:
    """The folder that was given, which stays, or one that goes."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def about(take: TakeTracks, config: NetworkConfig, device: str) -> list[str]:
    """The machine, and the work."""
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    name = f"threads: {threads} of {platform.machine()}, load {load:.1f}, float32"
    if device == "cuda":
        name = f"{torch.cuda.get_device_name()}, bfloat16, {os.cpu_count()} cores"
    frames = sum(len(track) for track in take.tracks)
    return [
        f"{config.name} at {config.image_size} pixels, random weights; {name};"
        f" torch {torch.__version__}, transformers {transformers.__version__}",
        f"{len(take.tracks)} tracks, {frames} object-frames, {len(take.frames)} pictures",
    ]


def show(lines: list[str], *more: str) -> None:
    """Say it now, and keep it for the table at the end."""
    lines += more
    for line in more:
        print(line, flush=True)


def drawn_network(config: NetworkConfig, device: str) -> LmEecNetwork:
    """Random weights that let every part say something, and see the object."""
    torch.manual_seed(0)
    network = build_model(config, None).to(device)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
        network.sam.mask_decoder.pred_obj_score_head.proj_out.bias += 3
    return network


def compare(
    network: LmEecNetwork, take: TakeTracks, how: TrackingSettings, repeat: int
) -> list[str]:
    """Both, in turns, with the pictures that each encodes, and how far their logits differ."""
    frames = sum(len(track) for track in take.tracks)
    works = {"one object at a time": one_at_a_time, "ours": side_by_side}
    answers: dict[str, Answers] = {}
    passes: dict[str, int] = {}
    for label, work in works.items():  # the first turn warms up
        with counted_pictures(network) as pictures:
            answers[label] = work(network, take, how)
            passes[label] = sum(pictures)
    best = best_of(
        {label: lambda work=work: work(network, take, how) for label, work in works.items()},
        how.device,
        repeat,
    )
    lines = [
        f"| {label} | {wall:.2f} s | {1e3 * wall / frames:.2f} ms an object-frame |"
        f" processor {cpu:.2f} s | {memory:.2f} GiB of GPU memory | {passes[label]} encodings |"
        for label, (wall, cpu, memory) in best.items()
    ]
    plain, ours = best.values()
    lines.append(
        f"{plain[0] / ours[0]:.1f} x faster by the clock,"
        f" {plain[1] / ours[1]:.1f} x in processor time"
    )
    return [*lines, apart(*answers.values())]


def apart(plain: Answers, ours: Answers) -> str:
    """How far the answers differ: logits, and the masks that they draw."""
    assert plain.keys() == ours.keys()
    most = max(float((ours[key] - drawn).abs().max()) for key, drawn in plain.items())
    ious = []
    for key, drawn in plain.items():
        first, second = drawn > 0, ours[key] > 0
        union = int((first | second).sum())
        ious.append(int((first & second).sum()) / union if union else 1.0)
    return (
        f"logits differ by at most {most:.1g}; IoU of the two masks: mean {np.mean(ious):.4f},"
        f" least {min(ious):.4f}"
    )


@torch.no_grad()
def one_at_a_time(network: LmEecNetwork, take: TakeTracks, how: TrackingSettings) -> Answers:
    size, found = network.config.image_size, {}
    for number, track in enumerate(take.tracks):
        source, dest = (
            normalise(
                torch.from_numpy(
                    np.stack([read_squashed(take.frames.path(int(f)), size) for f in frames])
                ).to(how.device)
            )
            for frames in (track.source_frames, track.dest_frames)
        )
        masks = [squash_mask(take.frames.masks.rle(int(row)), size) for row in track.source_masks]
        drawn = torch.from_numpy(np.stack(masks)).float().to(how.device)
        with torch.autocast(how.device.type, torch.bfloat16, enabled=how.bf16):
            answers = plain_track(network, source, dest, drawn, reference=False, quick=True)
        found |= {(number, place): one.low_res_logits[0] for place, one in answers.items()}
    return found


def side_by_side(network: LmEecNetwork, take: TakeTracks, how: TrackingSettings) -> Answers:
    return {
        key: part.low_res_logits[row]
        for part in follow(network, take, how)
        for row, key in enumerate(zip(part.tracks, part.places, strict=True))
    }


def best_of(
    works: dict[str, Callable[[], object]], device: torch.device, repeat: int
) -> dict[str, tuple[float, float, float]]:
    """The least wall and processor seconds of each, in turns; and the GPU's peak in GiB."""
    found: dict[str, list[tuple[float, float, float]]] = {label: [] for label in works}
    for _ in range(repeat):
        for label, work in works.items():
            with measured(device) as figures:
                work()
            found[label].append((figures[0], figures[1], figures[2]))
    return {
        label: (min(r[0] for r in runs), min(r[1] for r in runs), max(r[2] for r in runs))
        for label, runs in found.items()
    }


@contextmanager
def measured(device: torch.device) -> Iterator[list[float]]:
    """Fills in wall and processor seconds, and the GPU's peak in GiB (0 on a CPU)."""
    figures: list[float] = []
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    wall, cpu = time.perf_counter(), time.process_time()
    yield figures
    if cuda:
        torch.cuda.synchronize()
    figures += [time.perf_counter() - wall, time.process_time() - cpu]
    figures.append(torch.cuda.max_memory_allocated() / GIB if cuda else 0.0)


def profile(network: LmEecNetwork, take: TakeTracks, how: TrackingSettings, path: Path) -> None:
    """Which operations ours spends its time in."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if how.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as seen:
        side_by_side(network, take, how)
    orders = ["self_cpu_time_total", "self_device_time_total"][: len(activities)]
    tables = [seen.key_averages().table(sort_by=order, row_limit=25) for order in orders]
    path.write_text("\n".join(tables))


def learn(config: NetworkConfig, device: str, clips: int, steps: int) -> list[str]:
    """Steps of training as `omama train` makes them, without the reading of clips."""
    torch.manual_seed(0)
    network = build_model(config, None).to(device).train()
    add_stochastic_depth(network)
    recompute_blocks(network)
    module = ClipModule(network, bf16=device == "cuda")
    settings = LmEecTrainConfig()
    groups = [
        {"params": group.parameters, "lr": group.learning_rate, "weight_decay": group.weight_decay}
        for group in parameter_groups(network, settings)
    ]
    optimizer = torch.optim.AdamW(groups)
    batch = drawn_clips(clips, config.image_size).to(torch.device(device))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, _ = module(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
        optimizer.step()
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss of a training step is {float(loss)}")

    step()
    best = best_of({"step": step}, torch.device(device), steps)["step"]
    return [
        f"a training step of {clips} clips of {CLIP_LENGTH} frames, blocks computed again:"
        f" {best[0]:.2f} s ({clips / best[0]:.1f} clips/s), {best[2]:.1f} GiB of GPU memory at most"
    ]


def drawn_clips(clips: int, size: int) -> ClipBatch:
    """Noise, with a square that is the object."""
    pictures = torch.randint(256, (2, clips, CLIP_LENGTH, size, size, 3), dtype=torch.uint8)
    masks = torch.zeros(2, clips, CLIP_LENGTH, size, size, dtype=torch.bool)
    masks[..., size // 4 : size // 2, size // 4 : size // 2] = True
    factors = torch.ones(2, clips, CLIP_LENGTH, 2, 3)
    return ClipBatch(pictures, masks, factors, torch.zeros(clips, dtype=torch.bool), 0, ("noise",))


@contextmanager
def counted_pictures(network: LmEecNetwork) -> Iterator[list[int]]:
    """Pictures of each pass through the encoder."""
    counted: list[int] = []
    hook = network.sam.vision_encoder.register_forward_pre_hook(
        lambda module, args: counted.append(len(args[0]))
    )
    yield counted
    hook.remove()


def draw_root(path: Path, objects: int, frames: int) -> list[TakeTracks]:
    """A take of coloured boxes that wander, visible in every frame of every camera."""
    root, rng = DatasetRoot(path), np.random.default_rng(0)
    masks, pairs = [], []
    for camera, hw in CAMERAS.items():
        corners = rng.integers(0, 300, (objects, 2))
        rows = []
        for frame_idx in range(0, 30 * frames, 30):
            corners = np.clip(corners + rng.integers(-12, 13, (objects, 2)), 0, 400)
            picture = np.full((*hw, 3), 90, np.uint8)
            key = {"take_uid": TAKE, "camera": camera, "frame_idx": frame_idx}
            for number, (y, x) in enumerate(corners.tolist()):
                mask = np.zeros(hw, np.uint8)
                mask[y : y + 90, x : x + 90] = 1
                picture[mask > 0] = rng.integers(0, 256, 3)
                masks.append(_mask_row(key, f"object {number}", mask))
            rows.append(_frame_row(root, key, picture))
        write_manifest(root, "frames", f"{TAKE}.{camera}", rows)
    write_manifest(root, "masks", TAKE, masks)
    for direction in Direction:
        pairs = list(_pairs(direction, objects, frames))
        write_manifest(root, "pairs", f"test.{direction}", pairs)
    return list(load_tracks(root, Split.TEST, tuple(Direction)))


def _mask_row(key: dict[str, object], name: str, mask: np.ndarray) -> dict[str, object]:
    rle = MaskRle.encode(mask)
    return {
        **key,
        "object_name": name,
        "view": str(view_of(str(key["camera"]))),
        "visible": True,
        "rle_height": rle.height,
        "rle_width": rle.width,
        "rle_counts": rle.counts,
        "area": rle.area(),
        "bbox_xywh": list(rle.box_xywh()),
    }


def _frame_row(root: DatasetRoot, key: dict[str, object], picture: np.ndarray) -> dict[str, object]:
    path = root.frame(str(key["take_uid"]), str(key["camera"]), int(str(key["frame_idx"])))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=95)
    height, width = picture.shape[:2]
    return {
        **key,
        "view": str(view_of(str(key["camera"]))),
        "path": root.relative(path),
        "height": height,
        "width": width,
        "source_height": height,
        "source_width": width,
    }


def _pairs(direction: Direction, objects: int, frames: int) -> Iterator[dict[str, object]]:
    ego, *exos = CAMERAS
    for number in range(objects):
        for exo in exos:
            source, dest = (ego, exo) if direction is Direction.EGO2EXO else (exo, ego)
            for frame_idx in range(0, 30 * frames, 30):
                name = f"object {number}"
                yield {
                    "pair_id": join_pair_id(TAKE, source, dest, frame_idx, name),
                    "split": "test",
                    "direction": str(direction),
                    "take_uid": TAKE,
                    "object_name": name,
                    "frame_idx": frame_idx,
                    "source_camera": source,
                    "dest_camera": dest,
                    "dest_state": "visible",
                }


if __name__ == "__main__":
    main()
