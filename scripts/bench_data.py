"""Measures the data plane against its peers in one run, and plans the full data set from it.

    python scripts/bench_data.py                                # about 20 minutes on two cores
    python scripts/bench_data.py --quick                        # small: does it work at all
    python scripts/bench_data.py --write docs/performance.md    # puts the run into the page

Peers: json.load and the lzstring package (bench_ingest.py), decord, plain PyAV and `ffmpeg -f null`
where it is installed (bench_video.py). Then the frames stage as it runs on the whole data set: one
frame in thirty, decoded, scaled and written, on all cores. The plan multiplies those rates; what
it assumes about the data set stands in `Takes`.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import bench_ingest
import bench_video
import psutil

from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.manifests import write_manifest
from egoexo_tools.running.executors import available_cores
from egoexo_tools.running.records import RunOptions, read_statuses
from egoexo_tools.stages.frames import run_frames
from egoexo_tools.stages.settings import FrameSettings
from egoexo_tools.video.frames import ReadReport, read_frames

BEGIN, END = "<!-- begin of the run -->", "<!-- end of the run -->"
EXO_PIXELS, EGO_PIXELS = 3840 * 2160, 1408 * 1408
SMALL_EXO_PIXELS, SMALL_EGO_PIXELS = 796 * 448, 448 * 448
FRAME_RATE = 30


@dataclass(frozen=True)
class Takes:
    """The data set, as far as the plan needs it."""

    takes: int = 1335
    masks: int = 1_800_000
    annotation_bytes: float = 2e9
    video_bytes: float = 10.5e12
    """Every stream of every take; the annotated cameras are a part of it."""
    small_video_bytes: float = 440e9
    """The same at 448 pixels."""
    seconds: int = 173
    """Annotated once a second, per track, on the mean; taken as the length of a take."""

    @property
    def frames(self) -> int:
        """Of one camera of each take."""
        return self.takes * self.seconds


@dataclass(frozen=True)
class FramesRate:
    """The frames stage at one size of the groups of pictures."""

    group: int
    pixels_per_core_second: float
    """Of video gone through, wanted or not."""
    bytes_per_frame: float
    """JPEG, of a quarter-size exo picture."""
    megabits: float
    """A second of the video; the more, the slower it decodes."""


def main() -> None:
    options = parse()
    lines = [*machine(options), ""]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        found, masks_per_second = ingest_table(options, folder)
        found += video_table(options, folder)
        rates = [
            frames_rate(folder, options.frames, group, megabits=options.video_megabits)
            for group in bench_video.GROUPS
        ]
    found += [rate_row(rate) for rate in rates]
    lines += table(("what", "ours", "peer", "ratio"), found)
    planned = plan(Takes(), rates, masks_per_second, cores=options.cores, megabits=options.megabits)
    lines += ["", f"Plan for {Takes().takes:,} takes, from these rates:", ""]
    lines += table(("step", "work", *(f"{cores} cores" for cores in options.cores)), planned)
    print("\n".join(lines[lines.index("") + 1 :]))
    if options.write:
        write(options.write, "\n".join(lines))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="Small files, one turn.")
    parser.add_argument("--gigabytes", type=float, help="Annotation file.  [2; quick: 0.03]")
    parser.add_argument("--frames", type=int, help="Of each video.  [600; quick: 120]")
    parser.add_argument("--turns", type=int, help="Of each contender.  [3; quick: 1]")
    parser.add_argument("--cores", type=int, nargs="+", default=[2, 16, 320], help="To plan for.")
    parser.add_argument("--megabits", type=float, default=1000, help="Network, a second.  [1000]")
    parser.add_argument(
        "--video-megabits",
        type=float,
        default=bench_video.NOISY_MEGABITS,
        help="Of the frames stage's videos.  [20]",
    )
    parser.add_argument("--folder", type=Path, help="Disk to work on; a few GB.  [temporary]")
    parser.add_argument("--write", type=Path, help="Page that gets the run between its marks.")
    options = parser.parse_args()
    small = options.quick
    options.gigabytes = options.gigabytes or (0.03 if small else 2.0)
    options.frames = options.frames or (120 if small else bench_video.FRAMES)
    options.turns = options.turns or (1 if small else bench_video.TURNS)
    return options


def machine(options: argparse.Namespace) -> list[str]:
    """The machine and the versions; how busy it was."""
    import av
    import cv2
    import numba
    import pyarrow

    libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
    memory = psutil.virtual_memory().total / 2**30
    size = "a quick run, too small to judge by" if options.quick else "a full run"
    return [
        f"{time.strftime('%Y-%m-%d')}, {size}: {options.gigabytes:g} GB of annotations, "
        f"{options.frames} frames a video, best of {options.turns} turns.",
        f"{_processor()}, {available_cores()} cores, {memory:.0f} GB, {platform.system()} "
        f"{platform.machine()}, load {psutil.getloadavg()[0]:.1f} at the start.",
        f"Python {platform.python_version()}, PyAV {av.__version__} (libavcodec {libavcodec}), "
        f"OpenCV {cv2.__version__}, Arrow {pyarrow.__version__}, numba {numba.__version__}, "
        f"ffmpeg {'there' if shutil.which('ffmpeg') else 'not there'}.",
    ]


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor() or "unknown processor"


Cells = tuple[str, ...]


def ingest_table(options: argparse.Namespace, folder: Path) -> tuple[list[Cells], float]:
    """bench_ingest's rows, and the masks that the stage ingests in a second on this machine."""
    rows: list[Cells] = [
        *bench_ingest.rows(options.gigabytes, folder=folder / "annotations"),
        first_mask_row(),
    ]
    (rate,) = [row[3] for row in rows if row[3].endswith(" masks/s")]
    return rows, float(rate.removesuffix(" masks/s").replace(",", ""))


def first_mask_row() -> Cells:
    """The first mask in a new process: compiled code comes from the disk."""
    code = (
        "import time, numba, numpy; start = time.perf_counter();"
        "from egoexo_tools.release.lzstring import decompress_from_encoded_uri_component as unpack;"
        "unpack('BYUwNmD2Q'); print(time.perf_counter() - start)"
    )
    program = [sys.executable, "-c", code]
    answers = [
        subprocess.run(program, check=True, capture_output=True, text=True) for _ in range(2)
    ]
    return ("first mask unpacked in a new process", f"{float(answers[-1].stdout):.2f} s", "", "")


def video_table(options: argparse.Namespace, folder: Path) -> list[Cells]:
    """bench_video's rows, and the share of the file that the wanted frames need."""
    rows: list[Cells] = [
        (name, _number(ours, name), _number(peer, name), f"{ratio:.1f}x")
        for name, ours, peer, ratio in bench_video.rows(
            folder=folder, frames=options.frames, turns=options.turns
        )
    ]
    for group in bench_video.GROUPS:
        path = bench_video.video_path(
            folder, frames=options.frames, group=group, megabits=options.video_megabits
        )
        bench_video.make_video(
            path, frames=options.frames, group=group, megabits=options.video_megabits
        )
        # Two moments of a take, as where a take is annotated in parts: ten frames, one a second.
        wanted = range(0, min(options.frames, 300), FRAME_RATE)
        report = ReadReport()
        for _ in read_frames(path, wanted, report=report):
            pass
        name = f"bytes read for {len(wanted)} of {options.frames} frames, GOP {group}"
        read, total = report.bytes_read / 1e6, report.bytes_total / 1e6
        saved = f"{report.share_saved:.0%} saved"
        rows.append((name, f"{read:.1f} MB", f"whole file {total:.1f} MB", saved))
    return rows


def _number(value: float, name: str) -> str:
    if name.startswith("packets"):
        return f"{value:.0f}"
    if name.startswith("ms "):
        return f"{value:.1f} ms"
    return f"{value:.0f} MB" if "memory" in name else f"{value:.2f} s"


def frames_rate(folder: Path, frames: int, group: int, *, megabits: float) -> FramesRate:
    """Runs the frames stage on copies of one 4K video, one for each core, one frame a second."""
    video = bench_video.video_path(folder, frames=frames, group=group, megabits=megabits)
    bench_video.make_video(video, frames=frames, group=group, megabits=megabits)
    release, root = Release(folder / f"release{group}"), DatasetRoot(folder / f"root{group}")
    for number in range(available_cores()):
        link = release.video(f"take{number}", "cam01")
        link.parent.mkdir(parents=True)
        link.symlink_to(video)
        take = {"take_uid": f"take{number}", "take_name": f"take{number}", "exo_cameras": ["cam01"]}
        write_manifest(root, "takes", f"take{number}", [take])
    run = RunOptions(executor="process", quiet=True)
    run_frames(root, release, settings=FrameSettings(sampling="1fps"), run=run).check()
    # Each unit's own time: starting processes is paid once, not for each take.
    seconds = sum(status.seconds for status in read_statuses(root, "frames"))
    pictures = [path.stat().st_size for path in root.path.rglob("*.jpg")]
    pixels = available_cores() * frames * bench_video.HEIGHT * bench_video.WIDTH
    megabits = video.stat().st_size * 8 / 1e6 / (frames / FRAME_RATE)
    return FramesRate(group, pixels / seconds, sum(pictures) / len(pictures), megabits)


def rate_row(rate: FramesRate) -> Cells:
    videos = rate.pixels_per_core_second / EXO_PIXELS / FRAME_RATE
    return (
        f"frames stage, one 4K frame in 30, GOP {rate.group}, {rate.megabits:.0f} Mbit/s",
        f"{rate.pixels_per_core_second / 1e6:.0f} Mpixel/s a core",
        f"{rate.bytes_per_frame / 1e3:.0f} KB a picture",
        f"{videos:.2f}x real time a core",
    )


def plan(
    takes: Takes,
    rates: list[FramesRate],
    masks_per_second: float,
    *,
    cores: list[int],
    megabits: float,
) -> list[Cells]:
    """A row a step: hours with each number of cores."""
    per_core = masks_per_second / available_cores()
    rows: list[Cells] = []
    for name, size in (("full size", takes.video_bytes), ("448p", takes.small_video_bytes)):
        hours = _hours(size * 8 / (megabits * 1e6))
        what = f"at most {_bytes(size)}, at {megabits:,.0f} Mbit/s"
        rows.append((f"download, {name}", what, *[hours] * len(cores)))
    work = f"{takes.masks:,} masks, {_bytes(takes.annotation_bytes)}"
    rows.append(
        ("ingest", work, *(_hours(takes.masks / per_core / number) for number in cores)),
    )
    sizes = (
        ("full size", EXO_PIXELS + EGO_PIXELS),
        ("448p", SMALL_EXO_PIXELS + SMALL_EGO_PIXELS),
    )
    for rate in rates:
        for name, pixels in sizes:
            seconds = takes.frames * FRAME_RATE * pixels / rate.pixels_per_core_second
            work = f"{2 * takes.frames * FRAME_RATE:,} frames gone through"
            hours = (_hours(seconds / number) for number in cores)
            rows.append((f"frames, {name}, if all are GOP {rate.group}", work, *hours))
    # Ego pictures are halved, exo pictures quartered: 704x704 and 960x540, nearly the same.
    written = 2 * takes.frames * max(rate.bytes_per_frame for rate in rates)
    kept = f"{2 * takes.frames:,} pictures, {_bytes(written)}"
    rows.append(("frames, on disk", kept, *[""] * len(cores)))
    return rows


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _bytes(count: float) -> str:
    return f"{count / 1e12:.1f} TB" if count >= 1e12 else f"{count / 1e9:.0f} GB"


def table(head: Cells, rows: list[Cells]) -> list[str]:
    """Markdown, with columns that line up in a terminal too."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    padded = [
        "| " + " | ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [head, *rows]
    ]
    return [padded[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *padded[1:]]


def write(page: Path, text: str) -> None:
    """Replace what stands between the marks of the page."""
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    main()
