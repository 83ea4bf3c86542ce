"""Time and memory of select, pairs, stats and validate at the size of the whole benchmark.

    python scripts/bench_tables.py                     1.8 M masks, 700 K pairs
    python scripts/bench_tables.py --share 0.05 --keep /tmp/bench

Generates a release's annotations (no videos) and the tables of a root (no pictures), then runs
each command as its own process on two cores. Masks are drawn once per camera and repeated; their
run lengths have some 500 characters and a mask some 1.15 KB in the relations file, as in the
real ones. Memory is the largest anonymous resident set (RssAnon) of the process, sampled: what is
needed beside mapped files, whose pages the kernel can drop. Needs psutil and Linux.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from lzstring import LZString
from tqdm import tqdm

from egoexo_tools.formats import benchmark
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.vocab import Split, view_of

TAKES = {Split.TRAIN: 821, Split.VAL: 201, Split.TEST: 313}
"""1,335 takes."""
SIZES = {"aria01_214-1": (1408, 1408), "cam01": (2160, 3840)}
OBJECTS_PER_TAKE, FRAMES, DISTINCT, CLICKS = 4.17, 185, 60, 13
"""5,566 objects with a track in each view; one frame in eight is checked and absent."""
SCENARIOS = ("Cooking", "Health", "Bike Repair", "Music", "Basketball", "Soccer", "Dance")
UNIVERSITIES = ("cmu", "iiith", "sfu", "uniandes", "upenn", "utokyo")
WANTED_PAIRS = 700_000
SECONDS_ALLOWED, GIGABYTES_ALLOWED = 120, 4


@dataclass(frozen=True)
class Drawn:
    """The masks of one camera, of which every track is made."""

    shipped: list[str]
    """JSON of each, as relations hold it."""
    rles: list[MaskRle]
    areas: list[int]
    boxes: list[tuple[int, int, int, int]]


@dataclass(frozen=True)
class Take:
    """Name, scenario and objects of a generated take."""

    number: int
    split: Split
    objects: int

    @property
    def take_uid(self) -> str:
        return f"{self.number:08x}-0000-4000-8000-{self.number:012x}"

    @property
    def take_name(self) -> str:
        return f"{self.university}_{self.scenario.lower().replace(' ', '')}_{self.number // 3}_1"

    @property
    def scenario(self) -> str:
        return SCENARIOS[self.number * self.number % len(SCENARIOS)]

    @property
    def university(self) -> str:
        return UNIVERSITIES[self.number % len(UNIVERSITIES)]

    def entry(self) -> dict[str, Any]:
        """Its entry in takes.json."""
        return {
            "take_uid": self.take_uid,
            "take_name": self.take_name,
            "capture_uid": f"capture-{self.number // 3}",
            "participant_uid": self.number // 5,
            "university_id": self.university,
            "parent_task_name": self.scenario,
            "duration_sec": float(FRAMES),
            "is_dropped": False,
            "frame_aligned_videos": {},
        }


def plan(share: float) -> list[Take]:
    """The takes of a share of the benchmark."""
    splits = [split for split, count in TAKES.items() for _ in range(max(round(count * share), 1))]
    ends = np.round(np.arange(len(splits) + 1) * OBJECTS_PER_TAKE).astype(int)
    counts = np.diff(ends).tolist()
    return [Take(number, split, counts[number]) for number, split in enumerate(splits)]


def states(take: Take, number: int) -> list[tuple[int, int | None]]:
    """(frame_idx, which drawn mask or None) of a track."""
    shift = take.number + 7 * number
    return [
        (30 * idx, (idx + shift) % DISTINCT if (idx + number) % 8 else None)
        for idx in range(FRAMES)
    ]


def generate_release(release: Release, takes: list[Take], drawn: dict[str, Drawn]) -> None:
    """Write takes.json, splits.json and the relations files."""
    release.splits_json.parent.mkdir(parents=True)
    for split in Split:
        with release.relations_json(split).open("w") as file:
            file.write('{"annotations": {')
            chosen = [take for take in takes if take.split is split]
            for place, take in enumerate(tqdm(chosen, desc=f"relations_{split}")):
                file.write(", " if place else "")
                file.write(f"{json.dumps(take.take_uid)}: {_relations(take, drawn)}")
            file.write("}}")
    lists = {split: [take.take_uid for take in takes if take.split is split] for split in Split}
    release.splits_json.write_text(json.dumps({"split_to_take_uids": lists}))
    release.takes_json.write_text(json.dumps([take.entry() for take in takes]))


def generate_tables(root: DatasetRoot, takes: list[Take], drawn: dict[str, Drawn]) -> int:
    """Write the takes and masks manifests; returns the number of visible masks."""
    visible = 0
    for take in tqdm(takes, desc="tables"):
        row = {
            "take_uid": take.take_uid,
            "take_name": take.take_name,
            "scenario": take.scenario,
            "university": take.university,
            "split": str(take.split),
            "ego_camera": "aria01_214-1",
            "exo_cameras": ["cam01"],
            "duration_seconds": float(FRAMES),
            "frames_annotated": FRAMES,
        }
        masks = _mask_columns(take, drawn)
        visible += sum(masks["visible"])
        write_manifest(root, "takes", take.take_uid, [row])
        write_manifest(root, "masks", take.take_uid, masks)
    lists = {split: [take.take_uid for take in takes if take.split is split] for split in Split}
    benchmark.write_splits(root.split_json, lists)
    return visible


def draw(seed: int, hw: tuple[int, int]) -> Drawn:
    """DISTINCT masks with wavy outlines."""
    rng = np.random.default_rng(seed)
    rles = [_blob(rng, hw) for _ in range(DISTINCT)]
    clicks = rng.uniform(0, 1, (CLICKS, 2)).round(4).tolist()
    shipped = [
        json.dumps(
            {
                "width": rle.width,
                "height": rle.height,
                "encodedMask": LZString.compressToEncodedURIComponent(rle.counts),
                "intSegClicks": [{"x": x, "y": y, "positive": x > y} for x, y in clicks],
            }
        )
        for rle in rles
    ]
    return Drawn(shipped, rles, [rle.area() for rle in rles], [rle.box_xywh() for rle in rles])


def _blob(rng: np.random.Generator, hw: tuple[int, int]) -> MaskRle:
    height, width = hw
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    waves = np.arange(2, 8)[:, None]
    radius = height / 16 + height / 200 * np.sin(waves * angles + rng.uniform(0, 6, (6, 1))).sum(0)
    radius *= 2 ** rng.normal(0, 0.7)
    center = rng.uniform(0.3, 0.7, 2) * (width, height)
    outline = center + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return MaskRle.encode(cv2.fillPoly(np.zeros(hw, np.uint8), [outline.round().astype(int)], 1))


def _relations(take: Take, drawn: dict[str, Drawn]) -> str:
    objects = []
    for number in range(take.objects):
        cameras = []
        for camera, masks in drawn.items():
            track = states(take, number)
            annotation = ", ".join(
                f'"{idx}": {masks.shipped[which]}' for idx, which in track if which is not None
            )
            looked_at = [idx for idx, _ in track]
            cameras.append(
                f'"{camera}": {{"annotation": {{{annotation}}}, "annotated_frames": {looked_at}}}'
            )
        objects.append(f'"object {number}_0": {{{", ".join(cameras)}}}')
    return (
        f'{{"scenario": "{take.scenario}", "take_name": "{take.take_name}", '
        f'"object_masks": {{{", ".join(objects)}}}}}'
    )


def _mask_columns(take: Take, drawn: dict[str, Drawn]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in _MASK_COLUMNS}
    for number in range(take.objects):
        for camera, masks in drawn.items():
            for idx, which in states(take, number):
                there = which is not None
                rle = masks.rles[which] if there else None
                row = (
                    *(take.take_uid, f"object {number}_0", camera, idx, str(view_of(camera))),
                    *(there, rle and rle.height, rle and rle.width, rle and rle.counts),
                    *((masks.areas[which], masks.boxes[which]) if there else (None, None)),
                )
                for name, value in zip(columns, row, strict=True):
                    columns[name].append(value)
    return columns


_MASK_COLUMNS = (
    *("take_uid", "object_name", "camera", "frame_idx", "view", "visible"),
    *("rle_height", "rle_width", "rle_counts", "area", "bbox_xywh"),
)


def measure(name: str, *arguments: str) -> bool:
    """Run a command of egoexo-tools and print what it needs; whether it is within the limits."""
    code = "from egoexo_tools.cli import main; main()"
    started, cpu_before, peak = time.perf_counter(), sum(os.times()[2:4]), 0
    command = [sys.executable, "-c", code, *arguments]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, _anonymous_bytes(process.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        output.seek(0)
        text = output.read()
    cpu = sum(os.times()[2:4]) - cpu_before
    sound = process.returncode == 0 and seconds < SECONDS_ALLOWED and peak < GIGABYTES_ALLOWED * 1e9
    print(
        f"{name:<10} {seconds:6.1f} s  {cpu:6.1f} s CPU  {peak / 1e9:5.2f} GB  "
        f"{'ok' if sound else 'NOT OK'}",
        flush=True,
    )
    if process.returncode:
        print(text[-2000:])
    return sound


def _anonymous_bytes(pid: int) -> int:
    """Of a process and its children together."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        texts = [Path(f"/proc/{one.pid}/status").read_text() for one in family]
    except (OSError, psutil.Error):
        return 0  # one has just ended
    lines = [line for text in texts for line in text.splitlines() if line.startswith("RssAnon")]
    return sum(int(line.split()[1]) * 1024 for line in lines)


def run(folder: Path, share: float) -> bool:
    """Generate what is not there yet, and measure every command."""
    release, root = Release(folder / "release"), DatasetRoot(folder / "root")
    takes = plan(share)
    if not (folder / "done").exists():
        drawn = {camera: draw(seed, hw) for seed, (camera, hw) in enumerate(SIZES.items())}
        generate_release(release, takes, drawn)
        generate_tables(root, takes, drawn)
        (folder / "done").touch()
    size = sum(path.stat().st_size for path in release.splits_json.parent.glob("relations_*"))
    masks = read_manifest(root, "masks", columns=["visible"])["visible"].to_numpy()
    print(
        f"{len(takes):,} takes, {sum(take.objects for take in takes):,} objects, "
        f"{int(masks.sum()):,} masks, {len(masks) - int(masks.sum()):,} absent, "
        f"{size / 1e9:.2f} GB of relations; load {os.getloadavg()[0]:.1f}"
    )
    wanted = min(WANTED_PAIRS * share / masks.sum(), 1)
    sampling = [part for split in Split for part in ("--fraction", f"{split}={wanted}")]
    page = ["--parquet", str(folder / "stats"), "--html", str(folder / "stats.html")]
    splits = ["-o", str(folder / "split.json"), "--splits", "0.8,0.1,0.1", "--group-by", "capture"]
    sound = [
        measure("select", "select", str(release.path), *splits),
        measure("pairs", "pairs", str(root.path), *sampling, "--overwrite", "--quiet"),
        measure("stats", "stats", str(root.path), *page),
        measure("validate", "validate", str(root.path)),
    ]
    print(f"{read_manifest(root, 'pairs', columns=['split']).num_rows:,} pairs were listed")
    return all(sound)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="Of the benchmark's takes.")
    parser.add_argument("--keep", type=Path, help="Generate here, and keep it for the next time.")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        sys.exit(not run(options.keep, options.share))
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit(not run(Path(scratch), options.share))


if __name__ == "__main__":
    main()
