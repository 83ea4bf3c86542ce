"""Stages resume after real commands are killed, interrupted, or run out of disk space."""

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from processes import (
    file_contents,
    file_size,
    finish,
    kill_group,
    partial_files,
    python_command,
    stage_command,
    start,
    wait_until,
)
from stage_units import BEAT_SECONDS, run_beats

from egoexo_tools.layout import PARTIAL_SUFFIX, DatasetRoot, Release
from egoexo_tools.running.records import RunOptions, Unit, read_statuses
from egoexo_tools.running.stage import run_stage

pytestmark = pytest.mark.slow

INLINE = RunOptions(executor="inline", quiet=True)
KILLS = 20


def is_running(root: Path, stage: str, *, since: float) -> bool:
    """Whether a run has locked the stage since this time: the lock then has its id."""
    lock = DatasetRoot(root).status_dir(stage) / ".lock"
    return lock.exists() and lock.stat().st_size > 0 and lock.stat().st_mtime > since


@pytest.fixture(scope="module")
def ingested(tiny_release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root after an undisturbed ingest."""
    root = tmp_path_factory.mktemp("undisturbed") / "ingested"
    finish(stage_command("ingest", root, tiny_release))
    return root


@pytest.fixture(scope="module")
def framed(tiny_release: Release, ingested: Path) -> Path:
    """A root after an undisturbed ingest and frames."""
    root = ingested.with_name("framed")
    shutil.copytree(ingested, root)
    finish(stage_command("frames", root, tiny_release))
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
    files = len(file_contents(undisturbed)) - len(file_contents(root))
    units = len(read_statuses(DatasetRoot(undisturbed), stage))
    rng = random.Random(stage)
    kills = inside_a_unit = 0
    while kills < KILLS:
        executor = rng.choice(["inline", "inline", "process"])
        missing = max(0, len(file_contents(undisturbed)) - len(file_contents(root)))
        overwrite = [] if missing else ["--overwrite"]  # all is done, so do it again
        # Kill after a random number of the files that the run will write.
        count = rng.randrange(missing or files)
        started = time.time()
        process = start(stage_command(stage, root, tiny_release, *overwrite, executor=executor))
        wait_until(lambda t=started: is_running(root, stage, since=t), process=process)
        wait_until(lambda n=count, t=started: count_written(root, t) >= n, process=process)
        time.sleep(rng.uniform(0, 0.003))
        kill_group(process)
        kills += process.returncode == -signal.SIGKILL
        inside_a_unit += len(read_statuses(DatasetRoot(root), stage)) < units
    finish(stage_command(stage, root, tiny_release))
    assert file_contents(root) == file_contents(undisturbed)
    assert inside_a_unit >= KILLS // 2, "the kills were too early or too late"


def count_written(root: Path, since: float) -> int:
    """The number of files that a stage has written or started to write, without its locks."""
    count = 0
    for folder in ("processed", "manifests", "status"):
        for path in (root / folder).rglob("[!.]*.*"):
            with suppress(FileNotFoundError):  # it has just been renamed
                count += path.stat().st_mtime > since
    return count


@pytest.mark.parametrize("stage", ["ingest", "frames"])
def test_partial_files_of_a_killed_run_are_overwritten(
    stage: str, tiny_release: Release, ingested: Path, framed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    if stage == "frames":
        shutil.copytree(ingested, root)
    undisturbed = file_contents({"ingest": ingested, "frames": framed}[stage])
    for name in undisturbed.keys() - file_contents(root).keys():
        if not Path(name).name.startswith("."):
            leftover = root / f"{name}.0123456789ab{PARTIAL_SUFFIX}"
            leftover.parent.mkdir(parents=True, exist_ok=True)
            leftover.write_bytes(b"half")
    assert partial_files(root)
    finish(stage_command(stage, root, tiny_release, executor="inline"))
    assert file_contents(root) == undisturbed


@pytest.mark.parametrize("moment", ["workers start", "units run"])
def test_ctrl_c_prints_one_line_and_exits_with_130(
    moment: str, tiny_release: Release, framed: Path, root: Path
) -> None:
    started = time.time()
    process = start(stage_command("frames", root, tiny_release))
    if moment == "workers start":
        wait_until(lambda: len(psutil.Process(process.pid).children()) >= 2, process=process)
        time.sleep(0.15)  # during their imports Python answers Ctrl-C with a traceback
    else:
        wait_until(lambda: count_written(root, started) > 2, process=process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "Stopped. Finished units are kept; the same command continues.\n"
    # A worker that is stopped in the middle of a write leaves its partial file to the next run.
    finish(stage_command("frames", root, tiny_release))
    assert partial_files(root) == []
    assert file_contents(root) == file_contents(framed)


def start_beats(folder: Path) -> "subprocess.Popen[str]":
    """Run two beating units in another process; returns when both are writing their files."""
    code = "import pathlib, stage_units; stage_units.run_beats(pathlib.Path(sys.argv[2]))"
    process = start(python_command(code, folder))
    wait_until(
        lambda: len(partial_files(folder)) == 2 and all(map(file_size, folder.glob("*.partial")))
    )
    return process


def test_workers_of_a_killed_run_do_not_write_during_the_next(tmp_path: Path) -> None:
    process = start_beats(tmp_path)
    workers = psutil.Process(process.pid).children()
    process.kill()  # only the parent
    process.wait()

    def check_files(unit: Unit) -> dict[str, int]:
        before = [file_size(path) for path in sorted(tmp_path.glob("*.partial"))]
        time.sleep(20 * BEAT_SECONDS)
        after = [file_size(path) for path in sorted(tmp_path.glob("*.partial"))]
        assert len(before) == 2
        assert before == after
        return {}

    summary = run_stage(
        DatasetRoot(tmp_path), "beat", [Unit(("third",))], check_files, settings={}, options=INLINE
    )
    assert (summary.done, summary.failed) == (1, ())
    wait_until(lambda: not any(worker.is_running() for worker in workers))
    process.communicate()


def test_ctrl_c_and_a_time_limit_leave_no_half_written_file(tmp_path: Path) -> None:
    process = start_beats(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert partial_files(tmp_path) == []
    summary = run_beats(tmp_path, time_limit_seconds=0.3)
    assert [result.error for result in summary.failed] == [
        "took longer than 0.3 s and was stopped"
    ] * 2
    assert partial_files(tmp_path) == []


def test_a_full_disk_fails_units_that_a_later_run_completes(
    tiny_release: Release, ingested: Path, framed: Path, small_disk: Path
) -> None:
    root = small_disk / "root"
    shutil.copytree(ingested, root)
    free = shutil.disk_usage(root).free
    needed = sum(map(len, file_contents(framed).values())) - sum(
        map(len, file_contents(ingested).values())
    )
    filler = small_disk / "filler"
    filler.write_bytes(bytes(max(0, free - needed // 2)))
    for _ in range(2):
        process = start(stage_command("frames", root, tiny_release))
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "the disk is full; make room and run the same command again" in out + err
        assert "Traceback" not in out + err
        assert partial_files(root) == []
    assert "done" in {result.status for result in read_statuses(DatasetRoot(root), "frames")}
    filler.write_bytes(bytes(shutil.disk_usage(root).free + file_size(filler)))  # fill the disk
    process = start(stage_command("frames", root, tiny_release))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the disk is full" in out + err
    filler.unlink()
    finish(stage_command("frames", root, tiny_release))
    assert file_contents(root) == file_contents(framed)


def test_a_file_size_limit_fails_units_that_a_later_run_completes(
    tiny_release: Release, framed: Path, root: Path
) -> None:
    sizes = sorted(file_size(path) for path in framed.rglob("*.jpg"))
    limit = sizes[len(sizes) // 2]
    assert sizes[0] < limit

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = start(stage_command("frames", root, tiny_release, executor="inline"), preexec=lower)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a file would be larger than the limit" in out + err
    assert "Traceback" not in out + err
    assert partial_files(root) == []
    finish(stage_command("frames", root, tiny_release, executor="inline"))
    assert file_contents(root) == file_contents(framed)


def test_a_unit_that_always_fails_does_not_affect_the_others(
    tiny_release: Release, framed: Path, root: Path, tmp_path: Path
) -> None:
    release = Release(tmp_path / "release")
    shutil.copytree(tiny_release.path, release.path)
    video = sorted(release.path.glob("takes/*/frame_aligned_videos/cam*.mp4"))[0]
    content, times = video.read_bytes(), (video.stat().st_atime_ns, video.stat().st_mtime_ns)
    video.write_bytes(b"no video")
    units = len(read_statuses(DatasetRoot(framed), "frames"))
    for summary in (f"{units - 1} done", f"{units - 1} already done"):
        process = start(stage_command("frames", root, release, executor="inline"))
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert summary in out + err
        assert "1 failed: " in out + err
        assert str(video) in out + err
    assert partial_files(root) == []
    video.write_bytes(content)
    os.utime(video, ns=times)
    finish(stage_command("frames", root, release, executor="inline"))
    assert file_contents(root) == file_contents(framed)
