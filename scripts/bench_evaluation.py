"""How fast `egoexo-tools evaluate` is: against the plain implementation, and on 100,000 samples.

    python scripts/bench_evaluation.py [--samples 100000] [--plain 200]

The plain implementation (tests/reference.py) decodes every mask at full size, resizes it and
measures it with numpy and OpenCV, as the benchmark's own code does; it is timed on one core and
compared, number by number, with ours. Masks are smooth random blobs at the sizes of Ego-Exo4D
(exo 2160x3840, ego 1408x1408), with counts of some 500 characters as in its annotations.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from egoexo_tools.evaluation.evaluate import evaluate
from egoexo_tools.evaluation.metrics import official_size
from egoexo_tools.masks.rle import MaskRle

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

EGO, EXO = "aria01_214-1", "cam01"
SIZES = {EGO: (1408, 1408), EXO: (2160, 3840)}
SHAPES = 40
"""Distinct masks of each camera; samples draw from them."""
SAMPLES_A_TAKE = 400
SAMPLES_A_TRACK = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--plain", type=int, default=200, help="samples for the comparison")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for protocol in ("official", "omama", "lm-eec"):
            compare(Path(folder), protocol, arguments.plain)
        at_scale(Path(folder), arguments.samples)


def compare(folder: Path, protocol: str, count: int) -> None:
    import reference

    truth, predictions = write_files(folder, count, seed=1)
    evaluate(truth, predictions, protocol=protocol, workers=1, quiet=True)  # compiles
    started = time.perf_counter()
    ours = evaluate(truth, predictions, protocol=protocol, workers=1, quiet=True)
    ours_seconds = time.perf_counter() - started
    started = time.perf_counter()
    results = json.loads(predictions.read_bytes())["ego-exo"]["results"]
    annotations = json.loads(truth.read_bytes())
    plain = reference.plain_evaluate(annotations, results, protocol, True)
    plain_seconds = time.perf_counter() - started
    worst = max(
        abs(row[name] - plain[row["pair_id"]][name])
        for row in ours.scores.to_pylist()
        for name in ("iou", "contour_accuracy", "location_error")
        if row["visible"]
    )
    print(
        f"{protocol:9} {count} samples, one core: plain {plain_seconds / count * 1e3:6.2f} ms "
        f"a sample, ours {ours_seconds / count * 1e3:5.3f} ms (summary and intervals included): "
        f"{plain_seconds / ours_seconds:.0f}x; largest difference {worst:.1e}"
    )


def at_scale(folder: Path, count: int) -> None:
    truth, predictions = write_files(folder, count, seed=2)
    megabytes = (truth.stat().st_size + predictions.stat().st_size) / 1e6
    for workers in (1, 2):
        started = time.perf_counter()
        evaluation = evaluate(truth, predictions, protocol="official", workers=workers, quiet=True)
        seconds = time.perf_counter() - started
        print(
            f"official  {evaluation.summary['samples']:,} samples, {megabytes:,.0f} MB of JSON, "
            f"{workers} core(s): {seconds:.1f} s ({seconds / count * 1e6:.0f} us a sample)"
        )


def write_files(folder: Path, count: int, *, seed: int) -> tuple[Path, Path]:
    """A ground truth and an official prediction file of `count` ego2exo samples."""
    rng = np.random.default_rng(seed)
    shapes = {camera: [blob(rng, size) for _ in range(SHAPES)] for camera, size in SIZES.items()}
    annotations: dict[str, Any] = {}
    results: dict[str, Any] = {}
    for start in range(0, count, SAMPLES_A_TAKE):
        take_uid = f"take-{start // SAMPLES_A_TAKE:05}"
        take: dict[str, Any] = {"masks": {}, "subsample_idx": [], "annotated_frames": {}}
        predicted: dict[str, Any] = {"masks": {}, "subsample_idx": []}
        for number in range(start, min(start + SAMPLES_A_TAKE, count)):
            name = f"object_{(number - start) // SAMPLES_A_TRACK}"
            frame = 30 * (number % SAMPLES_A_TRACK)
            cameras = take["masks"].setdefault(name, {EGO: {}, EXO: {}})
            annotated = take["annotated_frames"].setdefault(name, {EGO: [], EXO: []})
            pair = predicted["masks"].setdefault(name, {f"{EGO}_{EXO}": {}})
            true = shapes[EXO][rng.integers(SHAPES)]
            cameras[EGO][str(frame)] = shapes[EGO][rng.integers(SHAPES)][0]
            if rng.random() < 0.9:
                cameras[EXO][str(frame)] = true[0]
            for camera in (EGO, EXO):
                annotated[camera].append(frame)
            other = shapes[EXO][rng.integers(SHAPES)]
            chosen = true if rng.random() < 0.5 else other
            entry = {"pred_mask": chosen[1], "confidence": float(rng.random())}
            pair[f"{EGO}_{EXO}"][str(frame)] = entry
        annotations[take_uid], results[take_uid] = take, predicted
    truth, predictions = folder / "truth.json", folder / "predictions.json"
    truth.write_text(json.dumps({"version": "xx", "challenge": "xx", "annotations": annotations}))
    about = {"version": "xx", "challenge": "xx", "results": results}
    predictions.write_text(json.dumps({"ego-exo": about}))
    return truth, predictions


def blob(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Any, Any]:
    """A smooth random shape: its rle, and that of itself moved a little at the official size."""
    height, width = size
    noise = rng.standard_normal((height // 16, width // 16)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3.0)
    y, x = rng.integers(height // 64, height // 20), rng.integers(width // 64, width // 20)
    reach = int(rng.integers(6, 16))
    ys, xs = np.ogrid[: smooth.shape[0], : smooth.shape[1]]
    hill = smooth / smooth.std() - ((ys - y) ** 2 + (xs - x) ** 2) / reach**2 + 1.5
    mask = cv2.resize(hill, (width, height), interpolation=cv2.INTER_CUBIC) > 0
    rle = MaskRle.encode(mask)
    small = np.roll(rle.decode_at(*official_size(size)), (1, 2), (0, 1))
    return rle.to_json(), MaskRle.encode(small).to_json()


if __name__ == "__main__":
    main()
