"""Mapped tables: equal to Parquet, written once, and written again when a manifest changes."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_root import EGO, TAKES

from egoexo_tools.disk import size_text
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.vocab import Direction, Split
from omama.dataset import Dataset
from omama.tables import mapped
from omama.tables.loading import load_dataset, read_dataset

FIRST = next(iter(TAKES))
E2X = Direction.EGO2EXO


def assert_equal(actual: Dataset, expected: Dataset) -> None:
    pd.testing.assert_frame_equal(actual.frames.rows, expected.frames.rows)
    pd.testing.assert_frame_equal(actual.pairs.rows, expected.pairs.rows)
    for name in ("source_frame", "dest_frame", "source_mask", "dest_mask", "state"):
        ours, theirs = (np.asarray(getattr(data.pairs, name)) for data in (actual, expected))
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    for ours, theirs in (
        (actual.frames.masks, expected.frames.masks),
        (actual.frames.proposals, expected.frames.proposals),
    ):
        assert np.array_equal(ours.start, theirs.start)
        assert ours.names == theirs.names
        assert ours.columns.rles() == theirs.columns.rles()
        assert ours.boxes.dtype == theirs.boxes.dtype and np.array_equal(ours.boxes, theirs.boxes)
    assert actual.left_out == expected.left_out


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("split", list(Split))
@pytest.mark.parametrize("proposals", [True, False])
def test_mapped_tables_are_what_the_manifests_hold(
    own_root: DatasetRoot, split: Split, direction: Direction, proposals: bool
) -> None:
    request = {"split": split, "direction": direction, "proposals": proposals}
    direct = read_dataset(own_root, **request)
    assert not own_root.mapped.exists() or not list(own_root.mapped.glob("*.arrow"))
    assert_equal(load_dataset(own_root, **request), direct)  # writes the files
    assert_equal(load_dataset(own_root, **request), direct)  # opens them


def test_the_second_reader_writes_nothing(
    own_root: DatasetRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_dataset(own_root, split=Split.TRAIN, direction=E2X)
    files = {path: path.stat().st_ino for path in own_root.mapped.rglob("*")}
    monkeypatch.setattr(mapped, "make_tables", None)
    load_dataset(own_root, split=Split.TRAIN, direction=E2X)
    assert {path: path.stat().st_ino for path in own_root.mapped.rglob("*")} == files


def test_both_directions_share_the_frames_of_the_same_cameras(own_root: DatasetRoot) -> None:
    for direction in Direction:
        load_dataset(own_root, split=Split.VAL, direction=direction)
    assert len(list(own_root.mapped.glob("frames-*"))) == 1
    assert len(list(own_root.mapped.glob("val.*.arrow"))) == 2


def test_tables_are_replaced_when_a_manifest_changes(own_root: DatasetRoot) -> None:
    first = load_dataset(own_root, split=Split.TRAIN, direction=E2X)
    proposals = first.frames.proposals.columns.rles()
    (old,) = own_root.mapped.glob("frames-*")
    unit = f"{FIRST}.cam01"
    rows = read_manifest(own_root, "proposals", units=[unit]).to_pylist()
    write_manifest(own_root, "proposals", unit, rows[:-1])
    again = load_dataset(own_root, split=Split.TRAIN, direction=E2X)
    assert_equal(again, read_dataset(own_root, split=Split.TRAIN, direction=E2X))
    assert len(again.frames.proposals.columns) == len(proposals) - 1
    (new,) = own_root.mapped.glob("frames-*")
    assert new != old
    assert first.frames.proposals.columns.rles() == proposals  # a mapped file stays readable
    pairs = read_manifest(own_root, "pairs", units=[f"train.{E2X}"]).slice(0, 3)
    write_manifest(own_root, "pairs", f"train.{E2X}", pairs)
    assert_equal(
        load_dataset(own_root, split=Split.TRAIN, direction=E2X),
        read_dataset(own_root, split=Split.TRAIN, direction=E2X),
    )


def test_damaged_files_and_partial_files_are_replaced(own_root: DatasetRoot) -> None:
    request = {"split": Split.TEST, "direction": E2X}
    load_dataset(own_root, **request)
    direct = read_dataset(own_root, **request)
    for name in ("proposals.arrow", "frames.arrow", "made_from.json"):
        (file,) = own_root.mapped.glob(f"frames-*/{name}")
        file.write_bytes(file.read_bytes()[:10])
        (own_root.mapped / "frames-1.partial").mkdir()
        assert_equal(load_dataset(own_root, **request), direct)
        assert not list(own_root.mapped.glob("*.partial"))


def test_a_read_only_root_is_read_from_parquet(
    own_root: DatasetRoot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(mapped, "write_batch", refuse)
    with caplog.at_level(logging.WARNING):
        data = load_dataset(own_root, split=Split.TRAIN, direction=E2X)
    assert "Read-only file system): this process reads the tables into its own" in caplog.text
    assert_equal(data, read_dataset(own_root, split=Split.TRAIN, direction=E2X))


def test_processes_that_start_together_write_one_table(own_root: DatasetRoot) -> None:
    code = (
        "import sys; from pathlib import Path; from egoexo_tools.layout import DatasetRoot; "
        "from egoexo_tools.vocab import Direction, Split; "
        "from omama.tables.loading import load_dataset; sys.stdin.readline(); "
        "root = DatasetRoot(Path(sys.argv[1])); "
        "data = load_dataset(root, split=Split.TRAIN, direction=Direction.EGO2EXO); "
        "print(len(data.pairs), len(data.frames.proposals.columns))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(own_root.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    outputs = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        outputs.append(process.communicate()[0])
        assert process.returncode == 0
    data = read_dataset(own_root, split=Split.TRAIN, direction=E2X)
    assert set(outputs) == {f"{len(data.pairs)} {len(data.frames.proposals.columns)}\n"}
    assert len(list(own_root.mapped.glob("frames-*"))) == 1
    assert not list(own_root.mapped.glob("*.partial"))


def test_masks_are_pages_of_the_file(own_root: DatasetRoot) -> None:
    load_dataset(own_root, split=Split.TRAIN, direction=E2X)
    columns = load_dataset(own_root, split=Split.TRAIN, direction=E2X).frames.proposals.columns
    (folder,) = own_root.mapped.glob("frames-*")
    ranges = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(folder / "proposals.arrow"))
    ]
    for column in (columns.text, columns.offsets, columns.heights, columns.boxes):
        assert column is not None
        at = column.__array_interface__["data"][0]
        assert any(low <= at < high for low, high in ranges)


def test_frames_of_one_camera_are_read_from_parquet(own_root: DatasetRoot) -> None:
    from omama.tables.parquet import load_frames

    assert len(load_frames(own_root, [(FIRST, EGO)])) == 4
    assert not list(own_root.mapped.glob("*.arrow"))


def test_status_and_doctor_show_the_size_of_the_tables(own_root: DatasetRoot) -> None:
    from egoexo_tools.doctor import check_root
    from egoexo_tools.running.status import status_text

    load_dataset(own_root, split=Split.TRAIN, direction=E2X)
    (cache,) = (own_root.path / "features").iterdir()
    sizes = [
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        for folder in (cache, own_root.mapped)
    ]
    text = f"features/{cache.name} {size_text(sizes[0])}, tables {size_text(sizes[1])}"
    assert f"\non disk       {text}\n" in status_text(own_root)
    assert check_root(own_root).detail == f"{text}; created again when deleted"
