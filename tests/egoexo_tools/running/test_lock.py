"""Locks keep runs, shards and the workers of killed runs apart."""

import subprocess
import sys
from pathlib import Path

import pytest

from egoexo_tools.errors import DataError
from egoexo_tools.running.lock import shared_files_lock, stage_lock, worker_lock
from egoexo_tools.running.shard import Shard


def test_shards_of_one_division_exclude_all_other_runs(tmp_path: Path) -> None:
    with stage_lock(tmp_path, "s", shard=Shard(1, 3)), stage_lock(tmp_path, "s", shard=Shard(3, 3)):
        for other, message in (
            (None, "another s is running"),
            (Shard(3, 3), "another s --shard 3/3 is running"),
            (Shard(2, 4), "another number of shards"),
        ):
            with pytest.raises(DataError, match=message), stage_lock(tmp_path, "s", shard=other):
                pass
    with (
        stage_lock(tmp_path, "s"),
        pytest.raises(DataError, match="another s is running"),
        stage_lock(tmp_path, "s", shard=Shard(1, 3)),
    ):
        pass
    with stage_lock(tmp_path, "s", shard=Shard(2, 4)):
        pass


@pytest.mark.parametrize("before", [None, Shard(1, 2), Shard(1, 3)])
@pytest.mark.parametrize("now", [None, Shard(1, 2)])
def test_a_run_waits_for_workers_of_a_killed_run_which_then_stop(
    before: Shard | None, now: Shard | None, tmp_path: Path
) -> None:
    with stage_lock(tmp_path, "s", shard=before) as run:
        pass
    suffix = "" if before is None else f".{before.number}-of-{before.count}"
    (tmp_path / f".lock{suffix}").write_text(run.text)  # as a killed run leaves it
    with (
        worker_lock(tmp_path, run),
        pytest.raises(DataError, match="workers of an earlier s still write"),
        stage_lock(tmp_path, "s", shard=now, wait_seconds=0.1),
    ):
        pass
    (tmp_path / f".lock{suffix}").write_text(run.text)
    with (
        stage_lock(tmp_path, "s", shard=now),
        pytest.raises(DataError, match="its run has ended"),
        worker_lock(tmp_path, run),
    ):
        pass


def test_workers_of_other_shards_are_not_waited_for(tmp_path: Path) -> None:
    with (
        stage_lock(tmp_path, "s", shard=Shard(1, 2)) as run,
        worker_lock(tmp_path, run),
        stage_lock(tmp_path, "s", shard=Shard(2, 2), wait_seconds=0.1) as other,
        worker_lock(tmp_path, other),
        worker_lock(tmp_path, run),
    ):
        pass


def test_a_run_waits_for_workers_of_an_earlier_run_which_then_stop(tmp_path: Path) -> None:
    with stage_lock(tmp_path, "frames") as first:
        pass
    with pytest.raises(DataError, match="its run has ended"), worker_lock(tmp_path, first):
        pass
    with stage_lock(tmp_path, "frames") as run_id, worker_lock(tmp_path, run_id):
        (tmp_path / ".lock").unlink()  # as if the run was killed: its lock is gone
        with (
            pytest.raises(DataError, match="workers of an earlier frames still write"),
            stage_lock(tmp_path, "frames", wait_seconds=0.1),
        ):
            pass
    with stage_lock(tmp_path, "frames") as second, worker_lock(tmp_path, second):
        assert second != first


COUNT_UP = """
import sys
from pathlib import Path
from egoexo_tools.running.lock import shared_files_lock
folder = Path(sys.argv[1])
for _ in range(200):
    with shared_files_lock(folder):
        count = int((folder / "count").read_text())
        (folder / "count").write_text(str(count + 1))
"""


@pytest.mark.slow
def test_shared_files_are_written_one_after_the_other(tmp_path: Path) -> None:
    with shared_files_lock(tmp_path):
        (tmp_path / "count").write_text("0")
    processes = [
        subprocess.Popen([sys.executable, "-c", COUNT_UP, str(tmp_path)]) for _ in range(3)
    ]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "600"
