"""Shared parts of the soak scripts: the command, its start and end, and comparing its root."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from soak_compare import differences

CHAIN = [
    "--backbone=efficientnet-lite0",
    "--direction=ego2exo",
    "--epochs=2",
    "--batch-pairs=8",
    "--quiet",
]
SECONDS_TO_END = 120
"""After a signal; a command that runs longer counts as hanging."""


class Finding(Exception):
    """Something was lost, or a command ended with the wrong exit code or message."""


@dataclass
class Tally:
    """The number of tests so far."""

    length: float = 15
    """Seconds of an uninterrupted run on this machine under its present load."""
    kills: Counter[str] = field(default_factory=Counter)
    """By name of the signal."""
    stages: Counter[str] = field(default_factory=Counter)
    """Kills by the stage that was running."""
    roots: int = 0
    """Roots that were finished and compared."""
    troubles: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        kills = ", ".join(f"{count} {name}" for name, count in sorted(self.kills.items()))
        stages = ", ".join(f"{name} {count}" for name, count in self.stages.most_common())
        troubles = "".join(f"; {count} {name}" for name, count in self.troubles.items())
        return (
            f"{self.kills.total()} kills ({kills or 'none'}), {self.roots} roots compared and "
            f"equal{troubles}\n  kills by stage: {stages or 'none'}"
        )


def chain(rng: random.Random | None = None) -> list[str]:
    """The command. Its executor is random, because it must not change the result."""
    executor = "inline" if rng is None else rng.choice(["inline", "inline", "process"])
    workers = ["--workers=2"] if executor == "process" else []
    return ["run", "root", "--release=../release", f"--executor={executor}", *workers, *CHAIN]


def start(
    folder: Path,
    command: list[str],
    *,
    env: Mapping[str, str] = os.environ,
    before: Callable[[], object] = lambda: None,
) -> "subprocess.Popen[bytes]":
    """Start the command in a process group of its own; its output goes to a file beside the folder.

    It runs in the folder with relative paths, because tables contain the path of their checkpoint.
    `before` is called in the new process.
    """

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # background jobs of a shell ignore SIGINT
        before()

    folder.mkdir(parents=True, exist_ok=True)
    with log_file(folder).open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "egoexo_tools.cli", *command],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**env, "PYTHONFAULTHANDLER": "1"},
            preexec_fn=prepare,
        )


def wait(process: "subprocess.Popen[bytes]", folder: Path, after: str) -> None:
    """Wait for the end of a command; one that hangs prints its threads' tracebacks first."""
    try:
        process.wait(timeout=SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        os.kill(
            process.pid, signal.SIGABRT
        )  # the fault handler prints the traceback of each thread
        process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise Finding(f"it hung after {after}:\n{log(folder)}") from None


def finish(folder: Path, command: list[str]) -> None:
    """Run the command to its end; Finding if it fails."""
    process = start(folder, command)
    if process.wait() != 0:
        raise Finding(f"exit code {process.returncode}, uninterrupted:\n{log(folder)}")


def compare(folder: Path) -> None:
    """Finding if the root differs from the uninterrupted one."""
    lines = differences(folder / "root", folder.parent / "uninterrupted" / "root")
    if lines:
        raise Finding("\n  ".join([f"{len(lines)} differences in {folder}", *lines[:20]]))


def log(folder: Path) -> str:
    """The end of the last command's output."""
    return log_file(folder).read_text(errors="replace")[-12000:]


def log_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")
