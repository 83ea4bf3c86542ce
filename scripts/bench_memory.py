"""How fast LM-EEC follows a take: ours against one object at a time, in one run.

    python scripts/bench_memory.py [--objects 6] [--frames 12] [--repeat 3]

A take of an ego and two exo cameras is drawn, and every object followed in both directions and both
camera pairs: by scripts/plain_memory.py, which reads and encodes both pictures for every object and
frame, as LM-EEC's released code does, and by omama.memory. On a CPU with the tiny network, in
processor time too, since a shared machine's clock says little; on a GPU with base-plus in bfloat16,
whose weights are random: what is timed does not depend on them. Both must draw the same masks.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from plain_memory import plain_track

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import write_manifest
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.runs import join_pair_id
from egoexo_tools.vocab import Direction, Split, view_of
from omama.features.images import normalise
from omama.memory import MemoryConfig, build_model
from omama.memory.bank import DEFAULT
from omama.memory.following import HowToFollow, follow
from omama.memory.network import MemoryNetwork
from omama.memory.pictures import read_squashed, squash_mask
from omama.memory.tracks import TakeTracks, load_tracks

TAKE = "11111111-0000-4000-8000-000000000001"
CAMERAS = {"aria01_214-1": (704, 704), "cam01": (540, 960), "cam02": (540, 960)}
Answers = dict[tuple[int, int], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--objects", type=int, default=6)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        (take,) = draw_root(Path(folder), given.objects, given.frames)
        frames = sum(len(track) for track in take.tracks)
        print(f"{len(take.tracks)} tracks, {frames} object-frames, {len(take.frames)} pictures")
        compare("tiny, CPU, one thread", take, "cpu", MemoryConfig.tiny(), given.repeat)
        if torch.cuda.is_available():
            name = f"base-plus, {torch.cuda.get_device_name()}, bf16"
            compare(name, take, "cuda", MemoryConfig.base_plus(), given.repeat)
        else:
            print("base-plus: no CUDA device here, not measured")


def compare(name: str, take: TakeTracks, device: str, config: MemoryConfig, repeat: int) -> None:
    """Print the best times of both, and the passes of the encoder that each made."""
    torch.manual_seed(0)
    network = build_model(config, None).to(device)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:  # so that no part says nothing
                parameter.normal_(0, parameter[0].numel() ** -0.5)
        network.sam.mask_decoder.pred_obj_score_head.proj_out.bias += 3
    how = HowToFollow(DEFAULT, torch.device(device), bf16=device == "cuda", batch=32)
    times: dict[str, tuple[float, float]] = {}
    answers: dict[str, Answers] = {}
    for label, work in (("one at a time", one_at_a_time), ("ours", side_by_side)):
        with counted_pictures(network) as pictures:
            answers[label] = work(network, take, how)
            passes = sum(pictures)
        times[label] = best(lambda work=work: work(network, take, how), device, repeat)
        wall, cpu = times[label]
        print(f"{name}: {label:14} {wall:8.2f} s, processor {cpu:8.2f} s, {passes} encodings")
    (wall, cpu), (our_wall, our_cpu) = times["one at a time"], times["ours"]
    apart = max(
        float((answers["ours"][key] - drawn).abs().max())
        for key, drawn in answers["one at a time"].items()
    )
    print(f"{name}: {wall / our_wall:.1f} x faster, {cpu / our_cpu:.1f} x less processor time;")
    print(f"{name}: logits differ by at most {apart:.1g}")


@torch.no_grad()
def one_at_a_time(network: MemoryNetwork, take: TakeTracks, how: HowToFollow) -> Answers:
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
            answers = plain_track(network, source, dest, drawn, reference=False)
        found |= {(number, place): one.low_res_logits[0] for place, one in answers.items()}
    return found


def side_by_side(network: MemoryNetwork, take: TakeTracks, how: HowToFollow) -> Answers:
    return {
        key: part.low_res_logits[row]
        for part in follow(network, take, how)
        for row, key in enumerate(zip(part.tracks, part.places, strict=True))
    }


def best(work: Callable[[], object], device: str, repeat: int) -> tuple[float, float]:
    """The least wall and processor time of `repeat` runs, in seconds."""
    found = []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(wall for wall, _ in found), min(cpu for _, cpu in found)


@contextmanager
def counted_pictures(network: MemoryNetwork) -> Iterator[list[int]]:
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
