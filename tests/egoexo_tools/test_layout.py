import subprocess
import sys
from pathlib import Path

import pytest

from egoexo_tools.errors import DataError
from egoexo_tools.layout import (
    DatasetRoot,
    Release,
    atomic_path,
    path_component,
    record_writes,
    write_atomic,
)
from egoexo_tools.vocab import Direction, Split


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0b", "/etc"])
def test_names_from_files_cannot_leave_their_folder(name: str) -> None:
    with pytest.raises(DataError, match="cannot be a file name"):
        path_component(name)


@pytest.mark.parametrize("relative", ["../secret.mp4", "/etc/passwd", "takes/../../x"])
def test_relative_paths_stay_inside_the_release(relative: str) -> None:
    with pytest.raises(DataError, match="points outside the release"):
        Release(Path("/data")).inside(relative)


def test_release_paths() -> None:
    release = Release(Path("/data"))
    assert release.relations_json(Split.VAL) == Path("/data/annotations/relations_val.json")
    folder = Path("/data/takes/sfu_cooking_1/frame_aligned_videos")
    assert release.video("sfu_cooking_1", "cam01") == folder / "cam01.mp4"
    assert release.video("sfu_cooking_1", "cam01", short_side=448) == (
        folder / "downscaled/448/cam01.mp4"
    )


def test_root_paths_use_the_spellings_of_the_other_tools() -> None:
    root = DatasetRoot(Path("/root"))
    assert root.pairs_json(Split.TRAIN, Direction.EXO2EGO).name == "train_exoego_pairs.json"
    assert root.masks_dir(Split.TEST, Direction.EGO2EXO).name == "Masks_TEST_EGO2EXO"
    assert root.frame("uid", "cam01", 30) == Path("/root/processed/uid/cam01/30.jpg")
    assert root.part("frames", "uid.cam01") == Path("/root/manifests/frames/uid.cam01.parquet")


def test_a_folder_that_is_not_a_release_is_rejected_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not an Ego-Exo4D release.*egoexo-tools download"):
        Release(tmp_path).require()
    with pytest.raises(DataError, match="is not a dataset root.*egoexo-tools ingest"):
        DatasetRoot(tmp_path).require()


def test_atomic_path_leaves_the_old_file_when_the_writer_fails(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_atomic(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]


def test_videos_with_suffixes_in_capitals_are_found(tmp_path: Path) -> None:
    from egoexo_tools.layout import Release

    release = Release(tmp_path)
    path = release.video("take", "cam01")
    assert release.find_video("take", "cam01") == path
    path.parent.mkdir(parents=True)
    path.with_suffix(".MP4").write_bytes(b"x")
    assert release.find_video("take", "cam01") == path.with_suffix(".MP4")


def test_two_writers_of_a_file_do_not_interfere(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with atomic_path(path) as first, first.open("w") as file:
        file.write("first, ")
        write_atomic(path, "second")
        file.write("which goes on")
    assert path.read_text() == "first, which goes on"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_partial_files_of_dead_writers_are_removed_and_of_live_ones_not(tmp_path: Path) -> None:
    dead, download = tmp_path / "a.0123456789ab.partial", tmp_path / "video.mp4.partial"
    dead.write_text("half")
    download.write_text("to be continued")
    with atomic_path(tmp_path / "b") as live:
        live.write_text("b")
        code = "import sys, pathlib; from egoexo_tools.layout import write_atomic as write\n"
        code += "write(pathlib.Path(sys.argv[1]), 'c')"
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "c")], check=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b", "c", download.name]


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    write_atomic(tmp_path / ("ä" * 127), "")
    assert len(list(tmp_path.iterdir())) == 1


def test_recorded_writes(tmp_path: Path) -> None:
    write_atomic(tmp_path / "before", "")
    with record_writes() as paths:
        write_atomic(tmp_path / "a", "")
        with pytest.raises(RuntimeError), atomic_path(tmp_path / "failed"):
            raise RuntimeError
    write_atomic(tmp_path / "after", "")
    assert paths == {tmp_path / "a"}
