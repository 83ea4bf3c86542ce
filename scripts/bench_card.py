"""What part of a GPU's matrix rate the networks take, by how they are run.

    python scripts/bench_card.py            # on a CUDA device
    python scripts/bench_card.py --quick    # anywhere: shows that it runs, figures without worth

The rate of a large bf16 matrix product, measured here, is the whole. Against it stand DINOv2
ViT-B/14's forward pass at the size of an exo frame, in ways that keep or change its numbers, and
FastSAM-x's network in half precision, both with random weights. Medians after a warm-up, each way
by CUDA's clock; beside each, how far it moves the cosines between tokens from float32's.
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.layers import set_fast_norm
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from omama.features.backbones import Backbone, build_backbone

EXO_HW = (540, 960)
FASTSAM_HW = (576, 1024)
Forward = Callable[[Tensor], Tensor]


class Way(NamedTuple):
    """How a forward pass went."""

    images_per_second: float
    tflops: float
    moved: float
    """The most that a cosine between two tokens differs from float32's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, nargs="+", default=[8, 32], help="in a batch")
    parser.add_argument("--matrix", type=int, default=8192)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--backbone", default="dinov2")
    parser.add_argument("--ways", nargs="*", help="those whose names hold one of these words")
    parser.add_argument("--quick", action="store_true", help="one block, small pictures")
    parser.add_argument("--fastsam", choices=["n", "x", "none"], default="x")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if given.quick:
        given.images, given.matrix, given.repeat, given.fastsam = [2], 256, 1, "n"
    smaller = {"depth": 1} if given.quick else {}
    with tempfile.TemporaryDirectory() as folder:
        weights = random_weights(Path(folder), given.backbone, **smaller)
        backbone = build_backbone(given.backbone, weights, **smaller)
    for text in lines(backbone.to(device), device, given):
        print(text, flush=True)


def lines(backbone: Backbone, device: torch.device, given: argparse.Namespace) -> Iterator[str]:
    """The table's lines, as they are measured."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    card = matrix_rate(device, given.matrix, repeat=given.repeat)
    yield f"{name}, torch {torch.__version__}: bf16 matrix product {card:.3g} TFLOP/s"
    part = 4 if given.quick else 1
    for count in given.images:
        height, width = (
            side // part // backbone.patch_size * backbone.patch_size for side in EXO_HW
        )
        images = torch.randn(count, 3, height, width, device=device)
        for way, found in backbone_ways(backbone, images, given.ways, repeat=given.repeat):
            yield line(f"{backbone.name}, {way}", count, found, card)
    if given.fastsam != "none":
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        height, width = (side // part // 32 * 32 for side in FASTSAM_HW)
        images = torch.rand(given.images[0], 3, height, width, device=device, dtype=dtype)
        for way, found in fastsam_ways(given.fastsam, images, given.repeat):
            yield line(f"FastSAM-{given.fastsam}, {way}", given.images[0], found, card)


def line(name: str, count: int, way: Way, card: float) -> str:
    moved = "" if way.moved != way.moved else f", cosines moved {way.moved:.1e}"
    return (
        f"{name:44} {count:3} images: {way.images_per_second:8.1f} images/s, {way.tflops:6.1f} "
        f"TFLOP/s, {way.tflops / card:4.0%}{moved}"
    )


def matrix_rate(device: torch.device, side: int, *, repeat: int = 10) -> float:
    """TFLOP/s of a bf16 product of two random square matrices."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: a @ b, device, repeat) / 1e12


def median_seconds(work: Callable[[], Any], device: torch.device, repeat: int) -> float:
    """The median of `repeat` calls, after two that do not count."""
    for _ in range(2):
        work()
    return statistics.median(one_call(work, device) for _ in range(repeat))


def one_call(work: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        import time

        start = time.process_time()
        work()
        return time.process_time() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


@torch.no_grad()
def backbone_ways(
    backbone: Backbone, images: Tensor, wanted: list[str] | None, *, repeat: int
) -> Iterator[tuple[str, Way]]:
    """Each way to run the backbone on pictures; a way that fails says why."""
    count = len(images)
    with FlopCounterMode(display=False) as counter:
        exact = backbone(images[:1])
    flops = counter.get_total_flops() * count
    for name, prepare in WAYS.items():
        if wanted and not any(word in name for word in wanted):
            continue
        try:
            with prepare(backbone) as forward:
                moved = cosines_moved(forward(images)[:1], exact)
                seconds = median_seconds(lambda run=forward: run(images), images.device, repeat)
        except Exception as error:  # what a GPU or a torch cannot do is a line, not the end
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}", flush=True)
            continue
        finally:
            torch._dynamo.reset()
        yield name, Way(count / seconds, flops / seconds / 1e12, moved)


def cosines_moved(tokens: Tensor, exact: Tensor) -> float:
    tables = []
    for part in (tokens, exact):
        rows = F.normalize(part[0].flatten(1).T[::7].double(), dim=1)  # (T, C)
        tables.append(rows @ rows.T)
    return float((tables[0] - tables[1]).abs().max())


@contextmanager
def float32(backbone: Backbone) -> Iterator[Forward]:
    yield backbone


@contextmanager
def autocast(backbone: Backbone) -> Iterator[Forward]:
    """As omama.features runs it with --feature-precision bf16."""
    device = next(iter(backbone.network.state_dict().values())).device
    with torch.autocast(device.type, torch.bfloat16):
        yield backbone


@contextmanager
def fast_norm(backbone: Backbone) -> Iterator[Forward]:
    set_fast_norm(True)
    try:
        with autocast(backbone) as forward:
            yield forward
    finally:
        set_fast_norm(False)


@contextmanager
def blocks_compiled(backbone: Backbone) -> Iterator[Forward]:
    """Blocks are alike, so that one compilation serves all."""
    with autocast(compiled_copy(backbone)) as forward:
        yield forward


@contextmanager
def weights_bf16(backbone: Backbone) -> Iterator[Forward]:
    half = copy.deepcopy(backbone).bfloat16()
    yield lambda images: half(images.bfloat16())


@contextmanager
def weights_bf16_compiled(backbone: Backbone) -> Iterator[Forward]:
    half = compiled_copy(backbone).bfloat16()
    yield lambda images: half(images.bfloat16())


@contextmanager
def weights_bf16_cudnn(backbone: Backbone) -> Iterator[Forward]:
    with weights_bf16_compiled(backbone) as forward, sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        yield forward


@contextmanager
def blocks_compiled_cudnn(backbone: Backbone) -> Iterator[Forward]:
    with blocks_compiled(backbone) as forward, sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        yield forward


@contextmanager
def autocast_cudnn(backbone: Backbone) -> Iterator[Forward]:
    with autocast(backbone) as forward, sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        yield forward


def compiled_copy(backbone: Backbone) -> Backbone:
    copied = copy.deepcopy(backbone)
    for block in copied.network.vit.blocks:
        block.compile()
    return copied


WAYS: Mapping[str, Callable[[Backbone], Any]] = {
    "float32": float32,
    "autocast": autocast,
    "autocast, cuDNN attention": autocast_cudnn,
    "autocast, fast norm": fast_norm,
    "autocast, compiled": blocks_compiled,
    "autocast, compiled, cuDNN attention": blocks_compiled_cudnn,
    "bf16 weights": weights_bf16,
    "bf16 weights, compiled": weights_bf16_compiled,
    "bf16 weights, compiled, cuDNN attention": weights_bf16_cudnn,
}


@torch.no_grad()
def fastsam_ways(scale: str, images: Tensor, repeat: int) -> Iterator[tuple[str, Way]]:
    """FastSAM's network alone, in the precision of the pictures."""
    from ultralytics.nn.tasks import SegmentationModel

    model = SegmentationModel(f"yolov8{scale}-seg.yaml", nc=1, verbose=False).eval()
    model = model.fuse(verbose=False).to(images)
    count = len(images)
    with FlopCounterMode(display=False) as counter:
        model(images)
    flops = counter.get_total_flops()
    for name in ("network alone", "network alone, channels last"):
        if "last" in name:
            model.to(memory_format=torch.channels_last)
            images = images.contiguous(memory_format=torch.channels_last)
        seconds = median_seconds(lambda given=images: model(given), images.device, repeat)
        yield name, Way(count / seconds, flops / seconds / 1e12, float("nan"))


def random_weights(folder: Path, backbone: str, **options: Any) -> Path | None:
    """A file with an untrained network's weights, where the backbone needs a file."""
    architectures = {
        "dinov2": "vit_base_patch14_reg4_dinov2",
        "dinov3": "vit_small_plus_patch16_dinov3_qkvb",
        "dinov3-b": "vit_base_patch16_dinov3_qkvb",
        "resnet50-dino": "resnet50",
        "resnet50-dino-s16": "resnet50",
    }
    if backbone not in architectures:
        return None
    torch.manual_seed(0)
    network: nn.Module = timm.create_model(
        architectures[backbone], pretrained=False, num_classes=0, **options
    )
    for name, values in network.named_parameters():
        if name.endswith("gamma"):  # begins at 1e-5, which would leave the blocks without a say
            nn.init.constant_(values, 0.3)
    torch.save(network.state_dict(), folder / "random.pth")
    return folder / "random.pth"


if __name__ == "__main__":
    main()
