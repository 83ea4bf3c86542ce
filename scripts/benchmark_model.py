"""Speed of features, training and prediction against a plain implementation, in one run.

    python scripts/benchmark_model.py                  # classical features on the CPU, or
                                                       # DINOv2 ViT-B/14 shapes where there is CUDA
    python scripts/benchmark_model.py --backbone dinov2 --takes 8 --frames 12 --proposals 150

The plain implementation does what the published code does: for each pair it reads both frames,
runs the backbone on both, upsamples the tokens, decodes every candidate mask at full size, loops
over them, and gives the model a copy of the tokens per pair. The pictures are noise with discs and
the backbone's weights are random: neither matters to speed.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
import torch.nn.functional as F

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import write_manifest
from egoexo_tools.masks import MaskRle
from egoexo_tools.stage import RunOptions
from egoexo_tools.vocab import Direction, Split
from omama.backbones import Backbone
from omama.config import ModelConfig, PreparationConfig, TrainConfig
from omama.data import Dataset, load_dataset
from omama.feature_cache import make_extractor, run_features
from omama.frame_features import read_frame, read_picture
from omama.images import prepare_image, prepared_size
from omama.losses import matching_loss
from omama.model import OMama
from omama.predict import predict_split
from omama.train import train

EGO, EXO = "aria01_214-1", "cam01"
SIZES = {EGO: (704, 704), EXO: (540, 960)}
DIRECTION = Direction.EGO2EXO
CANDIDATES, BATCH, CONTEXT = 32, 24, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cuda = torch.cuda.is_available()
    parser.add_argument("--backbone", default="dinov2" if cuda else "classical")
    parser.add_argument("--takes", type=int, default=8 if cuda else 1)
    parser.add_argument("--frames", type=int, default=24 if cuda else 4)
    parser.add_argument("--objects", type=int, default=6)
    parser.add_argument("--proposals", type=int, default=150 if cuda else 60)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--plain-pairs", type=int, default=48 if cuda else 12)
    options = parser.parse_args()
    device = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    with tempfile.TemporaryDirectory() as folder:
        root = make_root(Path(folder) / "root", options)
        weights = random_weights(Path(folder), options.backbone)
        rows = measure(root, weights, options)
    print(f"{device}; {options.backbone}, {options.proposals} proposals a frame, batch {BATCH}")
    print(f"{'':28}{'ours':>12}{'plain':>12}{'times':>9}")
    for name, unit, ours, plain in rows:
        print(f"{name + ' (' + unit + ')':28}{ours:12.2f}{plain:12.3f}{ours / plain:9.1f}")
    if cuda:
        share_of_the_card(make_extractor(options.backbone, weights).backbone)


def measure(
    root: DatasetRoot, weights: Path | None, options: argparse.Namespace
) -> list[tuple[str, str, float, float]]:
    """(row, unit, our rate, the plain rate)"""
    common = {"backbone": options.backbone, "weights": weights}
    extractor = make_extractor(options.backbone, weights)
    width = 768 if extractor.width == 768 else 128
    config = TrainConfig(epochs=options.epochs, width=width, val_every_steps=10**9)
    data = load_dataset(root, split=Split.TRAIN, direction=DIRECTION)
    plain = Plain(data, extractor.backbone, extractor.device, width)
    images = len(data.frames) * 3  # the same number of frames in each split
    quiet = RunOptions(executor="inline", quiet=True)

    warm_up(extractor, data)
    seconds = timed(lambda: run_features(root, run=quiet, **common).check())
    features = images / seconds
    rates = {}
    for name, cached in (("cached", True), ("live", False)):
        train(
            root, direction=DIRECTION, run_name=name, config=config, cached=cached, quiet=True,
            **common,
        )  # fmt: skip
        rates[name] = training_rate(root, name)
    predict = lambda: predict_split(  # noqa: E731
        root, direction=DIRECTION, split=Split.TEST, run_name="predict", quiet=True,
        checkpoint=root.runs / "cached" / "checkpoint_best.pt", **common,
    )  # fmt: skip
    predict()
    predicted = len(data.pairs) / timed(predict)

    pool = pooling_rates(data, extractor.backbone, extractor.device)
    plain_train = plain.rate(options.plain_pairs, learn=True)
    return [
        ("pooling", "masks/s", *pool),
        ("features", "images/s", features, plain.image_rate()),
        ("training on the fly", "pairs/s", rates["live"], plain_train),
        ("training cached", "pairs/s", rates["cached"], plain_train),
        ("prediction cached", "pairs/s", predicted, plain.rate(4, learn=False)),
    ]


class Plain:
    """One pair at a time, one mask at a time."""

    def __init__(self, data: Dataset, backbone: Backbone, device: torch.device, width: int) -> None:
        self.data, self.backbone, self.device = data, backbone, device
        self.config = PreparationConfig(patch_size=backbone.patch_size)
        torch.manual_seed(0)
        config = ModelConfig(str(DIRECTION), backbone.name, backbone.dim, width)
        self.model = OMama(config).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=8e-5)

    def rate(self, pairs: int, *, learn: bool) -> float:
        """Pairs a second, in batches of BATCH (training) or 1 (prediction)."""
        size = min(BATCH, pairs) if learn else 1
        step = self.train_step if learn else self.predict_step
        step([0])
        order = np.random.default_rng(0).permutation(len(self.data.pairs))[:pairs]
        batches = [order[at : at + size].tolist() for at in range(0, pairs, size)]
        return pairs / timed(lambda: [step(batch) for batch in batches])

    def image_rate(self, images: int = 3) -> float:
        """Images a second of what a cache holds: tokens and all proposals' descriptors."""
        self.frame(0, range(4))
        return images / timed(lambda: [self.frame(frame, None) for frame in range(images)])

    def train_step(self, batch: list[int]) -> None:
        samples = [self.sample(pair, CANDIDATES - 1) for pair in batch]
        similarity = self.model(*(torch.stack(column) for column in zip(*samples, strict=True)))
        zeros = torch.zeros(len(batch), dtype=torch.long, device=self.device)
        loss = matching_loss(similarity, zeros, torch.ones_like(zeros))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        float(loss.detach())

    def predict_step(self, batch: list[int]) -> None:
        with torch.no_grad():
            (sample,) = [self.sample(pair, None) for pair in batch]
            int(self.model(*(part[None] for part in sample)).argmax())

    def sample(self, pair: int, negatives: int | None) -> tuple[torch.Tensor, ...]:
        pairs, frames = self.data.pairs, self.data.frames
        source, dest = int(pairs.source_frame[pair]), int(pairs.dest_frame[pair])
        tokens, described = self.frame(source, (), [frames.masks.rle(pairs.source_mask[pair])])
        chosen = None if negatives is None else range(negatives)
        truth = [] if negatives is None else [frames.masks.rle(pairs.dest_mask[pair])]
        dest_tokens, candidates = self.frame(dest, chosen, truth)
        return described, candidates, tokens, dest_tokens

    def frame(
        self, frame: int, proposals: range | tuple[()] | None, masks: list[MaskRle] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (C, h, w) and descriptors of `masks` and of some (None: all) proposals."""
        rgb = read_picture(self.data.frames.path(frame))
        rles = self.data.frames.proposals.of_frame(frame)
        rles = rles if proposals is None else [rles[i] for i in proposals]
        image = prepare_image(rgb, self.config).to(self.device)
        tokens = self.backbone(image[None])
        patch = self.backbone.patch_size
        quarter = tuple(int(side * patch / 4) for side in tokens.shape[-2:])
        dense = F.interpolate(tokens, size=quarter, mode="bilinear")[0]
        height, width = prepared_size(rgb.shape[0], rgb.shape[1], self.config)
        described = []
        for rle in [*(masks or []), *rles]:
            mask = cv2.resize(rle.decode().astype(np.uint8), (width, height), interpolation=0)
            small = cv2.resize(mask, quarter[::-1], interpolation=0) > 0
            inside = torch.from_numpy(small).to(self.device)
            ys, xs = np.nonzero(mask)
            y1, x1 = max(ys.min() - CONTEXT, 0) // 4, max(xs.min() - CONTEXT, 0) // 4
            y2, x2 = (ys.max() + CONTEXT) // 4 + 1, (xs.max() + CONTEXT) // 4 + 1
            own = dense[:, inside].mean(dim=1) if small.any() else dense.new_zeros(dense.shape[0])
            described.append(torch.cat([own, dense[:, y1:y2, x1:x2].mean(dim=(1, 2))]))
        return tokens[0], torch.stack(described) if described else tokens.new_zeros(0, 1)


def pooling_rates(data: Dataset, backbone: Backbone, device: torch.device) -> tuple[float, float]:
    """Masks a second: one matrix product, and the upsampled map averaged mask by mask."""
    from omama.descriptors import describe, quarter_grid

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
    return count / min(timed(product) for _ in range(5)), count / timed(loop)


def share_of_the_card(backbone: Backbone) -> None:
    """The forward pass's FLOP/s over those of a large bf16 matrix product."""
    from torch.utils.flop_counter import FlopCounterMode

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    images = torch.randn(32, 3, 532, 952, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        with FlopCounterMode(display=False) as counter:
            backbone(images)
        forward = statistics.median(timed(lambda: backbone(images)) for _ in range(10))
    product = statistics.median(timed(lambda: a @ a) for _ in range(20))
    rate, card = counter.get_total_flops() / forward / 1e12, 2 * 8192**3 / product / 1e12
    print(f"backbone forward: {32 / forward:.0f} images/s, {rate:.0f} TFLOP/s,", end=" ")
    print(f"{rate / card:.0%} of this card's bf16 matrix rate ({card:.0f} TFLOP/s)")


def training_rate(root: DatasetRoot, run: str) -> float:
    """Pairs a second, the median over steps after the first three."""
    lines = [json.loads(line) for line in (root.runs / run / "log.jsonl").open()]
    rates = [line["pairs_per_second"] for line in lines if "pairs_per_second" in line]
    return float(statistics.median(rates[min(3, len(rates) - 1) :]))


def warm_up(extractor: object, data: Dataset) -> None:
    """Compile the run-length loops and let the device choose its kernels."""
    extractor([extractor.read(data.frames, 0)])  # type: ignore[operator, attr-defined]


def timed(work: Callable[[], object]) -> float:
    """Seconds, with the device idle before and after."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def random_weights(folder: Path, backbone: str) -> Path | None:
    """A file with an untrained network's weights, where the backbone needs a file."""
    architectures = {
        "dinov2": "vit_base_patch14_reg4_dinov2",
        "dinov3": "vit_small_plus_patch16_dinov3_qkvb",
        "dinov3-b": "vit_base_patch16_dinov3_qkvb",
    }
    if backbone not in architectures:
        return None
    network = timm.create_model(architectures[backbone], pretrained=False, num_classes=0)
    torch.save(network.state_dict(), folder / "random.pth")
    return folder / "random.pth"


def make_root(path: Path, options: argparse.Namespace) -> DatasetRoot:
    """Frames of noise with discs, at the sizes that a processed dataset has."""
    root, rng = DatasetRoot(path), np.random.default_rng(0)
    for split in Split:
        pairs = []
        for number in range(options.takes):
            take_uid = f"{split}-{number}"
            takes = {"take_uid": take_uid, "split": str(split), "ego_camera": EGO}
            write_manifest(root, "takes", take_uid, [takes])
            masks = []
            for camera in SIZES:
                masks += write_camera(root, take_uid, camera, rng, options)
            write_manifest(root, "masks", take_uid, masks)
            pairs += [
                {
                    "pair_id": f"{take_uid}/{EGO}>{EXO}/{frame_idx}/{name}",
                    "split": str(split),
                    "direction": str(DIRECTION),
                    "take_uid": take_uid,
                    "object_name": f"object {name}",
                    "frame_idx": frame_idx,
                    "source_camera": EGO,
                    "dest_camera": EXO,
                    "dest_state": "visible",
                }
                for frame_idx in range(0, 30 * options.frames, 30)
                for name in range(options.objects)
            ]
        write_manifest(root, "pairs", f"{split}.{DIRECTION}", pairs)
    return root


def write_camera(
    root: DatasetRoot,
    take_uid: str,
    camera: str,
    rng: np.random.Generator,
    options: argparse.Namespace,
) -> list[dict[str, object]]:
    """One camera's pictures, frames and proposals; returns its rows of the masks manifest."""
    height, width = SIZES[camera]
    frames, proposals, masks = [], [], []
    for frame_idx in range(0, 30 * options.frames, 30):
        key = {"take_uid": take_uid, "camera": camera, "frame_idx": frame_idx}
        path = root.frame(take_uid, camera, frame_idx)
        path.parent.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        cv2.imwrite(str(path), cv2.resize(small, (width, height)))
        size = {"height": height, "width": width}
        source = {"source_height": 2 * height, "source_width": 2 * width}
        frames.append({**key, **size, **source, "view": "", "path": root.relative(path)})
        discs = [disc_rle(rng, height, width) for _ in range(options.proposals)]
        proposals += [{**key, "proposal_idx": i, **rle} for i, rle in enumerate(discs)]
        masks += [
            {**key, "object_name": f"object {i}", "visible": True, **discs[i]}
            for i in range(options.objects)
        ]
    write_manifest(root, "frames", f"{take_uid}.{camera}", frames)
    write_manifest(root, "proposals", f"{take_uid}.{camera}", proposals)
    return masks


def disc_rle(rng: np.random.Generator, height: int, width: int) -> dict[str, object]:
    mask = np.zeros((height, width), np.uint8)
    centre = (int(rng.integers(40, width - 40)), int(rng.integers(40, height - 40)))
    cv2.circle(mask, centre, int(rng.integers(8, 60)), 1, -1)
    rle = MaskRle.encode(mask)
    counts = {"rle_height": height, "rle_width": width, "rle_counts": rle.counts}
    return {**counts, "area": rle.area(), "bbox_xywh": list(map(float, rle.box_xywh()))}


if __name__ == "__main__":
    main()
