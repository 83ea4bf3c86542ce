"""Time to read 20 of 600 frames of a 4K H.264 video, against peers and against decoding alone.

    python scripts/bench_video.py                    # all videos, GOP 30 and GOP 250
    python scripts/bench_video.py --folder videos    # keeps the videos for the next run

Each GOP size has two videos: a smooth one of constant quality, with large key frames, and a noisy
one at the bit rate of a camera, with frames of equal size. decord is measured in the two ways that
its documentation shows: many frames (`get_batch`) and frame by frame (`reader[idx]`); torchcodec by
`get_frames_at`. torchcodec is not a dependency (`pip install torchcodec`); where the machine has no
FFmpeg libraries it uses those of PyAV's wheel.

The limit is decoding alone: all packets go through FFmpeg's decoder, and no picture is made; by
`ffmpeg -f null` where it is installed, and by PyAV. Our processor time per packet is compared with
that of all packets, and with that of the packets that our reader decodes, which are larger than
average. docs/performance.md explains the ratios.

Each contender runs in a process of its own. The contenders take turns, and the best turn of each
counts. `rows()` returns the table to other scripts.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

FRAMES, READ_FRAMES, HEIGHT, WIDTH = 600, 20, 2160, 3840
GROUPS = (30, 250)
TURNS = 3
NOISY_MEGABITS = 20.0
"""Mbit/s."""
TORCHCODEC, FFMPEG = "torchcodec", "ffmpeg -f null"
DECODING, SAME_PACKETS = "decoding alone (PyAV)", "decoding our packets alone"
LIMITS = (FFMPEG, DECODING, SAME_PACKETS)
JPEG, SMALL_JPEG = "ours and a JPEG of each", "ours and a JPEG of each at a quarter"
"""As in the stage `frames`."""
Run = Callable[[], int | None]
"""The timed call; it may return the number of packets that it decoded."""
VIDEOS = {
    f"{content}, GOP {group}": (group, megabits)
    for content, megabits in (("smooth", None), ("noisy", NOISY_MEGABITS))
    for group in GROUPS
}


class Row(NamedTuple):
    """One comparison: two measurements (mostly seconds) and their ratio."""

    name: str
    ours: float
    peer: float
    ratio: float


class Turn(NamedTuple):
    seconds: float
    cpu_seconds: float
    peak_mb: float
    packets: int
    """Decoded packets; 0 if unknown."""


def rows(
    *,
    folder: Path | None = None,
    frames: int = FRAMES,
    turns: int = TURNS,
    videos: Sequence[str] = tuple(VIDEOS),
) -> list[Row]:
    """(name, our seconds, the peer's seconds, ratio) for each video and peer.

    Further rows for each video: processor time of all cores and peak memory in MB, both against
    decord, and processor milliseconds per packet against decoding alone. On a busy machine
    processor time varies less than wall time.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return rows(folder=Path(temporary), frames=frames, turns=turns, videos=videos)
    table: list[Row] = []
    for video in videos:
        group, megabits = VIDEOS[video]
        path = make_video(folder, frames=frames, group=group, megabits=megabits)
        best = measure(path, frames, turns=turns)
        ours = best["ours"]
        for peer, turn in best.items():
            if peer not in ("ours", JPEG, SMALL_JPEG):
                name = f"{READ_FRAMES} of {frames} 4K frames, {video}, against {peer}"
                table.append(Row(name, ours.seconds, turn.seconds, turn.seconds / ours.seconds))
        decord = best["decord, batch"]
        name = f"seconds of all cores, {video}, against decord, batch"
        seconds = ours.cpu_seconds, decord.cpu_seconds
        table.append(Row(name, *seconds, seconds[1] / seconds[0]))
        name = f"peak memory in MB, {video}, against decord, batch"
        table.append(Row(name, ours.peak_mb, decord.peak_mb, decord.peak_mb / ours.peak_mb))
        for writer in (JPEG, SMALL_JPEG):
            name = f"peak memory in MB, {video}, {writer}, against ours"
            peak = best[writer].peak_mb
            table.append(Row(name, peak, ours.peak_mb, ours.peak_mb / peak))
        table += limit_rows(video, best)
    return table


def limit_rows(video: str, best: Mapping[str, Turn]) -> list[Row]:
    """Processor time per packet of ours and of decoding alone, and the number of packets."""
    ours = best["ours"]
    rows = []
    for limit in LIMITS:
        if limit in best:
            alone = best[limit]
            costs = [1000 * turn.cpu_seconds / turn.packets for turn in (ours, alone)]
            name = f"ms of all cores per packet, {video}, against {limit}"
            rows.append(Row(name, *costs, costs[1] / costs[0]))
    packets = best[DECODING].packets
    name = f"packets decoded, {video}, of all"
    return [*rows, Row(name, ours.packets, packets, packets / ours.packets)]


def make_video(folder: Path, *, frames: int, group: int, megabits: float | None = None) -> Path:
    """Write a 4K H.264 video of a drifting textured plane, unless the folder has it.

    With `megabits` it has sensor noise and that bit rate (Mbit/s), like a camera's file; without,
    a constant quality, which for this plane gives some 3 Mbit/s.
    """
    path = folder / f"{frames}_{group}_{'smooth' if megabits is None else megabits}.mp4"
    if path.exists():
        return path
    import av
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    plane = cv2.resize(coarse, (WIDTH + 600, HEIGHT + 200), interpolation=cv2.INTER_CUBIC)
    noise = random.integers(0, 24, (HEIGHT + 64, WIDTH + 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        quality = {"crf": "26"} if megabits is None else {"b": f"{megabits}M"}
        stream.options = {"preset": "veryfast", "g": str(group), **quality}
        for number in range(frames):
            left, top = number % 600, number // 3 % 200
            picture = np.ascontiguousarray(plane[top : top + HEIGHT, left : left + WIDTH])
            if megabits is not None:
                right, down = random.integers(0, 64, 2)
                picture = cv2.add(picture, noise[down : down + HEIGHT, right : right + WIDTH])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def measure(path: Path, frames: int, *, turns: int) -> dict[str, Turn]:
    """The best turn of each contender at reading 20 frames anywhere in the video."""
    frame_idxs = np.random.default_rng(1).choice(frames, READ_FRAMES, replace=False)
    best: dict[str, Turn] = {}
    for _ in range(turns):
        for name in CONTENDERS:
            if name in missing():
                continue
            turn = _run_in_own_process(name, path, sorted(frame_idxs.tolist()))
            best[name] = min(turn, best.get(name, turn))
    packets = best[DECODING].packets
    if FFMPEG in best:
        best[FFMPEG] = best[FFMPEG]._replace(packets=packets)
    return best


def missing() -> dict[str, str]:
    """Contenders that cannot run on this machine → the reason."""
    reasons = {}
    if not shutil.which("ffmpeg"):
        reasons[FFMPEG] = "the ffmpeg program is not installed"
    if importlib.util.find_spec("torchcodec") is None:
        reasons[TORCHCODEC] = "not installed"
    return reasons


def _run_in_own_process(name: str, path: Path, frame_idxs: Sequence[int]) -> Turn:
    contender = json.dumps({"name": name, "path": str(path), "frame_idxs": list(frame_idxs)})
    command = [sys.executable, __file__, "--contender", contender]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ}
        if name == TORCHCODEC:
            environment["LD_LIBRARY_PATH"] = ffmpeg_libraries(Path(folder))
        output = subprocess.run(command, check=True, stdout=-1, text=True, env=environment).stdout
    return Turn(*json.loads(output))


def ffmpeg_libraries(folder: Path) -> str:
    """LD_LIBRARY_PATH with the machine's folders first, then those of PyAV's wheel.

    The wheel's file names contain a hash; links in `folder` have the names that FFmpeg gives.
    """
    import av

    bundled = Path(av.__file__).parents[1] / "av.libs"
    for path in bundled.glob("lib*.so.*"):
        if parts := re.fullmatch(r"(lib(?:av|sw)\w+)-[0-9a-f]{8}(\.so\.\d+).*", path.name):
            (folder / "".join(parts.groups())).symlink_to(path)
    return ":".join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), str(folder), str(bundled)]))


def _run_here(name: str, path: str, frame_idxs: list[int]) -> Turn:
    import resource

    contender = CONTENDERS[name](path, frame_idxs)  # imports happen before the clock starts
    before = time.process_time() if not name.startswith("ffmpeg") else 0.0
    started = time.perf_counter()
    packets = contender()
    seconds = time.perf_counter() - started
    who = resource.RUSAGE_CHILDREN if name.startswith("ffmpeg") else resource.RUSAGE_SELF
    usage = resource.getrusage(who)
    cpu_seconds = usage.ru_utime + usage.ru_stime - before
    peak = usage.ru_maxrss / 1024 if name.startswith("ffmpeg") else _peak_mb()
    return Turn(seconds, cpu_seconds, peak, packets or 0)


def _peak_mb() -> float:
    """Of this program alone: ru_maxrss includes the memory of the parent process at the start."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _ours(path: str, frame_idxs: list[int]) -> Run:
    from egoexo_tools.video.frames import ReadReport, read_frames

    def run() -> int:
        report = ReadReport()
        assert [idx for idx, _ in read_frames(path, frame_idxs, report=report)] == frame_idxs
        return report.packets_read

    return run


def _ours_jpeg(path: str, frame_idxs: list[int], scale: float) -> Run:
    from egoexo_tools.video.frames import read_frames
    from egoexo_tools.video.pictures import write_jpeg

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for frame_idx, rgb in read_frames(path, frame_idxs):
                write_jpeg(Path(folder, f"{frame_idx}.jpg"), rgb, scale=scale, quality=95)
                del rgb

    return run


def _decord_batch(path: str, frame_idxs: list[int]) -> Run:
    import decord

    def run() -> None:
        decord.VideoReader(path).get_batch(frame_idxs).asnumpy()

    return run


def _decord_single(path: str, frame_idxs: list[int]) -> Run:
    import decord

    def run() -> None:
        reader = decord.VideoReader(path)
        for frame_idx in frame_idxs:
            reader[frame_idx].asnumpy()

    return run


def _pyav(path: str, frame_idxs: list[int]) -> Run:
    import av

    def run() -> None:
        with av.open(path) as container:
            container.streams.video[0].thread_type = "AUTO"
            for idx, frame in enumerate(container.decode(video=0)):
                if idx in frame_idxs:
                    frame.to_ndarray(format="rgb24")
                if idx == frame_idxs[-1]:
                    return

    return run


def _torchcodec(path: str, frame_idxs: list[int]) -> Run:
    from torchcodec.decoders import VideoDecoder

    def run() -> None:
        # As documented for exact frames; with 0 threads FFmpeg uses all cores.
        decoder = VideoDecoder(path, seek_mode="exact", num_ffmpeg_threads=0)
        decoder.get_frames_at(frame_idxs).data.numpy()

    return run


def _decoding(path: str, frame_idxs: list[int]) -> Run:
    import av

    def run() -> int:
        with av.open(path) as container:
            container.streams.video[0].thread_type = "AUTO"
            return sum(1 for _ in container.decode(video=0))

    return run


def _same_packets(path: str, frame_idxs: list[int]) -> Run:
    """The packets that ours decodes, by one decoder with one thread; no picture is made."""
    import av

    from egoexo_tools.video.container import VideoFile
    from egoexo_tools.video.packets import reference_test
    from egoexo_tools.video.source import open_source

    with closing(open_source(path)) as source:
        file = VideoFile(source)
        is_reference = reference_test(file.codec, file.extradata)
        packet_groups = [
            [
                av.Packet(data)
                for number, data in enumerate(file.packets(run), run.start)
                if int(file.index.frame_idx[number]) in run.frame_idxs or is_reference(data)
            ]
            for run in file.index.spans(frame_idxs)
        ]
        decoder = file.new_decoder(1)

    def run() -> int:
        for packets in packet_groups:
            for packet in [*packets, None]:
                decoder.decode(packet)
            decoder.flush_buffers()
        return sum(map(len, packet_groups))

    return run


def _ffmpeg(path: str, frame_idxs: list[int]) -> Run:
    def run() -> None:
        quiet = ["ffmpeg", "-loglevel", "error", "-nostdin"]
        subprocess.run([*quiet, "-i", path, "-f", "null", "-"], check=True)

    return run


CONTENDERS: dict[str, Callable[[str, list[int]], Run]] = {
    "ours": _ours,
    JPEG: partial(_ours_jpeg, scale=1.0),
    SMALL_JPEG: partial(_ours_jpeg, scale=0.25),
    "decord, batch": _decord_batch,
    "decord, one by one": _decord_single,
    "PyAV from the beginning": _pyav,
    TORCHCODEC: _torchcodec,
    DECODING: _decoding,
    SAME_PACKETS: _same_packets,
    FFMPEG: _ffmpeg,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, help="Folder for the videos.  [a temporary one]")
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--videos", nargs="+", choices=list(VIDEOS), help="Only these.")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        print(json.dumps(_run_here(**json.loads(arguments.contender))))
        return
    table = rows(
        folder=arguments.folder,
        frames=arguments.frames,
        turns=arguments.turns,
        videos=arguments.videos or list(VIDEOS),
    )
    for name, reason in missing().items():
        print(f"{name}: not measured, {reason}")
    for name, ours, peer, ratio in table:
        print(f"{name:72s} {ours:8.2f} {peer:8.2f} {ratio:6.2f}x")


if __name__ == "__main__":
    main()
