"""Faults outside the program: a full disk, a lost network, a dying Dask worker.

Each test lets the command fail with a clear message, removes the cause, starts the command again
until it finishes, and compares the roots. Without the right to mount a file system, a limit on file
sizes replaces the full disk.
"""

import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
from soak_compare import differences
from soak_runs import CHAIN, Finding, Tally, chain, compare, finish, log, start, wait

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

STARTS = 20
"""Most starts of one command until it finishes."""
FULL_DISK_MESSAGES = ("the disk is full", "a file would be larger than the limit")


def all_troubles(work: Path, rng: random.Random, tally: Tally) -> None:
    """Run each test once, in its own folder."""
    for name, trouble in TROUBLES.items():
        folder = work / name.replace(" ", "-")
        trouble(folder, rng, tally)
        shutil.rmtree(folder)


def full_disk(folder: Path, rng: random.Random, tally: Tally) -> None:
    """On a file system that is too small and grows with each start."""
    needed = sum(path.stat().st_size for path in (folder.parent / "uninterrupted").rglob("*"))
    size = int(needed * rng.uniform(0.02, 0.5))
    folder.mkdir()
    if not mount(folder, size):
        return small_files(folder, rng, tally)
    try:
        for _ in range(STARTS):
            if finishes(folder, chain()):
                break
            tally.troubles["full disks"] += 1
            size += int(needed * rng.uniform(0.1, 0.4))
            mount(folder, size, again=True)
        else:
            raise Finding(f"it never finished on {size} bytes:\n{log(folder)}")
        compare(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(folder: Path, size: int, *, again: bool = False) -> bool:
    """Mount a file system of this many bytes in memory, or enlarge it; False if not allowed."""
    options = f"remount,size={size}" if again else f"size={size}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


def small_files(folder: Path, rng: random.Random, tally: Tally) -> None:
    """With a limit on the size of each file."""
    limit = rng.randrange(2_000, 2_000_000)
    lower = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    if not finishes(folder, chain(), before=lower):
        tally.troubles["full disks"] += 1
        finish(folder, chain())
    compare(folder)


def finishes(
    folder: Path, command: list[str], *, before: Callable[[], object] = lambda: None
) -> bool:
    """Whether the command finishes; otherwise its message must say that the disk is full."""
    process = start(folder, command, before=before)
    process.wait()
    if process.returncode == 0:
        return True
    output = log(folder)
    if "Traceback" in output or not any(text in output for text in FULL_DISK_MESSAGES):
        raise Finding(f"a full disk ended with exit code {process.returncode}:\n{output}")
    return False


def lost_network(folder: Path, rng: random.Random, tally: Tally) -> None:
    """The bucket's server stops and starts while frames are cut from its videos."""
    from s3_server import running_server, upload_release

    from egoexo_tools.layout import Release

    release = Release(folder.parent / "release")
    folder.mkdir()
    port = free_port()
    command = ["download", "release", "--from-s3", "--root=root", "--executor=inline", "--quiet"]
    losses = 0
    for number in range(STARTS):
        with running_server(folder, port) as server:
            source = upload_release(server, release, "soak", folder / f"upload-{number}")
            keys = {**os.environ, **server.environment(folder)}
            process = start(folder, [*command, f"--source={source}"], env=keys)
            last = number == STARTS - 1
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=None if last else rng.uniform(0.05, 0.5) * tally.length)
        wait(process, folder, "its server ended")
        if process.returncode == 0 and (losses or last):
            break
        if process.returncode == 0:  # it finished before its server stopped: start from nothing
            shutil.rmtree(folder / "root")
            shutil.rmtree(folder / "release")
            continue
        losses += 1
        tally.troubles["lost networks"] += 1
        if process.returncode != 1 or "Traceback" in log(folder):
            raise Finding(f"a lost network ended with {process.returncode}:\n{log(folder)}")
    else:
        raise Finding(f"it never finished:\n{log(folder)}")
    compared = ("processed/", "manifests/takes/", "manifests/masks/", "manifests/frames/")
    lines = differences(folder / "root", folder.parent / "uninterrupted" / "root")
    if lines := [line for line in lines if line.startswith(compared)]:
        raise Finding("\n  ".join([f"{len(lines)} differences in {folder}", *lines[:20]]))


def dying_workers(folder: Path, rng: random.Random, tally: Tally) -> None:
    """Two Dask workers, of which a random one is killed once or twice per run."""
    with cluster(folder) as (address, nannies):
        dask = ["--executor=dask", f"--scheduler={address}"]
        command = ["run", "root", "--release=../release", *dask, *CHAIN]
        for _ in range(STARTS):
            process = start(folder, command)
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=rng.uniform(0.2, 1) * tally.length)
                workers = [child for nanny in nannies for child in nanny.children(recursive=True)]
                if process.poll() is None and workers:
                    with suppress(psutil.NoSuchProcess):
                        rng.choice(workers).kill()
                        tally.troubles["killed Dask workers"] += 1
            if process.returncode == 0:
                break
            if "Traceback" in log(folder):
                raise Finding(f"a killed worker ended with:\n{log(folder)}")
        else:
            raise Finding(f"it never finished:\n{log(folder)}")
    compare(folder)


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[psutil.Process]]]:
    """A scheduler and two workers, each restarted by its nanny."""
    folder.mkdir()
    address = f"tcp://127.0.0.1:{free_port()}"
    dask = [sys.executable, "-m", "dask"]
    worker = ["worker", address, "--nthreads=1", "--no-dashboard", f"--local-directory={folder}"]
    commands = [
        ["scheduler", f"--host={address}", "--no-dashboard", "--no-jupyter"],
        worker,
        worker,
    ]
    processes = []
    try:
        for arguments in commands:
            with (folder / f"dask-{len(processes)}.txt").open("wb") as out:
                processes.append(
                    subprocess.Popen([*dask, *arguments], cwd=folder, stdout=out, stderr=out)
                )
        yield address, [psutil.Process(process.pid) for process in processes[1:]]
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGINT)
        for process in reversed(processes):
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            process.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


TROUBLES: dict[str, Callable[[Path, random.Random, Tally], None]] = {
    "full disk": full_disk,
    "lost network": lost_network,
    "dying workers": dying_workers,
}
