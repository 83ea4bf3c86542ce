"""Resume proven by force: real commands in real processes are killed, stopped and starved."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from egoexo_tools.errors import DataError
from egoexo_tools.layout import PARTIAL_SUFFIX, DatasetRoot, Release, atomic_path
from egoexo_tools.running.lock import stage_lock, worker_lock
from egoexo_tools.running.records import RunOptions, StageSummary, Unit, read_statuses
from egoexo_tools.running.stage import run_stage

pytestmark = pytest.mark.slow

INLINE = RunOptions(executor="inline", quiet=True)
KILLS = 20
BEAT_SECONDS = 0.01


def tree(root: Path) -> dict[str, bytes]:
    """Relative path → content of every file; of status files, everything but the seconds."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.parent.parent.name == "status" and path.suffix == ".json":
                status = json.loads(content)
                assert status.pop("seconds") >= 0
                content = json.dumps(status).encode()
            found[path.relative_to(root).as_posix()] = content
    return found


def partials(root: Path) -> list[str]:
    return [path.name for path in root.rglob(f"*{PARTIAL_SUFFIX}")]


def command(
    stage: str, root: Path, release: Release, *options: str, executor: str = "process"
) -> list[str]:
    run = ["--quiet", "--executor", executor]
    if executor == "process":
        run += ["--workers", "2"]
    program = [sys.executable, "-c", "from egoexo_tools.cli import main; main()"]
    return [*program, stage, str(root), "--release", str(release.path), *run, *options]


def start(
    arguments: list[str], *, preexec: Callable[[], None] | None = None
) -> "subprocess.Popen[str]":
    """In a process group of its own, as a shell starts it: with Ctrl-C at work."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job of a shell ignores it
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
    """Runs to its end, which must be a good one; what it printed."""
    process = start(arguments)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        kill_group(process)
    assert process.returncode == 0, err
    return out


def until(
    happened: Callable[[], object], *, process: "subprocess.Popen[str] | None" = None
) -> None:
    """Waits for something; also back when the process has ended."""
    give_up = time.monotonic() + 30
    while not happened() and (process is None or process.poll() is None):
        assert time.monotonic() < give_up, "it never happened"
        time.sleep(0.002)


def running(root: Path, stage: str, *, since: float) -> bool:
    """Whether a run has taken the stage since: its lock then names it."""
    lock = DatasetRoot(root).status_dir(stage) / ".lock"
    return lock.exists() and lock.stat().st_size > 0 and lock.stat().st_mtime > since


def kill_group(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):  # it has ended before its moment
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def ingested(tiny_release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root after an undisturbed ingest."""
    root = tmp_path_factory.mktemp("undisturbed") / "ingested"
    finish(command("ingest", root, tiny_release))
    return root


@pytest.fixture(scope="module")
def framed(tiny_release: Release, ingested: Path) -> Path:
    """A root after an undisturbed ingest and frames."""
    root = ingested.with_name("framed")
    shutil.copytree(ingested, root)
    finish(command("frames", root, tiny_release))
    return root


@pytest.fixture
def root(ingested: Path, tmp_path: Path) -> Path:
    shutil.copytree(ingested, tmp_path / "root")
    return tmp_path / "root"


@pytest.mark.parametrize("stage", ["ingest", "frames"])
def test_killed_at_20_random_moments(
    stage: str, tiny_release: Release, ingested: Path, framed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    if stage == "frames":
        shutil.copytree(ingested, root)
    undisturbed = {"ingest": ingested, "frames": framed}[stage]
    files = len(tree(undisturbed)) - len(tree(root))
    units = len(read_statuses(DatasetRoot(undisturbed), stage))
    rng = random.Random(stage)
    kills = inside_a_unit = 0
    while kills < KILLS:
        executor = rng.choice(["inline", "inline", "process"])
        left = max(0, len(tree(undisturbed)) - len(tree(root)))
        overwrite = [] if left else ["--overwrite"]  # all is done: do it again
        # The moment is when so many of the files that are to be written have been.
        last = rng.randrange(left or files)
        began = time.time()
        process = start(command(stage, root, tiny_release, *overwrite, executor=executor))
        until(lambda t=began: running(root, stage, since=t), process=process)
        until(lambda n=last, t=began: written_since(root, t) >= n, process=process)
        time.sleep(rng.uniform(0, 0.003))
        kill_group(process)
        kills += process.returncode == -signal.SIGKILL
        inside_a_unit += len(read_statuses(DatasetRoot(root), stage)) < units
    finish(command(stage, root, tiny_release))
    assert tree(root) == tree(undisturbed)
    assert inside_a_unit >= KILLS // 2, "the kills came too early or too late to prove anything"


def written_since(root: Path, moment: float) -> int:
    """How many files a stage has written, or begun to, besides its locks."""
    count = 0
    for folder in ("processed", "manifests", "status"):
        for path in (root / folder).rglob("[!.]*.*"):
            with suppress(FileNotFoundError):  # it was renamed this moment
                count += path.stat().st_mtime > moment
    return count


@pytest.mark.parametrize("stage", ["ingest", "frames"])
def test_what_a_killed_writer_left_is_overwritten(
    stage: str, tiny_release: Release, ingested: Path, framed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    if stage == "frames":
        shutil.copytree(ingested, root)
    undisturbed = tree({"ingest": ingested, "frames": framed}[stage])
    for name in undisturbed.keys() - tree(root).keys():
        if not Path(name).name.startswith("."):
            leftover = root / f"{name}{PARTIAL_SUFFIX}"
            leftover.parent.mkdir(parents=True, exist_ok=True)
            leftover.write_bytes(b"half")
    assert partials(root)
    finish(command(stage, root, tiny_release, executor="inline"))
    assert tree(root) == undisturbed


@pytest.mark.parametrize("moment", ["workers start", "units run"])
def test_ctrl_c_ends_with_one_line_and_130(
    moment: str, tiny_release: Release, framed: Path, root: Path
) -> None:
    began = time.time()
    process = start(command("frames", root, tiny_release))
    if moment == "workers start":
        until(lambda: len(psutil.Process(process.pid).children()) >= 2, process=process)
        time.sleep(0.15)  # they import now, and Python would answer Ctrl-C with a traceback
    else:
        until(lambda: written_since(root, began) > 2, process=process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, partials(root)) == (130, "", [])
    assert err == "Stopped. Finished units are kept; the same command continues.\n"
    finish(command("frames", root, tiny_release))
    assert tree(root) == tree(framed)


SLOW_TO_BEGIN = """
import os, sys, time
from pathlib import Path

folder = Path(sys.argv[1])
if __name__ == "__mp_main__":
    try:
        (folder / "first").mkdir()
    except FileExistsError:
        time.sleep(1.5)  # the others import while the first one ends

def work(number):
    (folder / "works").touch()
    try:
        time.sleep(60)
    finally:
        time.sleep(2.5)
        (folder / "cleaned").touch()

if __name__ == "__main__":
    from egoexo_tools.running.executors import open_executor

    try:
        with open_executor("process", workers=4) as submit:
            for number in range(4):
                submit(work, number)
            while not (folder / "works").exists():
                time.sleep(0.01)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        print("stopped")
"""


def test_a_worker_that_begins_while_another_ends_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_TO_BEGIN)
    command = [sys.executable, tmp_path / "slow.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")
    assert (tmp_path / "cleaned").exists()


def beat(unit: Unit, *, folder: Path, seconds: float = 60) -> dict[str, int]:
    """Writes on and on, as a long decoding does."""
    with atomic_path(folder / unit.name) as path, path.open("ab", buffering=0) as file:
        for _ in range(round(seconds / BEAT_SECONDS)):
            file.write(b"x")
            time.sleep(BEAT_SECONDS)
    return {}


def beat_stage(folder: Path, *, time_limit_seconds: float | None = None) -> StageSummary:
    """Two units that beat for a minute, in two processes."""
    options = RunOptions(
        executor="process", workers=2, quiet=True, time_limit_seconds=time_limit_seconds
    )
    work = partial(beat, folder=folder)
    units = [Unit(("first",)), Unit(("second",))]
    return run_stage(DatasetRoot(folder), "beat", units, work, settings={}, options=options)


def start_beats(folder: Path) -> "subprocess.Popen[str]":
    """The same in a process of its own; back when both units are in the middle of their file."""
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import test_resume; "
        "test_resume.beat_stage(pathlib.Path(sys.argv[2]))"
    )
    process = start([sys.executable, "-c", code, str(Path(__file__).parents[2]), str(folder)])
    until(lambda: len(partials(folder)) == 2 and all(map(file_size, folder.glob("*.partial"))))
    return process


def file_size(path: Path) -> int:
    return path.stat().st_size


def test_workers_of_a_killed_run_do_not_write_beside_the_next(tmp_path: Path) -> None:
    process = start_beats(tmp_path)
    workers = psutil.Process(process.pid).children()
    process.kill()  # the parent alone
    process.wait()

    def look(unit: Unit) -> dict[str, int]:
        before = [file_size(path) for path in sorted(tmp_path.glob("*.partial"))]
        time.sleep(20 * BEAT_SECONDS)
        after = [file_size(path) for path in sorted(tmp_path.glob("*.partial"))]
        assert len(before) == 2
        assert before == after
        return {}

    summary = run_stage(
        DatasetRoot(tmp_path), "beat", [Unit(("third",))], look, settings={}, options=INLINE
    )
    assert (summary.done, summary.failed) == (1, ())
    until(lambda: not any(worker.is_running() for worker in workers))
    process.communicate()


def test_ctrl_c_and_a_time_limit_leave_no_half_written_file(tmp_path: Path) -> None:
    process = start_beats(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert partials(tmp_path) == []
    summary = beat_stage(tmp_path, time_limit_seconds=0.3)
    assert [result.error for result in summary.failed] == [
        "took longer than 0.3 s and was stopped"
    ] * 2
    assert partials(tmp_path) == []


def test_a_run_waits_for_workers_of_an_earlier_one_and_they_give_up(tmp_path: Path) -> None:
    with stage_lock(tmp_path, "frames") as first:
        pass
    with pytest.raises(DataError, match="its run has ended"), worker_lock(tmp_path, first):
        pass
    with stage_lock(tmp_path, "frames") as run_id, worker_lock(tmp_path, run_id):
        (tmp_path / ".lock").unlink()  # as good as a killed run: its lock is gone
        with (
            pytest.raises(DataError, match="workers of an earlier frames still write"),
            stage_lock(tmp_path, "frames", wait_seconds=0.1),
        ):
            pass
    with stage_lock(tmp_path, "frames") as second, worker_lock(tmp_path, second):
        assert second != first


def test_a_full_disk_fails_units_and_the_rest_follows(
    tiny_release: Release, ingested: Path, framed: Path, small_disk: Path
) -> None:
    root = small_disk / "root"
    shutil.copytree(ingested, root)
    free = shutil.disk_usage(root).free
    needed = sum(map(len, tree(framed).values())) - sum(map(len, tree(ingested).values()))
    filler = small_disk / "filler"
    filler.write_bytes(bytes(max(0, free - needed // 2)))
    for _ in range(2):
        process = start(command("frames", root, tiny_release))
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "the disk is full; make room and run the same command again" in out + err
        assert "Traceback" not in out + err
        assert partials(root) == []
    assert "done" in {result.status for result in read_statuses(DatasetRoot(root), "frames")}
    filler.write_bytes(bytes(shutil.disk_usage(root).free + file_size(filler)))  # nothing is left
    process = start(command("frames", root, tiny_release))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the disk is full" in out + err
    filler.unlink()
    finish(command("frames", root, tiny_release))
    assert tree(root) == tree(framed)


def test_a_file_size_limit_fails_units_and_the_rest_follows(
    tiny_release: Release, framed: Path, root: Path
) -> None:
    sizes = sorted(file_size(path) for path in framed.rglob("*.jpg"))
    limit = sizes[len(sizes) // 2]
    assert sizes[0] < limit

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = start(command("frames", root, tiny_release, executor="inline"), preexec=lower)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a file would be larger than the limit" in out + err
    assert "Traceback" not in out + err
    assert partials(root) == []
    finish(command("frames", root, tiny_release, executor="inline"))
    assert tree(root) == tree(framed)


def test_a_unit_that_always_fails_leaves_the_others_done(
    tiny_release: Release, framed: Path, root: Path, tmp_path: Path
) -> None:
    release = Release(tmp_path / "release")
    shutil.copytree(tiny_release.path, release.path)
    video = sorted(release.path.glob("takes/*/frame_aligned_videos/cam*.mp4"))[0]
    whole = video.read_bytes()
    video.write_bytes(b"no video")
    units = len(read_statuses(DatasetRoot(framed), "frames"))
    for done in (f"{units - 1} done", f"{units - 1} already done"):
        process = start(command("frames", root, release, executor="inline"))
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert done in out + err
        assert "1 failed: " in out + err
        assert str(video) in out + err
    assert partials(root) == []
    video.write_bytes(whole)
    finish(command("frames", root, release, executor="inline"))
    assert tree(root) == tree(framed)
