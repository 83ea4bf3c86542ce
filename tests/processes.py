"""Real commands in real processes, which tests kill, interrupt and compare."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from egoexo_tools.layout import PARTIAL_SUFFIX, Release

TESTS = str(Path(__file__).parent)


def file_contents(root: Path) -> dict[str, bytes]:
    """Relative path → content of every file; of status files, everything but the seconds."""
    contents = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not {".digests", ".videos"} & {path.name, path.parent.name}:
            content = path.read_bytes()
            if path.parent.parent.name == "status" and path.suffix == ".json":
                status = json.loads(content)
                assert status.pop("seconds") >= 0
                content = json.dumps(status).encode()
            contents[path.relative_to(root).as_posix()] = content
    return contents


def partial_files(root: Path) -> list[str]:
    return [path.name for path in root.rglob(f"*{PARTIAL_SUFFIX}")]


def file_size(path: Path) -> int:
    return path.stat().st_size


def stage_command(
    stage: str, root: Path, release: Release, *options: str, executor: str = "process"
) -> list[str]:
    """The command line of a stage that reads a release."""
    run = ["--quiet", "--executor", executor]
    if executor == "process":
        run += ["--workers", "2"]
    program = [sys.executable, "-c", "from egoexo_tools.cli import main; main()"]
    return [*program, stage, str(root), "--release", str(release.path), *run, *options]


def python_command(code: str, *arguments: object) -> list[str]:
    """Python code that can import the modules in tests/; its arguments start at sys.argv[2]."""
    code = f"import sys; sys.path.insert(0, sys.argv[1]); {code}"
    return [sys.executable, "-c", code, TESTS, *map(str, arguments)]


def start(
    arguments: list[str], *, preexec: Callable[[], None] | None = None
) -> "subprocess.Popen[str]":
    """Start a command in its own process group and with Ctrl-C enabled, as a shell does."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # background jobs of a shell ignore it
        if preexec is not None:
            preexec()

    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=prepare,
    )


def finish(arguments: list[str]) -> str:
    """Run a command that must succeed; returns its output."""
    process = start(arguments)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        kill_group(process)
    assert process.returncode == 0, err
    return out


def run_concurrently(*commands: list[str]) -> list[str]:
    """Run commands at the same time, which must all succeed; returns their outputs."""
    processes = [start(arguments) for arguments in commands]
    outputs = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        outputs.append(out)
    return outputs


def wait_until(
    condition: Callable[[], object], *, process: "subprocess.Popen[str] | None" = None
) -> None:
    """Wait for a condition; returns early when the process has ended."""
    deadline = time.monotonic() + 30
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.002)


def kill_group(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):  # it has already ended
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
