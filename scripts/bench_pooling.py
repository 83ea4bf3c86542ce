"""Pooling on the token grid against a plain loop over the masks, in the same run.

    python scripts/bench_pooling.py [--device cuda] [--threads 1]

Prints milliseconds for one frame's masks at the published sizes, and the largest difference.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from omama.features.descriptors import context_boxes, describe, quarter_masks

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import reference  # noqa: E402


@dataclass(frozen=True)
class Row:
    """One measured case."""

    view: str
    masks: int
    plain_ms: float
    fast_ms: float
    difference: float


def measure(view: str, h: int, w: int, masks: int, *, device: str, channels: int = 768) -> Row:
    """Time both on random ellipses; the first call of each is thrown away."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(channels, h, w, generator=generator)
    full = _ellipses(masks, h * 14, w * 14)
    boxes = torch.from_numpy(np.stack([reference.mask_box_xywh(m) for m in full.numpy()])).float()
    quarter = quarter_masks(full, h, w, 14)
    grown = context_boxes(boxes, (h * 14, w * 14))
    tokens, full, quarter, boxes = (t.to(device) for t in (tokens, full, quarter, boxes))

    def plain() -> Tensor:
        return reference.plain_descriptors(tokens, full, grown.numpy())

    def fast() -> Tensor:
        return describe(tokens, quarter, boxes, patch_size=14)

    difference = float((plain() - fast()).abs().max())
    return Row(view, masks, _milliseconds(plain, 3), _milliseconds(fast, 10), difference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.device}, {options.threads} threads, 768 channels")
    print("view  masks  plain loop ms  one product ms  times  largest difference")
    for view, h, w in (("exo", 38, 68), ("ego", 50, 50)):
        for masks in (32, 100, 300):
            row = measure(view, h, w, masks, device=options.device)
            print(
                f"{row.view:4}  {row.masks:5}  {row.plain_ms:13.1f}  {row.fast_ms:14.2f}  "
                f"{row.plain_ms / row.fast_ms:5.0f}  {row.difference:.1e}"
            )


def _milliseconds(work: Callable[[], Tensor], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        work().cpu()
        best = min(best, time.perf_counter() - started)
    return best * 1000


def _ellipses(count: int, height: int, width: int) -> Tensor:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    centres = rng.uniform((0, 0), (height, width), (count, 2))
    radii = rng.uniform(5, height / 5, (count, 2))
    inside = [
        ((y - c[0]) / r[0]) ** 2 + ((x - c[1]) / r[1]) ** 2 <= 1
        for c, r in zip(centres, radii, strict=True)
    ]
    return torch.from_numpy(np.stack(inside))


if __name__ == "__main__":
    main()
