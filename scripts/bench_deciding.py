"""How long deciding takes, in milliseconds a pair on one core, at the size of a large take.

    OMP_NUM_THREADS=1 python scripts/bench_deciding.py --frames 170 --objects 30 --proposals 300

Random masks and embeddings stand for a matcher's; what is timed is everything after it: masks
compared, frames linked, the decision. Compilation is not counted.
"""

import argparse
import resource
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle import MaskRle
from omama.dataset import Dataset, FrameTable, MasksByFrame, Pairs
from omama.deciding.candidates import TOP, Candidates
from omama.deciding.clips import clips
from omama.deciding.decide import Mode, Parameters, decide
from omama.deciding.links import link
from omama.deciding.visible import visible_scores

HW = {"aria01_214-1": (704, 704), "cam01": (540, 960)}
SETTINGS = Parameters(
    temperature=0.1, absent_at=0.4, repulsion=2.0, votes=10.0, memory=0.5, layout=2.0
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=170)
    parser.add_argument("--objects", type=int, default=30)
    parser.add_argument("--proposals", type=int, default=300)
    parser.add_argument("--width", type=int, default=768)
    args = parser.parse_args()
    for source, dest in (("aria01_214-1", "cam01"), ("cam01", "aria01_214-1")):
        warm_up = make(source, dest, 3, 2, 30, 16)
        timed(*warm_up)
        dataset, found = make(source, dest, args.frames, args.objects, args.proposals, args.width)
        seconds = timed(dataset, found)
        shown = ", ".join(f"{name} {1000 * s / len(found):.3f}" for name, s in seconds.items())
        print(f"{source} > {dest}, {len(found)} pairs, ms a pair: {shown}")
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def timed(dataset: Dataset, found: Candidates) -> dict[str, float]:
    """CPU seconds of each part: other programs of the machine do not count."""
    seconds = {}
    start = time.process_time()
    (clip,) = clips(dataset, found)
    seconds["masks"] = time.process_time() - start
    start = time.process_time()
    links = link(clip)
    seconds["links"] = time.process_time() - start
    for mode in (Mode.FRAME, Mode.TRACK_CAUSAL, Mode.TRACK):
        start = time.process_time()
        belief = decide(clip, links, mode, SETTINGS)
        visible_scores(clip, links, belief, SETTINGS if mode is Mode.TRACK else None)
        seconds[str(mode)] = time.process_time() - start
    return seconds


def make(
    source: str, dest: str, frames: int, objects: int, proposals: int, width: int
) -> tuple[Dataset, Candidates]:
    """One clip: every object in every frame."""
    rng = np.random.default_rng(0)
    height, wide = HW[dest]
    masks = MaskColumns.of([random_mask(rng, height, wide) for _ in range(proposals)])
    _, boxes, _ = masks.measure()
    masks = replace(masks, boxes=boxes).take(np.tile(np.arange(proposals), frames))
    rows = MasksByFrame(np.arange(frames + 1) * proposals, masks)
    count = frames * objects
    table = pd.DataFrame(
        {
            "take_uid": "take",
            "source_camera": source,
            "dest_camera": dest,
            "frame_idx": np.repeat(np.arange(frames) * 30, objects),
            "object_name": [f"object {number}" for number in range(objects)] * frames,
        }
    )
    at, nothing = np.repeat(np.arange(frames), objects), np.zeros(count, np.int64)
    frame_table = FrameTable(DatasetRoot(Path(".")), pd.DataFrame(), rows, rows)
    pairs = Pairs(table, at, at, nothing, nothing, nothing.astype(np.int8))
    shape = (count, TOP)
    proposal = np.argsort(rng.random((count, proposals)), axis=1)[:, :TOP]
    looks = unit(rng, (proposals, width))
    found = Candidates(
        pair=np.arange(count),
        proposal=proposal,
        similarity=-np.sort(-rng.random(shape), axis=1).astype(np.float32),
        confidence=rng.random(count),
        source=unit(rng, (count, width)),
        embedding=looks[proposal],
        look=looks[proposal],
        truth=np.zeros(shape, np.float32),
    )
    return Dataset(frame_table, pairs, []), found


def random_mask(rng: np.random.Generator, height: int, width: int) -> MaskRle:
    """An ellipse of up to a fifth of the image's width."""
    rows, columns = np.mgrid[:height, :width]
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    a, b = rng.uniform(0.01, 0.1, 2) * width
    return MaskRle.encode(((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 <= 1)


def unit(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.standard_normal(shape, np.float32)
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float16)


if __name__ == "__main__":
    main()
