"""What `import processed` takes for O-MaMa's mask folders: `python scripts/bench_import.py`.

Writes a processed folder of two cameras with `--frames` frames of `--masks` ellipses at 960x540 (a
few dozen different files, linked as often as needed: each is read, unpacked and encoded every
time), runs the command on it, and prints the time on the clock, that of the processors and the
load. `--parts` measures instead what a frame costs one core: unpacking, encoding, measuring.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from egoexo_tools.masks.encoding import encode_stack
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.parsing.mask_folders import read_stack

HEIGHT, WIDTH, FRAMES_OF_A_DATA_SET = 540, 960, 13_000
CAMERAS_OF_A_TAKE, FRAMES_OF_A_CAMERA = 2, 130
DIFFERENT_FILES = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=FRAMES_OF_A_DATA_SET)
    parser.add_argument("--masks", type=int, default=80)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--parts", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.parts:
            print_parts(Path(folder), min(options.frames, 20), options.masks)
        else:
            print_whole(Path(folder), options.frames, options.masks, options.workers)


def print_whole(folder: Path, frames: int, masks: int, workers: int) -> None:
    written = write_processed(folder / "theirs", frames, masks)
    command = [sys.executable, "-m", "egoexo_tools.cli", "import", "processed"]
    words = [str(folder / "theirs"), "--root", str(folder / "root"), "--workers", str(workers)]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([*command, *words, "--quiet"], check=True)
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{written:,} frames of {masks} masks, {workers} workers: {seconds / 60:.1f} min on the "
        f"clock, {spent / 60:.1f} min of the processors, load {load} on {os.cpu_count()} cores"
    )


def write_processed(folder: Path, frames: int, masks: int) -> int:
    """A folder as O-MaMa has it; returns the frames that have proposals."""
    different = [_write(folder, number, masks) for number in range(min(DIFFERENT_FILES, frames))]
    picture = folder / "picture.jpg"
    cv2.imwrite(str(picture), np.full((HEIGHT, WIDTH, 3), 120, np.uint8))
    take_uids, number = [], 0
    square = np.zeros((HEIGHT, WIDTH), np.uint8)
    square[100:200, 100:200] = 1
    rle = MaskRle.encode(square).to_json()
    while number < frames:
        take_uids.append(f"take-{len(take_uids):04d}")
        count = min(FRAMES_OF_A_CAMERA, -(-(frames - number) // CAMERAS_OF_A_TAKE))
        idxs = [30 * idx for idx in range(count)]
        tracks = {camera: dict.fromkeys(map(str, idxs), rle) for camera in ("aria01", "cam01")}
        take = folder / "processed" / take_uids[-1]
        for camera, direction in (("aria01", "EXO2EGO"), ("cam01", "EGO2EXO")):
            masks_of = folder / f"Masks_TEST_{direction}" / take.name / camera
            (take / camera).mkdir(parents=True)
            masks_of.mkdir(parents=True)
            for idx in idxs:
                os.link(picture, take / camera / f"{idx}.jpg")
                os.link(different[number % len(different)], masks_of / f"{idx}_masks.npz")
                number += 1
        content = {"masks": {"cup": tracks}, "subsample_idx": idxs}
        (take / "annotation.json").write_text(json.dumps(content))
    (folder / "processed" / "split.json").write_text(json.dumps({"test": take_uids}))
    return number


def print_parts(folder: Path, frames: int, masks: int) -> None:
    """The processor's time, so that a busy machine gives the same figure."""
    paths = [_write(folder, number, masks) for number in range(frames)]
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
    folder.mkdir(parents=True, exist_ok=True)
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
