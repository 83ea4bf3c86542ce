"""What a stage wrote for an input that is gone is removed, and nothing else."""

import json
from pathlib import Path

import pytest

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, write_atomic
from egoexo_tools.running.owned_files import Ownership, is_of_takes
from egoexo_tools.running.records import RunOptions, Unit
from egoexo_tools.running.stage import run_stage

INLINE = RunOptions(executor="inline", quiet=True)


class Stage:
    """A stage whose units write the files that `files` gives for them."""

    def __init__(self, path: Path, files: dict[str, list[str]]) -> None:
        self.root, self.files = DatasetRoot(path), files

    def run(self, overwrite: bool = False) -> int:
        units = [Unit((name,)) for name in self.files]
        owned = Ownership(self.root.path, lambda status: status.unit not in self.files)
        options = RunOptions(executor="inline", quiet=True, overwrite=overwrite)
        return run_stage(
            self.root, "s", units, self.work, settings={}, options=options, owned=owned
        ).done

    def work(self, unit: Unit) -> dict[str, int]:
        for name in self.files[unit.name]:
            if name == "fail":
                raise DataError("no")
            write_atomic(self.root.path / name, unit.name)
        return {}

    def outputs(self) -> list[str]:
        paths = self.root.path.rglob("*")
        names = [p.relative_to(self.root.path).as_posix() for p in paths if p.is_file()]
        return sorted(name for name in names if not name.startswith("status"))


def test_a_unit_that_is_gone_takes_its_files_along(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": ["out/a/1", "both"], "b": ["out/b/1", "both"]})
    stage.run()
    write_atomic(tmp_path / "out/a/notes.txt", "the user's own")
    del stage.files["a"]
    assert stage.run() == 0
    assert stage.outputs() == ["both", "out/a/notes.txt", "out/b/1"]
    assert not stage.root.status("s", "a").exists()
    del stage.files["b"]
    stage.run()
    assert stage.outputs() == ["out/a/notes.txt"]
    assert not (tmp_path / "out/b").exists()


def test_files_that_a_unit_no_longer_writes_are_removed(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": ["train/1", "train/2"]})
    stage.run()
    stage.files["a"] = ["test/1", "fail"]
    stage.run(overwrite=True)
    # A failed unit may have written a part: its old files stay listed until it succeeds.
    assert stage.outputs() == ["test/1", "train/1", "train/2"]
    stage.files["a"] = ["train/2"]
    assert stage.run() == 1
    assert stage.outputs() == ["train/2"]


@pytest.mark.parametrize("place", ["..", "/etc", "out/../.."])
def test_a_list_from_elsewhere_removes_nothing_outside(tmp_path: Path, place: str) -> None:
    stage = Stage(tmp_path / "root", {"a": ["out/1"]})
    stage.run()
    write_atomic(tmp_path / "hosts", "stays")
    path = stage.root.status("s", "a")
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "files": {place: ["hosts"]}}))
    stage.files.clear()
    stage.run()
    assert (tmp_path / "hosts").exists() and Path("/etc/hosts").exists()


def test_units_of_takes_whose_names_hold_dots() -> None:
    assert is_of_takes("t.1.cam01", {"t.1"}) and is_of_takes("t", {"t"})
    assert not is_of_takes("t.1.cam01", {"t.2", "1"})


def test_a_file_that_passes_to_another_unit_stays(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": ["picture"], "b": ["train", "picture 2"]})
    stage.run()
    stage.files = {"a": ["picture 2"], "b": ["test"]}
    stage.run(overwrite=True)
    assert stage.outputs() == ["picture 2", "test"]
