"""Stages: what is skipped, redone, rejected and recorded."""

from functools import partial
from pathlib import Path

import pytest
from stage_units import misbehave, write_number

from egoexo_tools.errors import DataError, SettingsError, StageFailed
from egoexo_tools.layout import DatasetRoot, write_atomic
from egoexo_tools.running.records import RunOptions, Unit, read_status, read_statuses
from egoexo_tools.running.stage import run_stage, setting_changes

INLINE = RunOptions(executor="inline", quiet=True)
NAMES = ("apple", "bread", "cup")


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


def test_units_that_are_done_are_skipped(root: DatasetRoot, tmp_path: Path) -> None:
    work = partial(write_number, folder=tmp_path)
    first = run_stage(root, "s", units(tmp_path, *NAMES), work, settings={}, options=INLINE)
    second = run_stage(root, "s", units(tmp_path, *NAMES), work, settings={}, options=INLINE)
    assert (first.done, first.skipped, first.counts) == (3, 0, {"files": 3})
    assert (second.done, second.skipped, second.counts) == (0, 3, {"files": 3})
    assert calls(tmp_path) == {"apple": 1, "bread": 1, "cup": 1}


def test_a_changed_input_or_missing_output_is_redone(root: DatasetRoot, tmp_path: Path) -> None:
    work = partial(write_number, folder=tmp_path)
    run_stage(root, "s", units(tmp_path, *NAMES), work, settings={}, options=INLINE)
    (tmp_path / "bread.in").write_text("new")
    (tmp_path / "cup.out").unlink()
    again = run_stage(root, "s", units(tmp_path, *NAMES), work, settings={}, options=INLINE)
    assert (again.done, again.skipped) == (2, 1)
    assert calls(tmp_path) == {"apple": 1, "bread": 2, "cup": 2}


def test_a_missing_setting_counts_as_none() -> None:
    assert setting_changes({"size": 2}, {"size": 2, "later": None}) == ""
    assert setting_changes({"size": 2}, {"size": 2, "later": 1}) == "later=None, now 1"


def test_other_settings_are_rejected_by_name(root: DatasetRoot, tmp_path: Path) -> None:
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


def test_a_unit_that_is_interrupted_while_being_redone_is_not_done(
    root: DatasetRoot, tmp_path: Path
) -> None:
    def interrupt(unit: Unit) -> dict[str, int]:
        write_number(unit, folder=tmp_path, number=2)
        raise KeyboardInterrupt

    work = partial(write_number, folder=tmp_path)
    run_stage(root, "s", units(tmp_path, "cup"), work, settings={"n": 1}, options=INLINE)
    redo = RunOptions(executor="inline", quiet=True, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        run_stage(root, "s", units(tmp_path, "cup"), interrupt, settings={"n": 2}, options=redo)
    run_stage(root, "s", units(tmp_path, "cup"), work, settings={"n": 1}, options=INLINE)
    assert (tmp_path / "cup.out").read_text() == "1"


def test_failures_are_recorded_grouped_and_retried(root: DatasetRoot, tmp_path: Path) -> None:
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
def test_a_crash_a_hang_and_a_bug_fail_only_their_unit(root: DatasetRoot) -> None:
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
def test_a_stage_runs_on_dask_workers(root: DatasetRoot, tmp_path: Path) -> None:
    work = partial(write_number, folder=tmp_path)
    options = RunOptions(executor="dask", workers=2, quiet=True)
    summary = run_stage(root, "s", units(tmp_path, *NAMES), work, settings={}, options=options)
    assert (summary.done, summary.failed) == (3, ())
    assert calls(tmp_path) == {"apple": 1, "bread": 1, "cup": 1}


def test_a_concurrent_run_of_a_stage_is_rejected(root: DatasetRoot, tmp_path: Path) -> None:
    def work(unit: Unit) -> dict[str, int]:
        with pytest.raises(DataError, match="another s is running"):
            run_stage(root, "s", [unit], work, settings={}, options=INLINE)
        return {}

    assert run_stage(root, "s", [Unit(("a",))], work, settings={}, options=INLINE).done == 1


def test_a_damaged_status_file_is_reported(root: DatasetRoot) -> None:
    write_atomic(root.status("s", "a"), "{")
    with pytest.raises(DataError, match=r"a\.json is damaged .*; delete it and run s again"):
        run_stage(root, "s", [Unit(("a",))], misbehave, settings={}, options=INLINE)
