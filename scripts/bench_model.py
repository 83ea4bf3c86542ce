"""Speed of proposals, features, training and prediction against a plain implementation.

    python scripts/bench_model.py                  # EfficientNet-Lite0 on a CPU, DINOv2 on a GPU
    python scripts/bench_model.py --backbone dinov2 --takes 8 --frames 12 --proposals 150

Each row is measured twice in the same run: our code, and plain_omama.py (FastSAM: the ultralytics
class, one picture at a time, in float32). On a CPU, times are processor time, so that other
programs do not count; on a GPU, features are made in bf16. Pictures are noise and all weights are
random: neither changes the speed.
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
import timm
import torch
import torch.nn.functional as F
from torch import nn

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import RunOptions
from egoexo_tools.runs import RunFolder
from egoexo_tools.video.pictures import read_image
from egoexo_tools.vocab import Direction, Split
from omama.config import Features
from omama.dataset import Dataset
from omama.features.backbones import Backbone
from omama.features.cache import run_features
from omama.features.descriptors import describe, quarter_grid
from omama.features.frame_features import read_frame
from omama.features.images import PreparationConfig
from omama.features.key import make_extractor
from omama.matching.config import MatchingOptions, TrainConfig
from omama.matching.train import train
from omama.tables.loading import load_dataset
from omama.writing import predict_run

sys.path.insert(0, str(Path(__file__).parent))
from drawn_root import draw_root  # noqa: E402
from plain_omama import BATCH, Plain, timed  # noqa: E402

DIRECTION = Direction.EGO2EXO
QUIET = RunOptions(executor="inline", quiet=True)
TIMM_NAMES = {
    "dinov2": "vit_base_patch14_reg4_dinov2",
    "dinov3": "vit_small_plus_patch16_dinov3_qkvb",
    "dinov3-b": "vit_base_patch16_dinov3_qkvb",
    "resnet50-dino": "resnet50",
    "resnet50-dino-s16": "resnet50",
}
"""Backbones whose weights come from a file."""


class Row(NamedTuple):
    """One line of the table, as rates: higher is better."""

    name: str
    unit: str
    ours: float
    plain: float

    def __str__(self) -> str:
        ratio = f"{self.ours / self.plain:9.1f}"
        return f"{self.name + ' (' + self.unit + ')':34}{self.ours:12.2f}{self.plain:12.3f}{ratio}"


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {options.threads} threads"
    )
    print(
        f"{device}; {options.backbone} in {options.feature_precision}, {options.proposals} "
        f"proposals per frame, batch {BATCH}, torch {torch.__version__}"
    )
    print(f"{'':34}{'ours':>12}{'plain':>12}{'ratio':>9}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(Path(folder), options):
            print(row, flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="dinov2" if cuda else "efficientnet-lite0")
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
    root = draw_root(
        folder / "root",
        takes=options.takes,
        frames=options.frames,
        objects=options.objects,
        proposals=options.proposals,
    )
    weights = random_weights(folder, options.backbone)
    precision = options.feature_precision
    extractor = make_extractor(options.backbone, weights, feature_precision=precision)
    backbone, device = extractor.backbone, extractor.device
    data = load_dataset(root, split=Split.TRAIN, direction=DIRECTION)
    width = 768 if extractor.width == 768 else 128
    plain = Plain(data, backbone, direction=DIRECTION, device=device, width=width)
    extractor([extractor.read(data.frames, frame) for frame in range(2)])  # compiles, warms up

    yield Row("pooling", "masks/s", *pooling_rates(data, backbone, device))
    counts: dict[str, int] = {}

    def features() -> None:
        summary = run_features(
            root, backbone=options.backbone, weights=weights, feature_precision=precision, run=QUIET
        )
        counts.update(summary.check().counts)

    seconds = timed(features, device)
    yield Row("features", "images/s", counts["frames"] / seconds, plain.image_rate())
    yield from training_rows(
        root, data, plain, Features(options.backbone, weights, precision), options
    )
    if options.fastsam != "none":
        yield from fastsam_rows(folder, root, data, device, options)
    yield precision_note(data, options, weights)


def training_rows(
    root: DatasetRoot, data: Dataset, plain: Plain, features: Features, options: argparse.Namespace
) -> list[Row]:
    """Training and prediction, on the fly and cached."""
    # More epochs than needed, so that no run reaches its last validation.
    config = TrainConfig(
        epochs=options.steps + 10, val_every_steps=10**9, width=plain.model.config.width
    )
    rates = {}
    for name, cached in (("cached", True), ("live", False)):
        matching = MatchingOptions(quiet=True, features=replace(features, cached=cached))
        rates[name] = training_rate(
            partial(train, root, DIRECTION, config, RunFolder.of(root, name), options=matching),
            options.steps,
            plain.device,
        )
        predict = partial(
            predict_run, "o-mama", root, DIRECTION, Split.TEST, RunFolder.of(root, "predict"),
            checkpoint=RunFolder.of(root, name).checkpoint_last, options=matching,
        )  # fmt: skip
        predict()
        rates[f"predict {name}"] = len(data.pairs) / timed(predict, plain.device)
    plain_train = plain.rate(options.plain_pairs, learn=True)
    plain_predict = plain.rate(min(4, options.plain_pairs), learn=False)
    return [
        Row("training on the fly", "pairs/s", rates["live"], plain_train),
        Row("training cached", "pairs/s", rates["cached"], plain_train),
        Row("prediction on the fly", "pairs/s", rates["predict live"], plain_predict),
        Row("prediction cached", "pairs/s", rates["predict cached"], plain_predict),
    ]


def training_rate(run: Callable[..., object], steps: int, device: torch.device) -> float:
    """Pairs per second over `steps` steps.

    A run of three steps is timed too and subtracted: starting and saving are not part of the rate.
    """
    few = 3
    run(stop_after=few)
    start_seconds = timed(partial(run, stop_after=few), device)
    return steps * BATCH / (timed(partial(run, stop_after=few + steps), device) - start_seconds)


def pooling_rates(data: Dataset, backbone: Backbone, device: torch.device) -> tuple[float, float]:
    """Masks per second: by one matrix product, and by averaging the upsampled map per mask."""
    config = PreparationConfig(patch_size=backbone.patch_size)
    frame = read_frame(data.frames, len(data.frames) - 1, config)
    h, w = (side // config.patch_size for side in frame.image.shape[:2])
    tokens = torch.randn(768, h, w, device=device)
    quarters, boxes = frame.quarters.to(device), frame.boxes.to(device)

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
    """Pictures per second: the batched adapter, then the stage from JPEG files to the manifest."""
    os.environ["YOLO_OFFLINE"] = "true"
    from egoexo_tools.proposers import ProposerOptions, fastsam
    from egoexo_tools.stages.propose import run_propose

    weights = random_fastsam(folder / f"FastSAM-{options.fastsam}.pt", options.fastsam)
    # The scores of an untrained network are low; this threshold lets its coarsest grid of boxes
    # through, so that there are masks to make.
    untrained = partial(fastsam.FastSamOptions, confidence=5e-3)
    settings = untrained(image_size=options.fastsam_size, max_det=options.proposals)
    device_name = "cuda:0" if device.type == "cuda" else "cpu"
    network = fastsam.load_network(weights, options=settings, device=device_name)
    paths = [data.frames.path(i % len(data.frames)) for i in range(options.fastsam_images)]
    pictures = [read_image(path) for path in paths]
    plain = plain_fastsam(weights, settings, device_name)
    few = max(2, len(pictures) // 4)
    proposals = network(pictures[: network.batch])
    assert all(len(frame.proposals) > 0 for frame in proposals), "there must be masks to make"
    rate = len(pictures) / timed(lambda: network(pictures), device)
    plain(pictures[0])
    plain_rate = few / timed(lambda: [plain(picture) for picture in pictures[:few]], device)
    plain_file_rate = few / timed(lambda: [plain(read_image(path)) for path in paths[:few]], device)
    proposer = ProposerOptions(
        weights=weights,
        image_size=options.fastsam_size,
        max_det=options.proposals,
        device=device_name,
    )
    counts: dict[str, int] = {}

    def stage() -> None:
        again = replace(QUIET, overwrite=True)
        with patch.object(fastsam, "FastSamOptions", untrained):
            summary = run_propose(root, proposer="fastsam", options=proposer, run=again)
        counts.update(summary.check().counts)

    seconds = timed(stage, device)
    return [
        Row(f"FastSAM-{options.fastsam}", "images/s", rate, plain_rate),
        Row("the same from JPEG", "images/s", counts["frames"] / seconds, plain_file_rate),
    ]


def plain_fastsam(weights: Path, settings: Any, device: str) -> Callable[[np.ndarray], int]:
    """The ultralytics class on one picture, in float32; its masks are copied to the CPU."""
    from ultralytics import FastSAM

    model = FastSAM(str(weights))

    def run(picture: np.ndarray) -> int:
        (result,) = model(
            picture[:, :, ::-1].copy(),
            device=device,
            retina_masks=True,
            imgsz=settings.image_size,
            conf=settings.confidence,
            iou=settings.iou,
            max_det=settings.max_det,
            verbose=False,
        )
        return len(result.masks.data.cpu().numpy())

    return run


def random_fastsam(path: Path, scale: str) -> Path:
    """A checkpoint of an untrained YOLOv8-seg of FastSAM's shape, with non-empty masks."""
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import SegmentationModel

    torch.manual_seed(0)
    model = SegmentationModel(f"yolov8{scale}-seg.yaml", nc=1, verbose=False)
    model.args = get_cfg()
    with torch.no_grad():
        (_, prototypes), _ = model.eval()(torch.rand(1, 3, 320, 320))
        # Coefficients along the prototypes fill every box, so that its mask is made.
        for branch in model.model[-1].cv4:
            branch[-1].bias.copy_(prototypes.mean(dim=(0, 2, 3)) * 100)
    torch.save({"model": model, "train_args": {"task": "segment"}}, path)
    return path


def random_weights(folder: Path, backbone: str) -> Path | None:
    """A checkpoint of the untrained backbone; None where the backbone reads no file."""
    if backbone not in TIMM_NAMES:
        return None
    torch.manual_seed(0)
    network: nn.Module = timm.create_model(TIMM_NAMES[backbone], pretrained=False, num_classes=0)
    for name, values in network.named_parameters():
        if name.endswith("gamma"):  # starts at 1e-5, which would switch the blocks off
            nn.init.constant_(values, 0.3)
    torch.save(network.state_dict(), folder / "random.pth")
    return folder / "random.pth"


def precision_note(data: Dataset, options: argparse.Namespace, weights: Path | None) -> str:
    """The largest change of the cosine of two masks (k-NN's similarity) by bf16 features."""
    similarities = []
    for precision in ("fp32", "bf16"):
        extractor = make_extractor(options.backbone, weights, feature_precision=precision)
        frames = [extractor.read(data.frames, frame) for frame in range(2)]
        rows = torch.cat([features.proposals for features in extractor(frames)]).double()
        rows = F.normalize(rows[:, : extractor.width], dim=1)
        similarities.append(rows @ rows.T)
    change = float((similarities[0] - similarities[1]).abs().max())
    return f"bf16 features change a cosine by at most {change:.1e} (random weights)"


if __name__ == "__main__":
    main()
