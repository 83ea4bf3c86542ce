"""What the soak's parts share: the chain's command, how it is started, ended and looked at."""

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
"""That a command has, after a signal, until it counts as hanging."""


class Finding(Exception):
    """Something was lost, or a command ended as it must not."""


@dataclass
class Tally:
    """What was done so far."""

    length: float = 15
    """Seconds that an undisturbed run takes on this machine, as it is loaded now."""
    kills: Counter[str] = field(default_factory=Counter)
    """By signal."""
    stages: Counter[str] = field(default_factory=Counter)
    """By the stage in which they came."""
    roots: int = 0
    """That came through and were compared."""
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
    """The command; where units run is no part of the result."""
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
    """In a process group of its own; its output goes to a file beside the folder.

    From the folder, with relative paths: tables name the checkpoint that they are of. `before` is
    called in the new process.
    """

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job of a shell ignores it
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
    """For the end of a command; one that hangs is asked where."""
    try:
        process.wait(timeout=SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGABRT)  # the fault handler prints each thread's place
        process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise Finding(f"it hung after {after}:\n{log(folder)}") from None


def finish(folder: Path, command: list[str]) -> None:
    """To a good end."""
    process = start(folder, command)
    if process.wait() != 0:
        raise Finding(f"exit code {process.returncode}, undisturbed:\n{log(folder)}")


def compare(folder: Path) -> None:
    """Finding where a root differs from the undisturbed one."""
    found = differences(folder / "root", folder.parent / "undisturbed" / "root")
    if found:
        raise Finding("\n  ".join([f"{len(found)} differences in {folder}", *found[:20]]))


def log(folder: Path) -> str:
    """The end of what the last command printed."""
    return log_file(folder).read_text(errors="replace")[-12000:]


def log_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")
