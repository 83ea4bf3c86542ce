"""Kills `egoexo-tools run` at random moments, again and again, and looks for what was lost.

    python scripts/soak.py --kills 1000           # or: make soak KILLS=1000
    python scripts/soak.py --minutes 10           # or: make soak MINUTES=10

A tiny synthetic release goes through the whole chain, training and prediction included, once
undisturbed. Then the same command is started on another root and ended by SIGKILL, SIGTERM or
SIGINT (to it alone, or to it and its workers) until a start comes through; the root must then
equal the undisturbed one by content (`soak_compare.py`), and the next one begins, from nothing or
with --overwrite over what is done. Full disks, a lost network and killed Dask workers come first
(`soak_troubles.py`). The first difference ends it, with exit code 1, and the root is kept.

Moments come from --seed, but what runs at a moment depends on the machine: a finding may not come
again. What was going on is in the log beside the root.
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
        soak(work, options, rng, tally)
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
    parser.add_argument("--kills", type=int, help="End after so many.")
    parser.add_argument("--minutes", type=float, help="End after so long, whichever is first.")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--folder", help="Work here and keep it.  [a temporary one]")
    parser.add_argument("--troubles", type=int, default=2, help="Of each kind, before.  [2]")
    options = parser.parse_args()
    if options.kills is None and options.minutes is None:
        parser.error("give --kills or --minutes")
    return options


def soak(work: Path, options: argparse.Namespace, rng: random.Random, tally: Tally) -> None:
    ends = time.monotonic() + 60 * (options.minutes or float("inf"))
    release = work / "release"
    synthesize(release, RELEASE, quiet=True, workers=1)
    started = time.monotonic()
    finish(work / "undisturbed", chain())
    tally.length = time.monotonic() - started
    print(f"an undisturbed run takes {tally.length:.0f} s", flush=True)
    for _ in range(options.troubles):
        if time.monotonic() < ends:
            all_troubles(work, rng, tally)
            print(tally.text(), flush=True)
    kills = options.kills if options.kills is not None else sys.maxsize
    told = time.monotonic()
    overwrite = False
    while tally.kills.total() < kills and time.monotonic() < ends:
        through(work / "killed", rng, tally, overwrite=overwrite, ends=ends)
        overwrite = rng.random() < 0.25
        if not overwrite:
            shutil.rmtree(work / "killed")
        if time.monotonic() - told > SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            print(tally.text(), flush=True)


def through(
    folder: Path, rng: random.Random, tally: Tally, *, overwrite: bool, ends: float
) -> None:
    """Start the chain, kill it, start it again, until it comes through; then compare.

    When the time is over it is let through.
    """
    first = ["--overwrite"] if overwrite else []
    while time.monotonic() < ends:
        if killed(folder, [*chain(rng), *first], rng, tally):
            break
        first = []
    else:
        finish(folder, [*chain(rng), *first])
    compare(folder)
    tally.roots += 1


def killed(folder: Path, command: list[str], rng: random.Random, tally: Tally) -> bool:
    """Start, and kill at a random moment; True where it came to its end before."""
    began = time.monotonic()
    process = start(folder, command)
    number, group = rng.choice(SIGNALS), rng.random() < 0.5
    try:
        process.wait(timeout=rng.uniform(0, tally.length))
        # The machine's load changes: moments beyond the end would never kill.
        tally.length = (tally.length + time.monotonic() - began) / 2
    except subprocess.TimeoutExpired:
        stage = stage_in(log(folder))
        # Ctrl-C is the whole group's; the others go to one process as often as to all.
        send(process, folder, number, to_all=number == signal.SIGINT or group)
        # Python itself is not up yet, and says so in a way of its own.
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
    """A signal, and wait for what it does."""
    with suppress(ProcessLookupError):
        (os.killpg if to_all else os.kill)(process.pid, number)
    wait(process, folder, number.name + (" to all processes" if to_all else ""))


def stage_in(text: str) -> str:
    """The last stage that a log announces."""
    found = re.findall(r"^\[\d+/\d+\] (\w+)", text, re.MULTILINE)
    return found[-1] if found else "start"


if __name__ == "__main__":
    sys.exit(main())
