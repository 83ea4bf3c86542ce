"""Speed of the data pipeline against its peers, measured in one run.

    python scripts/bench_data.py                                # about 20 minutes on two cores
    python scripts/bench_data.py --quick                        # a short run to check that it works
    python scripts/bench_data.py --write docs/performance.md    # puts the table into the page

Peers: json.load and the lzstring package for annotations; decord, PyAV and `ffmpeg -f null` (where
it is installed) for videos (bench_video.py). The last rows run the frames stage as on the whole
data set: one frame in thirty, decoded, scaled and written, on all cores. scripts/plan.py computes
hours from such rates.

Peak memory is the largest anonymous resident set (RssAnon) of the parent or of any worker: what is
needed beside memory-mapped files, whose pages the kernel can drop. Needs psutil and Linux.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import bench_video
import psutil
from large_release import write_release
from lzstring import LZString

from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.manifests import write_manifest
from egoexo_tools.release.lzstring import decompress_from_encoded_uri_component, decompress_many
from egoexo_tools.release.relations import index_takes
from egoexo_tools.running.executors import available_cores
from egoexo_tools.running.records import RunOptions, read_statuses
from egoexo_tools.stages.frames import run_frames
from egoexo_tools.stages.ingest import run_ingest
from egoexo_tools.stages.settings import FrameSettings
from egoexo_tools.video.frames import ReadReport, read_frames
from egoexo_tools.vocab import Split

BEGIN, END = "<!-- begin of the run -->", "<!-- end of the run -->"
FRAME_RATE = 30
Row: TypeAlias = tuple[str, str, str, str]
"""What was measured, our result, the peer's, and their ratio."""
PARALLEL = RunOptions(executor="process", quiet=True)


@dataclass(frozen=True)
class Measurement:
    seconds: float
    cpu_seconds: float
    """Of this process and of its finished workers; on a busy machine, far below `seconds`."""
    memory_mb: float
    """Largest anonymous memory of one process."""
    answer: Any

    def text(self) -> str:
        return f"{self.seconds:.2f} s ({self.cpu_seconds:.2f} s CPU), {self.memory_mb:.0f} MB"


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    lines = [*machine(options), ""]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        release = Release(folder / "annotations")
        write_release(release, round(options.gigabytes * 1e9))
        path = release.relations_json(Split.TRAIN)
        rows = [
            *parse_rows(path),
            *lzstring_rows(path),
            *ingest_rows(release, folder / "root"),
            first_mask_row(),
            *video_rows(options, folder),
        ]
        for group in bench_video.GROUPS:
            rows.append(frames_row(folder, options.frames, group, megabits=options.video_megabits))
    lines += markdown_table(("measurement", "ours", "peer", "ratio"), rows)
    print("\n".join(lines[lines.index("") + 1 :]))
    if options.write:
        before, _, rest = options.write.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        options.write.write_text("\n".join([before + BEGIN, *lines, END + after]))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="Small files, one turn each.")
    parser.add_argument("--gigabytes", type=float, help="Annotation file.  [2; quick: 0.03]")
    parser.add_argument("--frames", type=int, help="Per video.  [600; quick: 120]")
    parser.add_argument("--turns", type=int, help="Per contender.  [3; quick: 1]")
    parser.add_argument(
        "--video-megabits",
        type=float,
        default=bench_video.NOISY_MEGABITS,
        help="Bit rate of the frames stage's videos, in Mbit/s.  [20]",
    )
    parser.add_argument("--folder", type=Path, help="Where to write a few GB.  [temporary]")
    parser.add_argument("--write", type=Path, help="Page whose marked section is replaced.")
    options = parser.parse_args(arguments)
    options.gigabytes = options.gigabytes or (0.03 if options.quick else 2.0)
    options.frames = options.frames or (120 if options.quick else bench_video.FRAMES)
    options.turns = options.turns or (1 if options.quick else bench_video.TURNS)
    return options


def machine(options: argparse.Namespace) -> list[str]:
    """The size of the run, the machine with its load, and the versions."""
    import av
    import cv2
    import numba
    import pyarrow

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.processor() or "unknown processor"
    libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
    memory = psutil.virtual_memory().total / 2**30
    size = "a quick run, too small to judge by" if options.quick else "a full run"
    return [
        f"{time.strftime('%Y-%m-%d')}, {size}: {options.gigabytes:g} GB of annotations, "
        f"{options.frames} frames per video, best of {options.turns} turns.",
        f"{processor}, {available_cores()} cores, {memory:.0f} GB, {platform.system()} "
        f"{platform.machine()}, load {psutil.getloadavg()[0]:.1f} at the start.",
        f"Python {platform.python_version()}, PyAV {av.__version__} (libavcodec {libavcodec}), "
        f"OpenCV {cv2.__version__}, Arrow {pyarrow.__version__}, numba {numba.__version__}, "
        f"{'with' if shutil.which('ffmpeg') else 'without'} the ffmpeg program.",
    ]


def parse_rows(path: Path) -> list[Row]:
    """Reading the relations file: json.load against ours, with every take decoded."""
    next(index_takes(path))  # compiled code and the page cache are warm for both
    path.read_bytes()

    def count_masks() -> int:
        return sum(
            len(track.annotation)
            for take in index_takes(path)
            for cameras in take.read().object_masks.values()
            for track in cameras.values()
        )

    ours = best_of(count_masks, 3)
    peer = measure(lambda: len(json.loads(path.read_bytes())))
    name = f"parse {path.stat().st_size / 1e9:.2f} GB, {ours.answer:,} masks"
    ratio = f"{peer.seconds / ours.seconds:.1f}x"
    return [(name, ours.text(), f"json.load {peer.text()}", ratio)]


def lzstring_rows(path: Path, *, sample: int = 120) -> list[Row]:
    """Unpacking masks: the lzstring package against one call per mask and one call for all."""
    take = next(index_takes(path)).read()
    texts = [
        mask.encoded
        for cameras in take.object_masks.values()
        for track in cameras.values()
        for mask in track.annotation.values()
    ]
    texts = texts[:: max(1, len(texts) // sample)]
    package = LZString()
    peer = measure(lambda: [package.decompressFromEncodedURIComponent(text) for text in texts])
    assert [decompress_from_encoded_uri_component(text) for text in texts] == peer.answer
    rows = []
    for name, call in [
        ("unpack a mask", lambda: [decompress_from_encoded_uri_component(text) for text in texts]),
        ("unpack many masks, each", lambda: decompress_many(texts)),
    ]:
        ours = best_of(call, 5)
        milliseconds = [1e3 * turn.seconds / len(texts) for turn in (ours, peer)]
        cells = f"{milliseconds[0]:.4f} ms", f"lzstring {milliseconds[1]:.2f} ms"
        rows.append((name, *cells, f"{peer.seconds / ours.seconds:.0f}x"))
    return rows


def ingest_rows(release: Release, root: Path) -> list[Row]:
    """The whole stage, then a second run that has nothing to do."""

    def run() -> Any:
        return run_ingest(DatasetRoot(root), release, run=PARALLEL).check()

    first, second = measure(run), measure(run)
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
        ("ingest again, nothing to do", second.text(), "", ""),
    ]


def first_mask_row() -> Row:
    """The first mask in a new process, which loads compiled code from the disk."""
    code = (
        "import time, numba, numpy; start = time.perf_counter();"
        "from egoexo_tools.release.lzstring import decompress_from_encoded_uri_component as unpack;"
        "unpack('BYUwNmD2Q'); print(time.perf_counter() - start)"
    )
    # The first process compiles if nothing is cached yet; the second is measured.
    for _ in range(2):
        process = subprocess.run([sys.executable, "-c", code], check=True, stdout=-1, text=True)
    return ("first mask unpacked in a new process", f"{float(process.stdout):.2f} s", "", "")


def video_rows(options: argparse.Namespace, folder: Path) -> list[Row]:
    """The rows of bench_video, and the share of the file that is read for a few frames."""
    rows: list[Row] = []
    table = bench_video.rows(folder=folder, frames=options.frames, turns=options.turns)
    for name, ours, peer, ratio in table:
        decimals, unit = (0, "MB") if "memory" in name else (2, "s")
        if name.startswith("packets"):
            decimals, unit = 0, ""
        if name.startswith("ms "):
            decimals, unit = 1, "ms"
        cells = (f"{value:.{decimals}f} {unit}".rstrip() for value in (ours, peer))
        rows.append((name, *cells, f"{ratio:.1f}x"))
    for group in bench_video.GROUPS:
        path = bench_video.make_video(
            folder, frames=options.frames, group=group, megabits=options.video_megabits
        )
        # Ten frames, one per second, as where a part of a take is annotated.
        frame_idxs = range(0, min(options.frames, 300), FRAME_RATE)
        report = ReadReport()
        for _ in read_frames(path, frame_idxs, report=report):
            pass
        name = f"bytes read for {len(frame_idxs)} of {options.frames} frames, GOP {group}"
        read, total = report.bytes_read / 1e6, report.bytes_total / 1e6
        saving = f"{report.share_saved:.0%} saved"
        rows.append((name, f"{read:.1f} MB", f"whole file {total:.1f} MB", saving))
    return rows


def frames_row(folder: Path, frames: int, group: int, *, megabits: float) -> Row:
    """The frames stage on links to one 4K video, one per core, at one frame per second."""
    video = bench_video.make_video(folder, frames=frames, group=group, megabits=megabits)
    release, root = Release(folder / f"release{group}"), DatasetRoot(folder / f"root{group}")
    for number in range(available_cores()):
        link = release.video(f"take{number}", "cam01")
        link.parent.mkdir(parents=True)
        link.symlink_to(video)
        take = {"take_uid": f"take{number}", "take_name": f"take{number}", "exo_cameras": ["cam01"]}
        write_manifest(root, "takes", f"take{number}", [take])
    run_frames(root, release, settings=FrameSettings(sampling="1fps"), run=PARALLEL).check()
    # The units' own seconds: a whole data set starts its processes once, not once per take.
    seconds = sum(status.seconds for status in read_statuses(root, "frames"))
    jpeg_sizes = [path.stat().st_size for path in root.path.rglob("*.jpg")]
    video_seconds = frames / FRAME_RATE
    pixels = available_cores() * frames * bench_video.HEIGHT * bench_video.WIDTH
    return (
        f"frames stage, one 4K frame in 30, GOP {group}, "
        f"{video.stat().st_size * 8 / 1e6 / video_seconds:.0f} Mbit/s",
        f"{pixels / seconds / 1e6:.0f} Mpixel/s per core",
        f"{sum(jpeg_sizes) / len(jpeg_sizes) / 1e3:.0f} KB per picture",
        f"{available_cores() * video_seconds / seconds:.2f}x real time per core",
    )


def best_of(function: Callable[[], Any], turns: int) -> Measurement:
    return min((measure(function) for _ in range(turns)), key=lambda turn: turn.seconds)


def measure(function: Callable[[], Any]) -> Measurement:
    with memory_watch() as peak:
        started, cpu_started = time.perf_counter(), sum(os.times()[:4])
        answer = function()
        seconds, cpu_seconds = time.perf_counter() - started, sum(os.times()[:4]) - cpu_started
    return Measurement(seconds, cpu_seconds, peak[0], answer)


@contextmanager
def memory_watch(every_seconds: float = 0.05) -> Iterator[list[float]]:
    """Watch this process and its children from a thread; the list holds the peak in MB."""
    peak, stop = [0.0], threading.Event()
    this = psutil.Process()

    def watch() -> None:
        while not stop.wait(every_seconds):
            for process in [this, *this.children(recursive=True)]:
                try:
                    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                except OSError:
                    continue  # this child has just ended
                sizes = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
                peak[0] = max(peak[0], sum(sizes) / 1e3)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def markdown_table(head: Row, rows: list[Row]) -> list[str]:
    """Markdown whose columns also line up in a terminal."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [
        "| " + " | ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [head, *rows]
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


if __name__ == "__main__":
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    main()
