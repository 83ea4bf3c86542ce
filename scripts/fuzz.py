"""Feed the readers of external data with a million changed inputs; each must return or refuse.

    python scripts/fuzz.py                                  # 1,000,000, 20,000 and 2,000 inputs
    python scripts/fuzz.py --compiled 5000 --files 300 --videos 20
    python scripts/fuzz.py --seed 7 --only relations:1234   # one input again, with its traceback

The compiled loops (run lengths, LZString), the readers of files (relations, takes, splits,
predictions, annotations, COCO, SAM, pictures, stacks of masks) and of videos get inputs that
`fuzz_inputs.py` derives from valid ones. A reader must return a value or raise a DataError;
anything else is a finding: another exception, a crash, a minute without a result, or growing
memory. Inputs run in worker processes with a memory limit; every other worker checks the bounds of
the compiled loops. An input depends on seed, kind and number only. Findings are written to --keep
with their tracebacks.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__)
sys.path.insert(0, str(HERE.parents[1] / "tests"))

COUNTS = {"compiled": 1_000_000, "files": 20_000, "videos": 2_000}
CALLS_PER_WORKER = {"compiled": 2_000, "files": 2_000, "videos": 200, "selftest": 1}
"""Calls of a reader per worker; a call of a compiled reader has EACH inputs."""
MEMORY_BYTES = 3 << 29
SECONDS_EACH = 60
"""Wall time; long, because machines are busy and loops are compiled on first use."""
MAX_GROWTH_BYTES = 100 << 20
"""From a tenth of a worker's calls to their end; caches have filled before."""
MAX_FINDINGS = 20


@dataclass
class Tally:
    """Numbers of inputs by kind, and findings."""

    inputs: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    peak_memory: int = 0

    def text(self) -> str:
        lines = [
            f"  {kind:12}{count:>11,} inputs, {self.refused.get(kind, 0):,} refused"
            for kind, count in self.inputs.items()
        ]
        memory = f"{self.peak_memory / 1e6:,.0f} MB at most"
        return "\n".join([*lines, f"{len(self.findings)} findings, {memory}", *self.findings])


def main() -> int:
    options = parse()
    if options.worker:
        return run_inputs(options)
    if options.only:
        return repeat_input(options)
    tally = Tally()
    print(f"seed {options.seed}, load {os.getloadavg()[0]:.1f}", flush=True)
    for name, calls in plan(options).items():
        run_kind(name, calls, options, tally)
    print(tally.text())
    if options.selftest:
        return 0 if len(tally.findings) == 4 else 1
    return 1 if tally.findings else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for group, count in COUNTS.items():
        parser.add_argument(f"--{group}", type=int, default=count, help=f"Inputs.  [{count:,}]")
    parser.add_argument("--kinds", help="Only these, separated by commas.  [all]")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--only", metavar="KIND:NUMBER", help="Repeat one input.")
    parser.add_argument(
        "--seconds", type=int, default=SECONDS_EACH, help=f"Time limit per input.  [{SECONDS_EACH}]"
    )
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="For findings.")
    parser.add_argument("--selftest", action="store_true", help="Check that four faults are found.")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def plan(options: argparse.Namespace) -> dict[str, int]:
    """Kind → calls of its reader; the inputs of a group are divided evenly."""
    from fuzz_changes import EACH

    if options.selftest:
        return {"selftest": 5}
    selected = options.kinds.split(",") if options.kinds else list(all_kinds())
    groups: dict[str, list[str]] = {}
    for name in selected:
        kind = all_kinds()[name]
        groups.setdefault(kind.group, []).append(name)
    calls = {}
    for group, names in groups.items():
        inputs = -(-getattr(options, group) // len(names))
        calls |= {n: -(-inputs // EACH) if group == "compiled" else inputs for n in names}
    return calls


def run_kind(name: str, calls: int, options: argparse.Namespace, tally: Tally) -> None:
    """Run workers one after the other; after a crash the next starts with the following input."""
    group = all_kinds()[name].group
    first, workers, started = 0, 0, time.monotonic()
    while first < calls and len(tally.findings) < MAX_FINDINGS:
        stop = min(calls, first + CALLS_PER_WORKER[group])
        first = run_worker(name, first, stop, options, tally, checked=workers % 2 == 0)
        workers += 1
    seconds = time.monotonic() - started
    print(f"{name}: {tally.inputs.get(name, 0):,} inputs in {seconds:.0f} s", flush=True)


def run_worker(
    name: str, first: int, stop: int, options: argparse.Namespace, tally: Tally, *, checked: bool
) -> int:
    """Run inputs in one worker; returns the number of the next worker's first input."""
    environment = {**os.environ}
    if checked:  # with its own cache, because the machine code differs
        cache = Path(tempfile.gettempdir()) / "fuzz-numba-checked"
        environment |= {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, str(HERE), "--worker", name, str(first), str(stop)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [*command, "--seed", str(options.seed), "--keep", str(options.keep)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        assert process.stdout is not None
        at, report = follow(process, process.stdout, first, options)
        if report is None:
            errors.seek(0)
            end = f"ended with {process.returncode}" if process.returncode else "gave no result"
            keep(options, name, at, f"{end}\n{errors.read()[-2000:]}", tally)
            count(tally, name, at - first, 0)
            return at + 1
    count(tally, name, report["inputs"], report["refused"])
    tally.peak_memory = max(tally.peak_memory, report["memory"])
    for number, traceback_text in report["findings"]:
        keep(options, name, number, traceback_text, tally)
    if report["growth"] > MAX_GROWTH_BYTES:
        megabytes = report["growth"] / 1e6
        tally.findings.append(f"{name}:{first}..{stop} memory grew by {megabytes:.0f} MB")
    return stop


def follow(
    process: Any, lines: IO[str], first: int, options: argparse.Namespace
) -> tuple[int, dict[str, Any] | None]:
    """Read a worker's input numbers until its report; kill it if none comes for too long."""

    def stop(number: int, frame: object) -> None:
        process.kill()

    at, report = first, None
    before = signal.signal(signal.SIGALRM, stop)
    try:
        # Before its first input a worker imports libraries and compiles loops.
        signal.alarm(10 * SECONDS_EACH)
        for line in lines:
            signal.alarm(options.seconds)
            if line.startswith("{"):
                report = json.loads(line)
            elif line.strip().isdigit():
                at = int(line)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        process.wait()
    return at, report if process.returncode == 0 else None


def count(tally: Tally, name: str, inputs: int, refused: int) -> None:
    from fuzz_changes import EACH

    each = EACH if all_kinds()[name].group == "compiled" else 1
    tally.inputs[name] = tally.inputs.get(name, 0) + inputs * each
    tally.refused[name] = tally.refused.get(name, 0) + refused


def keep(options: argparse.Namespace, name: str, number: int, error: str, tally: Tally) -> None:
    """Add a line to the summary, and write the input and its error to files."""
    last = (error.strip().splitlines() or [""])[-1]
    tally.findings.append(f"--seed {options.seed} --only {name}:{number}   {last[:150]}")
    if name == "selftest":
        return
    options.keep.mkdir(parents=True, exist_ok=True)
    kind = all_kinds()[name]
    value = kind.make(random_of(options.seed, name, number))
    path = options.keep / f"{name}-{options.seed}-{number}{kind.suffix}"
    path.write_bytes(value if isinstance(value, bytes) else repr(value).encode())
    path.with_suffix(".why").write_text(error, errors="replace")


def run_inputs(options: argparse.Namespace) -> int:
    """In a worker: run inputs FIRST to STOP; each number is printed before its input is read."""
    from egoexo_tools.errors import DataError

    name, first, stop = options.worker[0], int(options.worker[1]), int(options.worker[2])
    kind = all_kinds()[name]
    kind_ready(kind, options.seed, name)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    findings: list[tuple[int, str]] = []
    refused, early = 0, 0
    for number in range(first, stop):
        print(number, flush=True)
        value = kind.make(random_of(options.seed, name, number))
        try:
            kind.read(value)
        except DataError as error:
            refused += 1
            if not str(error).strip():
                findings.append((number, "a DataError without a message"))
        except Exception:
            findings.append((number, traceback.format_exc()))
            if len(findings) >= MAX_FINDINGS:
                stop = number + 1
                break
        if number - first == (stop - first) // 10:
            early = memory()
    now = memory()
    report = {
        "inputs": stop - first,
        "refused": refused,
        "findings": findings,
        "memory": now,
        "growth": now - early if early else 0,
    }
    print(json.dumps(report), flush=True)
    return 0


def kind_ready(kind: Any, seed: int, name: str) -> None:
    """Run some inputs before the memory limit: this imports libraries and compiles loops."""
    for number in range(-5 if name != "selftest" else 0, 0):
        with suppress(Exception):  # an error here is found again below
            kind.read(kind.make(random_of(seed, name, number)))


def repeat_input(options: argparse.Namespace) -> int:
    """Run one input in this process."""
    name, _, number = options.only.partition(":")
    value = all_kinds()[name].make(random_of(options.seed, name, int(number)))
    print(repr(value)[:2000])
    print(all_kinds()[name].read(value))
    return 0


def random_of(seed: int, name: str, number: int) -> random.Random:
    return random.Random(f"{seed}:{name}:{number}")


def memory() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def all_kinds() -> dict[str, Any]:
    from fuzz_changes import Kind

    if "--selftest" in sys.argv or "selftest" in sys.argv:
        return {"selftest": Kind("selftest", lambda rng: rng, misbehave)}
    if not _KINDS:
        from fuzz_inputs import kinds

        _KINDS.update(kinds())
    return _KINDS


_KINDS: dict[str, Any] = {}


def misbehave(rng: random.Random) -> object:
    """Fail in four ways, or succeed, depending on the worker's first number."""
    number = int(sys.argv[sys.argv.index("selftest") + 1])
    if number == 0:
        raise ZeroDivisionError
    if number == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 2:
        time.sleep(100 * SECONDS_EACH)
    if number == 3:
        return bytearray(2 * MEMORY_BYTES)
    return None


if __name__ == "__main__":
    sys.exit(main())
