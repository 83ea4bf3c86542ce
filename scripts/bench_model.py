"""Speed of proposals, features, training and prediction against a plain implementation, in one run.

    python scripts/bench_model.py                  # classical features on the CPU, or
                                                       # DINOv2 ViT-B/14 shapes where there is CUDA
    python scripts/bench_model.py --backbone dinov2 --takes 8 --frames 12 --proposals 150

Every row is measured twice in the same run, on a CPU in processor time: ours, and plain_omama.py
(FastSAM: one picture at a time through the library, in float32). The pictures are noise with discs
and all weights are random: neither matters to speed. On a CUDA device features are made in bf16;
bench_card.py says what part of GPU memory's matrix rate the networks alone take.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import RunOptions
from egoexo_tools.runs import RunFolder
from egoexo_tools.video.pictures import open_picture
from egoexo_tools.vocab import Split
from omama.config import Features
from omama.dataset import Dataset, load_dataset
from omama.features.backbones import Backbone
from omama.features.cache import run_features
from omama.features.descriptors import describe, quarter_grid
from omama.features.frame_features import read_frame
from omama.features.images import PreparationConfig
from omama.features.key import make_extractor
from omama.matching.config import MatchingOptions, TrainConfig
from omama.matching.train import train
from omama.writing import predict_run

sys.path.insert(0, str(Path(__file__).parent))
from bench_card import random_weights  # noqa: E402
from bench_root import DIRECTION, make_root  # noqa: E402
from plain_omama import BATCH, Plain, timed  # noqa: E402

QUIET = RunOptions(executor="inline", quiet=True)
ANEW = replace(QUIET, overwrite=True)


class Row(NamedTuple):
    """One line of the table, as rates: higher is better."""

    name: str
    unit: str
    ours: float
    plain: float

    def __str__(self) -> str:
        times = f"{self.ours / self.plain:9.1f}"
        return f"{self.name + ' (' + self.unit + ')':34}{self.ours:12.2f}{self.plain:12.3f}{times}"


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {options.threads} threads"
    )
    print(
        f"{device}; {options.backbone} in {options.feature_precision}, {options.proposals} "
        f"proposals a frame, batch {BATCH}, torch {torch.__version__}"
    )
    print(f"{'':34}{'ours':>12}{'plain':>12}{'times':>9}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(Path(folder), options):
            print(row, flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="dinov2" if cuda else "classical")
    parser.add_argument(
        "--feature-precision", choices=["fp32", "bf16"], default="bf16" if cuda else "fp32"
    )
    parser.add_argument("--takes", type=int, default=4 if cuda else 1)
    parser.add_argument("--frames", type=int, default=24 if cuda else 4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of a CPU")
    parser.add_argument("--objects", type=int, default=6)
    parser.add_argument("--proposals", type=int, default=150 if cuda else 60)
    parser.add_argument("--steps", type=int, default=120 if cuda else 4, help="of training")
    parser.add_argument("--plain-pairs", type=int, default=48 if cuda else 12)
    parser.add_argument("--fastsam", choices=["n", "x", "none"], default="x" if cuda else "n")
    parser.add_argument("--fastsam-size", type=int, default=1024)
    parser.add_argument("--fastsam-images", type=int, default=64 if cuda else 4)
    return parser.parse_args(arguments)


def measure(folder: Path, options: argparse.Namespace) -> Iterator[Row | str]:
    """The rows of the table as they are measured, and a line to print below it."""
    torch.set_num_threads(options.threads)
    root = make_root(folder / "root", options)
    weights = random_weights(folder, options.backbone)
    precision = options.feature_precision
    extractor = make_extractor(options.backbone, weights, feature_precision=precision)
    backbone, device = extractor.backbone, extractor.device
    data = load_dataset(root, split=Split.TRAIN, direction=DIRECTION)
    width = 768 if extractor.width == 768 else 128
    plain = Plain(data, backbone, direction=DIRECTION, device=device, width=width)
    extractor([extractor.read(data.frames, frame) for frame in range(2)])  # compiles, warms up

    yield Row("pooling", "masks/s", *pooling_rates(data, backbone, device))
    common: dict[str, Any] = {"backbone": options.backbone, "weights": weights}

    counts: dict[str, int] = {}

    def features() -> None:
        done = run_features(root, feature_precision=precision, run=QUIET, **common)
        done.check()
        counts.update(done.counts)

    seconds = timed(features, device)
    yield Row("features", "images/s", counts["frames"] / seconds, plain.image_rate())
    yield from training_rows(root, data, plain, {**common, "feature_precision": precision}, options)
    if options.fastsam != "none":
        yield from fastsam_rows(folder, root, data, device, options)
    yield precision_note(data, options, weights)


def training_rows(
    root: DatasetRoot,
    data: Dataset,
    plain: Plain,
    common: dict[str, Any],
    options: argparse.Namespace,
) -> list[Row]:
    """Training and prediction, on the fly and cached."""
    # More epochs than are needed: no run comes to its last validation.
    config = TrainConfig(
        epochs=options.steps + 10, val_every_steps=10**9, width=plain.model.config.width
    )
    features = Features(common["backbone"], common["weights"], common["feature_precision"])
    rates = {}
    for name, cached in (("cached", True), ("live", False)):
        rates[name] = training_rate(
            partial(
                train, root, DIRECTION, config, RunFolder.of(root, name),
                options=MatchingOptions(quiet=True, features=replace(features, cached=cached)),
            ),
            options.steps,
            plain.device,
        )  # fmt: skip
        predict = partial(
            predict_run, "o-mama", root, DIRECTION, Split.TEST, RunFolder.of(root, "predict"),
            checkpoint=RunFolder.of(root, name).checkpoint_last,
            options=MatchingOptions(quiet=True, features=replace(features, cached=cached)),
        )  # fmt: skip
        predict()
        rates[f"predict {name}"] = len(data.pairs) / timed(predict, plain.device)
    learn = plain.rate(options.plain_pairs, learn=True)
    answer = plain.rate(min(4, options.plain_pairs), learn=False)
    return [
        Row("training on the fly", "pairs/s", rates["live"], learn),
        Row("training cached", "pairs/s", rates["cached"], learn),
        Row("prediction on the fly", "pairs/s", rates["predict live"], answer),
        Row("prediction cached", "pairs/s", rates["predict cached"], answer),
    ]


def training_rate(run: Callable[..., object], steps: int, device: torch.device) -> float:
    """Pairs a second of `steps` steps: what a run takes more than one that ends before them."""
    few = 3
    run(stop_after=few)
    start = timed(partial(run, stop_after=few), device)
    return steps * BATCH / (timed(partial(run, stop_after=few + steps), device) - start)


def pooling_rates(data: Dataset, backbone: Backbone, device: torch.device) -> tuple[float, float]:
    """Masks a second: one matrix product, and the upsampled map averaged mask by mask."""
    config = PreparationConfig(patch_size=backbone.patch_size)
    raw = read_frame(data.frames, len(data.frames) - 1, config)
    h, w = (side // config.patch_size for side in raw.image.shape[:2])
    tokens = torch.randn(768, h, w, device=device)
    quarters, boxes = raw.quarters.to(device), raw.boxes.to(device)

    def product() -> None:
        float(describe(tokens, quarters, boxes, patch_size=config.patch_size).sum())

    def loop() -> None:
        size = quarter_grid(h, w, config.patch_size)
        dense = F.interpolate(tokens[None], size=size, mode="bilinear")[0]
        total = 0.0
        for inside, box in zip(quarters, (boxes / 4).int().tolist(), strict=True):
            x, y, bw, bh = box
            x1, y1 = max(x - 25, 0), max(y - 25, 0)
            total += float(dense[:, inside].mean()) if inside.any() else 0.0
            total += float(dense[:, y1 : y + bh + 25, x1 : x + bw + 25].mean())

    count = len(quarters)
    product()
    loop()
    return count / min(timed(product, device) for _ in range(5)), count / timed(loop, device)


def fastsam_rows(
    folder: Path,
    root: DatasetRoot,
    data: Dataset,
    device: torch.device,
    options: argparse.Namespace,
) -> list[Row]:
    """Pictures a second of the batched adapter (half precision on a GPU), and one by one; then of
    the stage, from JPEG files to the manifest."""
    os.environ["YOLO_OFFLINE"] = "true"
    from egoexo_tools.proposers import ProposerOptions, fastsam
    from egoexo_tools.stages.propose import run_propose

    weights = random_fastsam(folder / f"FastSAM-{options.fastsam}.pt", options.fastsam)
    # An untrained network is never sure; this lets its coarsest grid of boxes through.
    chosen = fastsam.FastSamOptions(
        image_size=options.fastsam_size, confidence=5e-3, max_det=options.proposals
    )
    name = "cuda:0" if device.type == "cuda" else "cpu"
    network = fastsam.load_network(weights, options=chosen, device=name)
    paths = [data.frames.path(i % len(data.frames)) for i in range(options.fastsam_images)]
    pictures = [open_picture(path) for path in paths]
    alone = plain_fastsam(weights, chosen, name)
    few = max(2, len(pictures) // 4)
    found = network(pictures[: network.batch])
    assert all(len(one.proposals) > 0 for one in found), "the network must have masks to make"
    ours = len(pictures) / timed(lambda: network(pictures), device)
    alone(pictures[0])
    plain = few / timed(lambda: [alone(picture) for picture in pictures[:few]], device)
    from_files = few / timed(lambda: [alone(open_picture(path)) for path in paths[:few]], device)
    asked = ProposerOptions(
        weights=weights, image_size=options.fastsam_size, max_det=options.proposals, device=name
    )

    counts: dict[str, int] = {}

    def stage() -> None:
        with patch.object(fastsam, "_chosen", lambda _: chosen):
            done = run_propose(root, proposer="fastsam", options=asked, run=ANEW)
        done.check()
        counts.update(done.counts)

    seconds = timed(stage, device)
    return [
        Row(f"FastSAM-{options.fastsam}", "images/s", ours, plain),
        Row("the same from JPEG", "images/s", counts["frames"] / seconds, from_files),
    ]


def plain_fastsam(weights: Path, chosen: Any, device: str) -> Any:
    """The library's own class on one picture, in float32, its masks brought to the CPU."""
    from ultralytics import FastSAM

    model = FastSAM(str(weights))

    def run(picture: np.ndarray) -> int:
        (result,) = model(
            picture[:, :, ::-1].copy(),
            device=device,
            retina_masks=True,
            imgsz=chosen.image_size,
            conf=chosen.confidence,
            iou=chosen.iou,
            max_det=chosen.max_det,
            verbose=False,
        )
        return len(result.masks.data.cpu().numpy())

    return run


def random_fastsam(path: Path, scale: str) -> Path:
    """A checkpoint of an untrained YOLOv8-seg of FastSAM's shape, whose masks are not empty."""
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import SegmentationModel

    torch.manual_seed(0)
    model = SegmentationModel(f"yolov8{scale}-seg.yaml", nc=1, verbose=False)
    model.args = get_cfg()
    with torch.no_grad():
        (_, prototypes), _ = model.eval()(torch.rand(1, 3, 320, 320))
        # Coefficients along the prototypes: every box is filled, so that its mask is made.
        for branch in model.model[-1].cv4:
            branch[-1].bias.copy_(prototypes.mean(dim=(0, 2, 3)) * 100)
    torch.save({"model": model, "train_args": {"task": "segment"}}, path)
    return path


def precision_note(data: Dataset, options: argparse.Namespace, weights: Path | None) -> str:
    """How far bf16 features move the cosine of two masks (the k-NN matcher's similarity)."""
    both = []
    for precision in ("fp32", "bf16"):
        extractor = make_extractor(options.backbone, weights, feature_precision=precision)
        raws = [extractor.read(data.frames, frame) for frame in range(2)]
        rows = torch.cat([features.proposals for features in extractor(raws)]).double()
        rows = F.normalize(rows[:, : extractor.width], dim=1)
        both.append(rows @ rows.T)
    moved = float((both[0] - both[1]).abs().max())
    return f"bf16 features move a cosine by at most {moved:.1e} (random weights)"


if __name__ == "__main__":
    main()
