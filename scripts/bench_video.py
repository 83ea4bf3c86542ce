"""Time to get 20 frames out of 600 of a 4K H.264 video, against peers and against decoding alone.

    python scripts/bench_video.py                 # GOP 30 and GOP 250, a table
    python scripts/bench_video.py --folder /tmp/v # keep the videos for the next time

Two videos for each size of the groups: a smooth one of constant quality, whose key frames weigh
most, and a noisy one of a camera's rate, in which all frames cost alike. decord is measured as
its documentation has it for many frames (`get_batch`) and frame by frame (`reader[idx]`),
torchcodec by `get_frames_at`. It is not among our packages: `pip install torchcodec`; FFmpeg's
libraries come from PyAV's wheel where the machine has none.

The limit is decoding alone: every packet of the video through FFmpeg's decoder, no picture made;
by `ffmpeg -f null` where it is installed, and by PyAV. Ours is compared with it by the packet, in
processor time, and with decoding just the packets that ours decodes, which are the larger ones.
docs/performance.md says how to read the ratios.

Each contender runs in a process of its own, in turns, and its best turn counts; peak memory is
that process's. `rows()` gives the table to other scripts.
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

FRAMES, WANTED, HEIGHT, WIDTH = 600, 20, 2160, 3840
GROUPS = (30, 250)
TURNS = 3
NOISY_MEGABITS = 20.0
"""A second."""
TORCHCODEC, FFMPEG = "torchcodec", "ffmpeg -f null"
DECODING, SAME = "decoding alone (PyAV)", "decoding our packets alone"
LIMITS = (FFMPEG, DECODING, SAME)
JPEG, SMALL_JPEG = "ours and a JPEG of each", "ours and a JPEG of each at a quarter"
"""As the stage `frames` does it."""
Run = Callable[[], int | None]
"""What is timed; it may say how many packets it decoded."""
VIDEOS = {
    f"{content}, GOP {group}": (group, megabits)
    for content, megabits in (("smooth", None), ("noisy", NOISY_MEGABITS))
    for group in GROUPS
}


class Row(NamedTuple):
    """One comparison; seconds, and how many times faster we are."""

    name: str
    ours: float
    peer: float
    ratio: float


class Turn(NamedTuple):
    seconds: float
    cpu_seconds: float
    peak_mb: float
    packets: int
    """That were decoded; 0 where nobody knows."""


def rows(
    *,
    folder: Path | None = None,
    frames: int = FRAMES,
    turns: int = TURNS,
    videos: Sequence[str] = tuple(VIDEOS),
) -> list[tuple[str, float, float, float]]:
    """(name, our seconds, the peer's seconds, ratio) for each video and peer.

    More for each video: seconds of all cores together, and peak memory in MB, both against decord;
    and the milliseconds of all cores that a packet costs, against decoding alone. On a busy
    machine processor time is the steadier one.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return rows(folder=Path(temporary), frames=frames, turns=turns, videos=videos)
    table: list[tuple[str, float, float, float]] = []
    for video in videos:
        group, megabits = VIDEOS[video]
        path = video_path(folder, frames=frames, group=group, megabits=megabits)
        make_video(path, frames=frames, group=group, megabits=megabits)
        best = measure(path, wanted_frames(frames), turns=turns)
        ours = best["ours"]
        for peer, turn in best.items():
            if peer not in ("ours", JPEG, SMALL_JPEG):
                name = f"{WANTED} of {frames} 4K frames, {video}, against {peer}"
                table.append(Row(name, ours.seconds, turn.seconds, turn.seconds / ours.seconds))
        decord = best["decord, batch"]
        name = f"seconds of all cores, {video}, against decord, batch"
        seconds = ours.cpu_seconds, decord.cpu_seconds
        table.append(Row(name, *seconds, seconds[1] / seconds[0]))
        name = f"peak memory in MB, {video}, against decord, batch"
        table.append(Row(name, ours.peak_mb, decord.peak_mb, decord.peak_mb / ours.peak_mb))
        for written in (JPEG, SMALL_JPEG):
            name = f"peak memory in MB, {video}, {written}, against ours"
            peak = best[written].peak_mb
            table.append(Row(name, peak, ours.peak_mb, ours.peak_mb / peak))
        table += limit_rows(video, best)
    return table


def limit_rows(video: str, best: Mapping[str, Turn]) -> list[Row]:
    """What a packet costs, ours and where nothing but decoding is done; how many ours are."""
    ours = best["ours"]
    rows = []
    for limit in LIMITS:
        if limit in best:
            alone = best[limit]
            costs = [1000 * turn.cpu_seconds / turn.packets for turn in (ours, alone)]
            name = f"ms of all cores a packet, {video}, against {limit}"
            rows.append(Row(name, *costs, costs[1] / costs[0]))
    packets = best[DECODING].packets
    name = f"packets decoded, {video}, of all"
    return [*rows, Row(name, ours.packets, packets, packets / ours.packets)]


def wanted_frames(frames: int) -> list[int]:
    """20 frames anywhere in the video, the same each time."""
    return sorted(np.random.default_rng(1).choice(frames, WANTED, replace=False).tolist())


def video_path(folder: Path, *, frames: int, group: int, megabits: float | None) -> Path:
    return folder / f"{frames}_{group}_{'smooth' if megabits is None else megabits}.mp4"


def make_video(path: Path, *, frames: int, group: int, megabits: float | None = None) -> Path:
    """A 4K H.264 video: a textured plane that drifts.

    With `megabits` it also has a sensor's noise and that rate a second, as a camera's file does;
    without, a constant quality, which for such a plane is some 3 Mbit/s.
    """
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


def measure(path: Path, wanted: Sequence[int], *, turns: int) -> dict[str, Turn]:
    """The best turn of each contender, taken in turns so that a busy moment hits all alike."""
    best: dict[str, Turn] = {}
    for _ in range(turns):
        for name in CONTENDERS:
            if name in missing():
                continue
            turn = _in_own_process(name, path, wanted)
            best[name] = min(turn, best.get(name, turn))
    packets = best[DECODING].packets
    if FFMPEG in best:
        best[FFMPEG] = best[FFMPEG]._replace(packets=packets)
    return best


def missing() -> dict[str, str]:
    """Contenders that are not on this machine, and why."""
    found = {}
    if not shutil.which("ffmpeg"):
        found[FFMPEG] = "no ffmpeg here"
    if importlib.util.find_spec("torchcodec") is None:
        found[TORCHCODEC] = "not installed"
    return found


def _in_own_process(name: str, path: Path, wanted: Sequence[int]) -> Turn:
    arguments = [json.dumps({"name": name, "path": str(path), "wanted": list(wanted)})]
    command = [sys.executable, __file__, "--one", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ}
        if name == TORCHCODEC:
            environment["LD_LIBRARY_PATH"] = ffmpeg_libraries(Path(folder))
        answer = subprocess.run(command, check=True, stdout=-1, text=True, env=environment).stdout
    return Turn(*json.loads(answer))


def ffmpeg_libraries(folder: Path) -> str:
    """LD_LIBRARY_PATH with the machine's folders first, then FFmpeg's as PyAV's wheel has them.

    There their names hold a hash; links give them the names by which others ask for them.
    """
    import av

    bundled = Path(av.__file__).parents[1] / "av.libs"
    for path in bundled.glob("lib*.so.*"):
        if parts := re.fullmatch(r"(lib(?:av|sw)\w+)-[0-9a-f]{8}(\.so\.\d+).*", path.name):
            (folder / "".join(parts.groups())).symlink_to(path)
    return ":".join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), str(folder), str(bundled)]))


def _one(name: str, path: str, wanted: list[int]) -> Turn:
    import resource

    contender = CONTENDERS[name](path, wanted)  # imports happen before the clock starts
    before = time.process_time() if not name.startswith("ffmpeg") else 0.0
    started = time.perf_counter()
    packets = contender()
    seconds = time.perf_counter() - started
    who = resource.RUSAGE_CHILDREN if name.startswith("ffmpeg") else resource.RUSAGE_SELF
    used = resource.getrusage(who)
    cpu_seconds = used.ru_utime + used.ru_stime - before
    peak = used.ru_maxrss / 1024 if name.startswith("ffmpeg") else _peak_mb()
    return Turn(seconds, cpu_seconds, peak, packets or 0)


def _peak_mb() -> float:
    """Of this program alone: ru_maxrss begins with the memory of the process that started it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _ours(path: str, wanted: list[int]) -> Run:
    from egoexo_tools.video.frames import ReadReport, read_frames

    def run() -> int:
        report = ReadReport()
        assert [idx for idx, _ in read_frames(path, wanted, report=report)] == wanted
        return report.packets_read

    return run


def _ours_jpeg(path: str, wanted: list[int], scale: float) -> Run:
    from egoexo_tools.video.frames import read_frames
    from egoexo_tools.video.pictures import write_jpeg

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for frame_idx, rgb in read_frames(path, wanted):
                write_jpeg(Path(folder, f"{frame_idx}.jpg"), rgb, scale=scale, quality=95)
                del rgb

    return run


def _decord_batch(path: str, wanted: list[int]) -> Run:
    import decord

    def run() -> None:
        decord.VideoReader(path).get_batch(wanted).asnumpy()

    return run


def _decord_single(path: str, wanted: list[int]) -> Run:
    import decord

    def run() -> None:
        reader = decord.VideoReader(path)
        for frame_idx in wanted:
            reader[frame_idx].asnumpy()

    return run


def _pyav(path: str, wanted: list[int]) -> Run:
    import av

    def run() -> None:
        left = set(wanted)
        with av.open(path) as container:
            container.streams.video[0].thread_type = "AUTO"
            for idx, frame in enumerate(container.decode(video=0)):
                if idx in left:
                    left.remove(idx)
                    frame.to_ndarray(format="rgb24")
                if not left:
                    return

    return run


def _torchcodec(path: str, wanted: list[int]) -> Run:
    from torchcodec.decoders import VideoDecoder

    def run() -> None:
        # As documented for exact frames; 0 threads: FFmpeg's own choice, which is all cores.
        decoder = VideoDecoder(path, seek_mode="exact", num_ffmpeg_threads=0)
        decoder.get_frames_at(wanted).data.numpy()

    return run


def _decoding(path: str, wanted: list[int]) -> Run:
    import av

    def run() -> int:
        with av.open(path) as container:
            container.streams.video[0].thread_type = "AUTO"
            return sum(1 for _ in container.decode(video=0))

    return run


def _same_packets(path: str, wanted: list[int]) -> Run:
    """The packets that ours decodes, through one decoder of one thread; no picture is made."""
    import av

    from egoexo_tools.video.container import VideoFile
    from egoexo_tools.video.packets import reference_test
    from egoexo_tools.video.source import open_source

    with closing(open_source(path)) as source:
        file = VideoFile(source)
        is_reference = reference_test(file.codec, file.extradata)
        chosen = [
            [
                av.Packet(data)
                for number, data in enumerate(file.packets(run), run.start)
                if int(file.index.frame_idx[number]) in run.frame_idxs or is_reference(data)
            ]
            for run in file.index.spans(wanted)
        ]
        decoder = file.new_decoder(1)

    def run() -> int:
        for packets in chosen:
            for packet in [*packets, None]:
                decoder.decode(packet)
            decoder.flush_buffers()
        return sum(map(len, chosen))

    return run


def _ffmpeg(path: str, wanted: list[int]) -> Run:
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
    SAME: _same_packets,
    FFMPEG: _ffmpeg,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, help="where the videos are kept")
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--videos", nargs="+", choices=list(VIDEOS), help="only these")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_one(**json.loads(arguments.one))))
        return
    table = rows(
        folder=arguments.folder,
        frames=arguments.frames,
        turns=arguments.turns,
        videos=arguments.videos or list(VIDEOS),
    )
    for name, why in missing().items():
        print(f"{name}: not measured, {why}")
    for name, ours, peer, ratio in table:
        print(f"{name:72s} {ours:8.2f} {peer:8.2f} {ratio:6.2f}x")


if __name__ == "__main__":
    main()
