import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from egoexo_tools.errors import DataError, SettingsError, StageFailed
from egoexo_tools.layout import DatasetRoot, write_atomic
from egoexo_tools.running.inputs import MISSING, FileDigests, hash_files
from egoexo_tools.running.records import RunOptions, Unit, read_status, read_statuses
from egoexo_tools.running.stage import run_stage, setting_changes

INLINE = RunOptions(executor="inline", quiet=True)
NAMES = ("apple", "bread", "cup")


def write_number(unit: Unit, *, folder: Path, number: int = 1) -> dict[str, int]:
    """Counts its own calls in a file beside its output."""
    (name,) = unit.key
    with (folder / f"{name}.calls").open("a") as calls:
        calls.write("x")
    if (folder / f"{name}.bad").exists():
        raise DataError(f"{name} cannot be read")
    write_atomic(folder / f"{name}.out", str(number))
    return {"files": 1}


def misbehave(unit: Unit) -> dict[str, int]:
    """Does what its name says, in a worker process."""
    if unit.key[0] == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if unit.key[0] == "hang":
        time.sleep(60)
    if unit.key[0] == "bug":
        raise ZeroDivisionError("oh")
    return {"files": 1}


@pytest.fixture
def root(tmp_path: Path) -> DatasetRoot:
    return DatasetRoot(tmp_path / "root")


def units(folder: Path, *names: str) -> list[Unit]:
    return [
        Unit((name,), inputs=(folder / f"{name}.in",), outputs=(folder / f"{name}.out",))
        for name in names
    ]


def calls(folder: Path) -> dict[str, int]:
    return {path.stem: len(path.read_text()) for path in sorted(folder.glob("*.calls"))}


def test_done_once_is_not_done_again(root: DatasetRoot, tmp_path: Path) -> None:
    work = partial(write_number, folder=tmp_path)
    first = run_stage(root, "s", units(tmp_path, *NAMES), work, settings={}, options=INLINE)
    second = run_stage(root, "s", units(tmp_path, *NAMES), work, settings={}, options=INLINE)
    assert (first.done, first.skipped, first.counts) == (3, 0, {"files": 3})
    assert (second.done, second.skipped, second.counts) == (0, 3, {"files": 3})
    assert calls(tmp_path) == {"apple": 1, "bread": 1, "cup": 1}


def test_a_changed_input_or_a_lost_output_is_done_anew(root: DatasetRoot, tmp_path: Path) -> None:
    work = partial(write_number, folder=tmp_path)
    run_stage(root, "s", units(tmp_path, *NAMES), work, settings={}, options=INLINE)
    (tmp_path / "bread.in").write_text("new")
    (tmp_path / "cup.out").unlink()
    again = run_stage(root, "s", units(tmp_path, *NAMES), work, settings={}, options=INLINE)
    assert (again.done, again.skipped) == (2, 1)
    assert calls(tmp_path) == {"apple": 1, "bread": 2, "cup": 2}


def test_a_setting_that_came_later_has_none_as_its_default() -> None:
    assert setting_changes({"size": 2}, {"size": 2, "later": None}) == ""
    assert setting_changes({"size": 2}, {"size": 2, "later": 1}) == "later=None, now 1"


def test_other_settings_are_refused_by_name(root: DatasetRoot, tmp_path: Path) -> None:
    work = partial(write_number, folder=tmp_path)
    run_stage(root, "s", units(tmp_path, "cup"), work, settings={"n": 1, "m": 2}, options=INLINE)
    with pytest.raises(
        SettingsError, match=r"s was done with n=1, now 3 \(unit cup\).*--overwrite"
    ):
        run_stage(
            root, "s", units(tmp_path, "cup"), work, settings={"n": 3, "m": 2}, options=INLINE
        )
    redo = RunOptions(executor="inline", quiet=True, overwrite=True)
    summary = run_stage(
        root, "s", units(tmp_path, "cup"), work, settings={"n": 3, "m": 2}, options=redo
    )
    assert summary.done == 1
    status = read_status(root, "s", "cup")
    assert status is not None and status.settings == {"n": 3, "m": 2}


def test_a_unit_that_was_cut_off_while_redone_is_not_done(
    root: DatasetRoot, tmp_path: Path
) -> None:
    def cut_off(unit: Unit) -> dict[str, int]:
        write_number(unit, folder=tmp_path, number=2)
        raise KeyboardInterrupt

    work = partial(write_number, folder=tmp_path)
    run_stage(root, "s", units(tmp_path, "cup"), work, settings={"n": 1}, options=INLINE)
    redo = RunOptions(executor="inline", quiet=True, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        run_stage(root, "s", units(tmp_path, "cup"), cut_off, settings={"n": 2}, options=redo)
    run_stage(root, "s", units(tmp_path, "cup"), work, settings={"n": 1}, options=INLINE)
    assert (tmp_path / "cup.out").read_text() == "1"


def test_a_failure_is_recorded_grouped_and_retried(root: DatasetRoot, tmp_path: Path) -> None:
    work = partial(write_number, folder=tmp_path)
    (tmp_path / "bread.bad").touch()
    summary = run_stage(root, "s", units(tmp_path, *NAMES), work, settings={}, options=INLINE)
    assert summary.done == 2
    with pytest.raises(StageFailed, match=r"1 failed: bread cannot be read \[bread\]"):
        summary.check()
    assert [status.status for status in read_statuses(root, "s")] == ["done", "failed", "done"]
    (tmp_path / "bread.bad").unlink()
    again = run_stage(root, "s", units(tmp_path, *NAMES), work, settings={}, options=INLINE)
    assert (again.done, again.skipped, again.failed) == (1, 2, ())


@pytest.mark.slow
def test_a_crash_a_hang_and_a_bug_fail_their_unit_only(root: DatasetRoot) -> None:
    names = ("crash", "fine", "hang", "bug", "also fine")
    options = RunOptions(executor="process", workers=2, quiet=True, time_limit_seconds=3)
    summary = run_stage(
        root, "s", [Unit((name,)) for name in names], misbehave, settings={}, options=options
    )
    errors = {result.unit: result.error or "" for result in summary.failed}
    assert summary.done == 2
    assert "its worker died" in errors["crash"]
    assert errors["hang"] == "took longer than 3 s and was stopped"
    assert errors["bug"] == "ZeroDivisionError: oh"
    trace = root.status_dir("s") / "bug.trace.txt"
    assert f"please report it with {trace}" in summary.text()
    assert "ZeroDivisionError" in trace.read_text() and "Traceback" in trace.read_text()


@pytest.mark.slow
def test_dask_workers_do_a_whole_stage(root: DatasetRoot, tmp_path: Path) -> None:
    work = partial(write_number, folder=tmp_path)
    options = RunOptions(executor="dask", workers=2, quiet=True)
    summary = run_stage(root, "s", units(tmp_path, *NAMES), work, settings={}, options=options)
    assert (summary.done, summary.failed) == (3, ())
    assert calls(tmp_path) == {"apple": 1, "bread": 1, "cup": 1}


def test_two_runs_of_a_stage_do_not_mix(root: DatasetRoot, tmp_path: Path) -> None:
    def work(unit: Unit) -> dict[str, int]:
        with pytest.raises(DataError, match="another s is running"):
            run_stage(root, "s", [unit], work, settings={}, options=INLINE)
        return {}

    assert run_stage(root, "s", [Unit(("a",))], work, settings={}, options=INLINE).done == 1


def test_a_damaged_status_file_is_named(root: DatasetRoot) -> None:
    write_atomic(root.status("s", "a"), "{")
    with pytest.raises(DataError, match=r"a\.json is damaged .*; delete it and run s again"):
        run_stage(root, "s", [Unit(("a",))], misbehave, settings={}, options=INLINE)


def test_a_hash_of_inputs_changes_when_a_file_does_comes_or_goes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("1")
    gone = hash_files([first, second])
    second.write_text("1")
    both = hash_files([first, second])
    second.write_text("2")
    known = FileDigests()
    other = hash_files([first, second], digests=known)
    assert len({gone, both, other, hash_files([second, first])}) == 4
    assert hash_files([first, second]) == other == hash_files([first, second], digests=known)
    second.write_text("3")
    assert hash_files([first, second], digests=known) == hash_files([first, second]) != other


def test_digests_are_remembered_from_process_to_process(tmp_path: Path) -> None:
    file, memory = tmp_path / "a", tmp_path / "digests.json"
    file.write_text("1")
    first = FileDigests(memory)
    known = first.of(file)
    first.save()
    # Changed behind its stamp, as nothing here does: only so can a reader be caught reading.
    stat = file.stat()
    with file.open("r+") as opened:
        opened.write("2")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert FileDigests(memory).of(file) == known != FileDigests().of(file)
    file.unlink()
    assert FileDigests(memory).of(file) == MISSING
    file.write_text("1")
    memory.write_text("{not json")
    assert FileDigests(memory).of(file) == known
