"""Kill `egoexo-tools run` at random moments and check that nothing is lost.

    python scripts/soak.py --kills 1000           # or: make soak KILLS=1000
    python scripts/soak.py --minutes 10           # or: make soak MINUTES=10

A tiny synthetic release goes through the whole pipeline once, including training and prediction.
Then the same command is started on another root and ended by SIGKILL, SIGTERM or SIGINT (sent to
it alone, or also to its workers) until one start finishes. The root must then have the same content
as the uninterrupted one (`soak_compare.py`). The next round starts with an empty root, or with
--overwrite on the finished one. Full disks, a lost network and killed Dask workers are tested first
(`soak_troubles.py`). The first difference ends the program with exit code 1, and the root is kept.

The moments come from --seed, but what runs at a moment depends on the machine, so a finding may
not be repeatable. The log beside the root shows what was running.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from soak_runs import Finding, Tally, chain, compare, finish, log, start, wait
from soak_troubles import all_troubles

from egoexo_tools.synthetic import SyntheticOptions, synthesize

RELEASE = SyntheticOptions(
    scale=0.1, train_takes=1, val_takes=1, test_takes=1, objects_per_take=4, annotated_frames=2
)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ENDED_BY_A_KILL = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 130}
SECONDS_BETWEEN_LINES = 30


def main() -> int:
    options = parse()
    rng, tally = random.Random(options.seed), Tally()
    work = Path(options.folder or tempfile.mkdtemp(prefix="soak-"))
    print(f"seed {options.seed}, in {work}, load {os.getloadavg()[0]:.1f}", flush=True)
    try:
        run_all(work, options, rng, tally)
    except Finding as finding:
        print(f"FOUND: {finding}\n{tally.text()}\nkept: {work}", flush=True)
        return 1
    print(tally.text(), flush=True)
    if options.folder is None:
        shutil.rmtree(work)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, help="Number of kills after which to end.")
    parser.add_argument(
        "--minutes", type=float, help="Minutes after which to end, if before --kills."
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--folder", help="Folder to work in and to keep.  [a temporary one]")
    parser.add_argument(
        "--troubles",
        type=int,
        default=2,
        help="Rounds of full disk, lost network and killed workers.  [2]",
    )
    options = parser.parse_args()
    if options.kills is None and options.minutes is None:
        parser.error("give --kills or --minutes")
    return options


def run_all(work: Path, options: argparse.Namespace, rng: random.Random, tally: Tally) -> None:
    deadline = time.monotonic() + 60 * (options.minutes or float("inf"))
    release = work / "release"
    synthesize(release, RELEASE, quiet=True, workers=1)
    started = time.monotonic()
    finish(work / "uninterrupted", chain())
    tally.length = time.monotonic() - started
    print(f"an uninterrupted run takes {tally.length:.0f} s", flush=True)
    for _ in range(options.troubles):
        if time.monotonic() < deadline:
            all_troubles(work, rng, tally)
            print(tally.text(), flush=True)
    kills = options.kills if options.kills is not None else sys.maxsize
    printed = time.monotonic()
    overwrite = False
    while tally.kills.total() < kills and time.monotonic() < deadline:
        kill_until_finished(work / "killed", rng, tally, overwrite=overwrite, deadline=deadline)
        overwrite = rng.random() < 0.25
        if not overwrite:
            shutil.rmtree(work / "killed")
        if time.monotonic() - printed > SECONDS_BETWEEN_LINES:
            printed = time.monotonic()
            print(tally.text(), flush=True)


def kill_until_finished(
    folder: Path, rng: random.Random, tally: Tally, *, overwrite: bool, deadline: float
) -> None:
    """Start the pipeline and kill it until one start finishes; then compare the roots.

    After the deadline it is no longer killed.
    """
    first = ["--overwrite"] if overwrite else []
    while time.monotonic() < deadline:
        if finished_despite_kill(folder, [*chain(rng), *first], rng, tally):
            break
        first = []
    else:
        finish(folder, [*chain(rng), *first])
    compare(folder)
    tally.roots += 1


def finished_despite_kill(
    folder: Path, command: list[str], rng: random.Random, tally: Tally
) -> bool:
    """Start the command and kill it at a random moment; True if it finished before."""
    began = time.monotonic()
    process = start(folder, command)
    number, group = rng.choice(SIGNALS), rng.random() < 0.5
    try:
        process.wait(timeout=rng.uniform(0, tally.length))
        # The machine's load changes; with an old duration many moments would lie after the end.
        tally.length = (tally.length + time.monotonic() - began) / 2
    except subprocess.TimeoutExpired:
        stage = stage_in(log(folder))
        # Ctrl-C reaches the whole group; the other signals go to one process or to all.
        send(process, folder, number, to_all=number == signal.SIGINT or group)
        # Before our code runs, Python itself reports the interruption, with its own exit code.
        too_early = stage == "start" and "\nKeyboardInterrupt" in log(folder)
        if process.returncode in ENDED_BY_A_KILL or (process.returncode and too_early):
            tally.kills[number.name] += 1
            tally.stages[stage] += 1
            return False
    if process.returncode != 0:
        raise Finding(f"exit code {process.returncode}:\n{log(folder)}")
    return True


def send(
    process: "subprocess.Popen[bytes]", folder: Path, number: signal.Signals, *, to_all: bool
) -> None:
    """Send a signal and wait for the end of the process."""
    with suppress(ProcessLookupError):
        (os.killpg if to_all else os.kill)(process.pid, number)
    wait(process, folder, number.name + (" to all processes" if to_all else ""))


def stage_in(text: str) -> str:
    """The last stage that a log announces."""
    stages = re.findall(r"^\[\d+/\d+\] (\w+)", text, re.MULTILINE)
    return stages[-1] if stages else "start"


if __name__ == "__main__":
    sys.exit(main())
