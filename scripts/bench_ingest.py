"""Measures ingest against its peers in one run: json.load and the lzstring package.

    python scripts/bench_ingest.py --gigabytes 0.4
    python scripts/bench_ingest.py --gigabytes 2 --release /data/bench --skip-json-load

Generates a release in the shipped layout without videos: objects with wavy outlines at 1408x1408
and 3840x2160, whose run lengths have some 500 characters as in the real files, each with the
annotator's clicks, which makes 1.15 KB a mask, as in the real files (2 GB, 1.8 M masks). Some
masks are drawn and then repeated, because the lzstring package packs a few hundred in a second.

Peak memory is the largest anonymous resident set (RssAnon) seen in the parent and in any worker:
what is needed beside the mapped file, whose pages the kernel can drop. Needs psutil and Linux.
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import psutil
from lzstring import LZString
from tqdm import tqdm

from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.release.lzstring import decompress_from_encoded_uri_component, decompress_many
from egoexo_tools.release.relations import index_takes, read_relations
from egoexo_tools.running.records import RunOptions
from egoexo_tools.stages.ingest import run_ingest
from egoexo_tools.vocab import Split

Row: TypeAlias = tuple[str, str, str, str]
"""What was measured, ours, the peer's, and their ratio or the target."""

SIZES = {"aria01_214-1": (1408, 1408), "cam01": (2160, 3840)}
OBJECTS, FRAMES, DISTINCT, CLICKS = 4, 173, 60, 13


def rows(
    gigabytes: float = 0.4,
    *,
    folder: Path | None = None,
    workers: int | None = None,
    json_load: bool = True,
) -> list[Row]:
    """Every measurement, on a release of that size; it is generated in `folder` if not there."""
    with tempfile.TemporaryDirectory() as scratch:
        release = Release(folder or Path(scratch) / "release")
        if not release.takes_json.is_file():
            generate(release, round(gigabytes * 1e9))
        path = release.relations_json(Split.TRAIN)
        return [
            *parse_rows(path, json_load=json_load),
            *lzstring_rows(path),
            *ingest_rows(release, Path(scratch) / "root", workers=workers),
        ]


def generate(release: Release, size: int) -> None:
    """Write takes.json and relations_train.json of at least `size` bytes."""
    path = release.relations_json(Split.TRAIN)
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    pools = {camera: [_draw(rng, hw) for _ in range(DISTINCT)] for camera, hw in SIZES.items()}
    entries: list[dict[str, Any]] = []
    with path.open("w") as file, tqdm(total=size, unit="B", unit_scale=True) as bar:
        file.write('{"annotations": {')
        while file.tell() < size:
            number = len(entries)
            take = f"{number:08}-bench"
            bar.update(file.write(f"{', ' if number else ''}{json.dumps(take)}: "))
            bar.update(file.write(json.dumps(_take(number, pools))))
            entries.append(_entry(take, number))
        file.write("}}")
    release.takes_json.write_text(json.dumps(entries))


def _draw(rng: np.random.Generator, hw: tuple[int, int]) -> dict[str, Any]:
    height, width = hw
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    waves = np.arange(2, 8)[:, None]
    radius = height / 16 + height / 200 * np.sin(waves * angles + rng.uniform(0, 6, (6, 1))).sum(0)
    center = rng.uniform(0.3, 0.7, 2) * (width, height)
    outline = center + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    mask = cv2.fillPoly(np.zeros(hw, np.uint8), [outline.round().astype(np.int32)], 1)
    rle = MaskRle.encode(mask)
    return {
        "width": width,
        "height": height,
        "encodedMask": LZString.compressToEncodedURIComponent(rle.counts),
        "intSegClicks": [
            {"x": round(x, 4), "y": round(y, 4), "positive": bool(x > y)}
            for x, y in rng.uniform(0, 1, (CLICKS, 2)).tolist()
        ],
    }


def _take(number: int, pools: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    frames = range(0, 30 * FRAMES, 30)
    objects = {
        f"object {name}_{name}": {
            camera: {
                "annotation": {
                    str(idx): pool[(idx // 30 + number + name) % len(pool)]
                    for idx in frames
                    if (idx // 30 + name) % 8  # one in eight: checked and not visible
                },
                "annotated_frames": list(frames),
                "annotation_fps": 1,
                "annotation_metadata": {},
            }
            for camera, pool in pools.items()
        }
        for name in range(OBJECTS)
    }
    return {"scenario": "Cooking", "take_name": f"take {number}", "object_masks": objects}


def _entry(take_uid: str, number: int) -> dict[str, Any]:
    return {
        "take_uid": take_uid,
        "take_name": f"take {number}",
        "university_id": "bench",
        "parent_task_name": "Cooking",
        "duration_sec": float(FRAMES),
        "is_dropped": False,
        "frame_aligned_videos": {},
    }


def parse_rows(path: Path, *, json_load: bool) -> list[Row]:
    """Reading the file: json.load against ours, every take decoded."""
    next(index_takes(path))  # compiled code and the page cache are warm for both
    path.read_bytes()
    ours = min((_measure(lambda: _count_masks(path)) for _ in range(3)), key=_seconds)
    name = f"parse {path.stat().st_size / 1e9:.2f} GB, {ours.answer:,} masks"
    if not json_load:
        return [(name, ours.text(), "json.load not run", "")]
    peer = _measure(lambda: len(json.loads(path.read_bytes())))
    return [(name, ours.text(), f"json.load {peer.text()}", f"{peer.seconds / ours.seconds:.1f}x")]


def _count_masks(path: Path) -> int:
    return sum(
        len(track.annotation)
        for _, take in read_relations(path)
        for cameras in take.object_masks.values()
        for track in cameras.values()
    )


def lzstring_rows(path: Path, *, sample: int = 120) -> list[Row]:
    """Unpacking masks: the lzstring package against one call a mask and one call for all."""
    _, take = next(read_relations(path))
    texts = [
        mask.encoded
        for cameras in take.object_masks.values()
        for track in cameras.values()
        for mask in track.annotation.values()
    ]
    texts = texts[:: max(1, len(texts) // sample)]
    package = LZString()
    peer = _measure(lambda: [package.decompressFromEncodedURIComponent(text) for text in texts])
    assert [decompress_from_encoded_uri_component(text) for text in texts] == peer.answer
    rows = []
    for name, call in [
        ("unpack a mask", lambda: [decompress_from_encoded_uri_component(text) for text in texts]),
        ("unpack many masks, each", lambda: decompress_many(texts)),
    ]:
        ours = min((_measure(call) for _ in range(5)), key=_seconds)
        milliseconds = [1e3 * _seconds(run) / len(texts) for run in (ours, peer)]
        shown = f"{milliseconds[0]:.4f} ms", f"lzstring {milliseconds[1]:.2f} ms"
        rows.append((name, *shown, f"{peer.seconds / ours.seconds:.0f}x"))
    return rows


def ingest_rows(release: Release, root: Path, *, workers: int | None) -> list[Row]:
    """The whole stage, then the same again with nothing to do."""
    options = RunOptions(executor="process", workers=workers, quiet=True)

    def run() -> Any:
        return run_ingest(DatasetRoot(root), release, run=options).check()

    first, again = _measure(run), _measure(run)
    written = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    shutil.rmtree(root)
    masks = first.answer.counts["masks"]
    return [
        (
            f"ingest {first.answer.done:,} takes, {masks:,} masks",
            f"{first.text()}, {written / 1e9:.2f} GB written",
            "",
            f"{masks / first.seconds:,.0f} masks/s",
        ),
        ("ingest again, nothing to do", again.text(), "", ""),
    ]


@dataclass(frozen=True)
class Measurement:
    seconds: float
    cpu_seconds: float
    """Of this process and of the workers that ended; on a busy machine, much below `seconds`."""
    memory_mb: float
    """Largest anonymous memory of one process."""
    answer: Any

    def text(self) -> str:
        return f"{self.seconds:.2f} s ({self.cpu_seconds:.2f} s CPU), {self.memory_mb:.0f} MB"


def _seconds(run: Measurement) -> float:
    return run.seconds


def _measure(function: Callable[[], Any]) -> Measurement:
    with _memory_watch() as peak:
        started, cpu_started = time.perf_counter(), sum(os.times()[:4])
        answer = function()
        seconds, cpu_seconds = time.perf_counter() - started, sum(os.times()[:4]) - cpu_started
    return Measurement(seconds, cpu_seconds, peak[0], answer)


@contextmanager
def _memory_watch(every_seconds: float = 0.05) -> Iterator[list[float]]:
    """Watches this process and its children from a thread."""
    peak, stop = [0.0], threading.Event()
    this = psutil.Process()

    def watch() -> None:
        while not stop.wait(every_seconds):
            for process in [this, *this.children(recursive=True)]:
                peak[0] = max(peak[0], _anonymous_mb(process.pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _anonymous_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0  # it has just ended
    return sum(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=0.4)
    parser.add_argument("--release", type=Path, help="Keep the generated release here.")
    parser.add_argument("--workers", type=int, help="Default: all cores.")
    parser.add_argument("--skip-json-load", action="store_true", help="It takes 4x the file.")
    options = parser.parse_args()
    cores, load = psutil.cpu_count(), psutil.getloadavg()[0]
    print(f"Python {platform.python_version()}, {cores} cores, load {load:.1f} at the start")
    found = rows(
        options.gigabytes,
        folder=options.release,
        workers=options.workers,
        json_load=not options.skip_json_load,
    )
    for name, ours, peer, ratio in found:
        print(f"{name:<42} {ours:<52} {peer:<46} {ratio}")


if __name__ == "__main__":
    main()
