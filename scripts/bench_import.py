"""What importing O-MaMa's mask folders costs a frame: `python scripts/bench_import.py`.

Writes frames of 80 ellipses at 960x540 as np.savez_compressed does, and prints the processor's time
for one core, so that a busy machine gives the same figure: unpacking, encoding, measuring.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from egoexo_tools.masks.encoding import encode_stack
from egoexo_tools.outside.mask_folders import read_stack

HEIGHT, WIDTH, FRAMES_OF_A_DATA_SET = 540, 960, 13_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--masks", type=int, default=80)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [_write(Path(folder), number, options.masks) for number in range(options.frames)]
        _measure(paths[:1])  # compiles
        times = _measure(paths) * 1000 / len(paths)
    for name, value in zip(("unpack", "encode", "measure"), times, strict=True):
        print(f"{name:8} {value:6.1f} ms a frame")
    minutes = times.sum() / 1000 * FRAMES_OF_A_DATA_SET / 60
    print(
        f"{FRAMES_OF_A_DATA_SET:,} frames: {minutes:.1f} min on one core, {minutes / 2:.1f} on two"
    )


def _write(folder: Path, number: int, count: int) -> Path:
    rng = np.random.default_rng(number)
    masks = np.zeros((count, HEIGHT, WIDTH), np.uint8)
    for mask in masks:
        height, width = int(rng.integers(20, 140)), int(rng.integers(20, 260))
        y, x = int(rng.integers(0, HEIGHT - height)), int(rng.integers(0, WIDTH - width))
        rows, columns = np.mgrid[:height, :width]
        inside = (2 * rows / height - 1) ** 2 + (2 * columns / width - 1) ** 2 < 1
        mask[y : y + height, x : x + width] = inside
    path = folder / f"{number}_masks.npz"
    np.savez_compressed(path, masks)
    return path


def _measure(paths: list[Path]) -> np.ndarray:
    """Seconds of the processor for unpacking, encoding and measuring."""
    times = np.zeros(3)
    for path in paths:
        ends = [time.process_time()]
        masks, _ = read_stack(path, None)
        ends.append(time.process_time())
        columns = encode_stack(masks)
        ends.append(time.process_time())
        columns.measure()
        ends.append(time.process_time())
        times += np.diff(ends)
    return times


if __name__ == "__main__":
    main()
