"""Time to get 20 frames out of 600 of a 4K H.264 video, against decord, PyAV and FFmpeg.

    python scripts/bench_video.py                 # GOP 30 and GOP 250, a table
    python scripts/bench_video.py --folder /tmp/v # keep the videos for the next time

Two videos for each size of the groups: a smooth one of constant quality, whose key frames weigh
most, and a noisy one of a camera's rate, in which all frames cost alike. decord is measured as
its documentation has it for many frames (`get_batch`) and frame by frame (`reader[idx]`).

Each contender runs in a process of its own, in turns, and its best turn counts; peak memory is
that process's. `rows()` gives the table to other scripts.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

FRAMES, WANTED, HEIGHT, WIDTH = 600, 20, 2160, 3840
GROUPS = (30, 250)
TURNS = 3
NOISY_MEGABITS = 20.0
"""A second."""
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


def rows(
    *, folder: Path | None = None, frames: int = FRAMES, turns: int = TURNS
) -> list[tuple[str, float, float, float]]:
    """(name, our seconds, the peer's seconds, ratio) for each video and peer.

    Two more for each video: seconds of all cores together, and peak memory in MB, both against
    decord. On a busy machine the former is the steadier one.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return rows(folder=Path(temporary), frames=frames, turns=turns)
    table: list[tuple[str, float, float, float]] = []
    for video, (group, megabits) in VIDEOS.items():
        path = video_path(folder, frames=frames, group=group, megabits=megabits)
        make_video(path, frames=frames, group=group, megabits=megabits)
        best = measure(path, wanted_frames(frames), turns=turns)
        ours = best["ours"]
        for peer, turn in best.items():
            if peer != "ours":
                name = f"{WANTED} of {frames} 4K frames, {video}, against {peer}"
                table.append(Row(name, ours.seconds, turn.seconds, turn.seconds / ours.seconds))
        decord = best["decord, batch"]
        name = f"seconds of all cores, {video}, against decord, batch"
        seconds = ours.cpu_seconds, decord.cpu_seconds
        table.append(Row(name, *seconds, seconds[1] / seconds[0]))
        name = f"peak memory in MB, {video}, against decord, batch"
        table.append(Row(name, ours.peak_mb, decord.peak_mb, decord.peak_mb / ours.peak_mb))
    return table


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
    names = [name for name in CONTENDERS if name != "ffmpeg -f null" or shutil.which("ffmpeg")]
    best: dict[str, Turn] = {}
    for _ in range(turns):
        for name in names:
            turn = _in_own_process(name, path, wanted)
            best[name] = min(turn, best.get(name, turn))
    return best


def _in_own_process(name: str, path: Path, wanted: Sequence[int]) -> Turn:
    arguments = [json.dumps({"name": name, "path": str(path), "wanted": list(wanted)})]
    command = [sys.executable, __file__, "--one", *arguments]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Turn(*json.loads(answer))


def _one(name: str, path: str, wanted: list[int]) -> Turn:
    import resource

    contender = CONTENDERS[name](path, wanted)  # imports happen before the clock starts
    before = time.process_time() if not name.startswith("ffmpeg") else 0.0
    started = time.perf_counter()
    contender()
    seconds = time.perf_counter() - started
    who = resource.RUSAGE_CHILDREN if name.startswith("ffmpeg") else resource.RUSAGE_SELF
    used = resource.getrusage(who)
    cpu_seconds = used.ru_utime + used.ru_stime - before
    return Turn(
        seconds, cpu_seconds, used.ru_maxrss / 1024 if name.startswith("ffmpeg") else _peak_mb()
    )


def _peak_mb() -> float:
    """Of this program alone: ru_maxrss begins with the memory of the process that started it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _ours(path: str, wanted: list[int]) -> Callable[[], None]:
    from egoexo_tools.video.frames import read_frames

    def run() -> None:
        assert [idx for idx, _ in read_frames(path, wanted)] == wanted

    return run


def _decord_batch(path: str, wanted: list[int]) -> Callable[[], None]:
    import decord

    def run() -> None:
        decord.VideoReader(path).get_batch(wanted).asnumpy()

    return run


def _decord_single(path: str, wanted: list[int]) -> Callable[[], None]:
    import decord

    def run() -> None:
        reader = decord.VideoReader(path)
        for frame_idx in wanted:
            reader[frame_idx].asnumpy()

    return run


def _pyav(path: str, wanted: list[int]) -> Callable[[], None]:
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


def _ffmpeg(path: str, wanted: list[int]) -> Callable[[], None]:
    def run() -> None:
        quiet = ["ffmpeg", "-loglevel", "error", "-nostdin"]
        subprocess.run([*quiet, "-i", path, "-f", "null", "-"], check=True)

    return run


CONTENDERS: dict[str, Callable[[str, list[int]], Callable[[], None]]] = {
    "ours": _ours,
    "decord, batch": _decord_batch,
    "decord, one by one": _decord_single,
    "PyAV from the beginning": _pyav,
    "ffmpeg -f null": _ffmpeg,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, help="where the videos are kept")
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_one(**json.loads(arguments.one))))
        return
    table = rows(folder=arguments.folder, frames=arguments.frames, turns=arguments.turns)
    for name, ours, peer, ratio in table:
        print(f"{name:72s} {ours:8.2f} {peer:8.2f} {ratio:6.2f}x")


if __name__ == "__main__":
    main()
