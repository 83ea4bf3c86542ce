"""The stage `features`: frames of new pairs are added, changed ones are made again."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from selected_pairs import (
    feature_frames,
    keep_pairs,
    manifest_frames,
    pair_frames,
    remove_proposals_and_features,
)
from tiny_root import EGO, TAKES, make_tiny_root

from egoexo_tools.errors import DataError, StageFailed
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running import disk_cost
from egoexo_tools.running.records import RunOptions, read_status
from egoexo_tools.stages.propose import run_propose
from egoexo_tools.vocab import Direction, Split
from omama.cli import main
from omama.features import cache_files
from omama.features.cache import CacheOptions, run_features
from omama.features.frame_features import Extractor
from omama.features.store import open_store
from omama.tables.loading import load_dataset

FIRST = next(iter(TAKES))
INLINE = RunOptions(executor="inline", quiet=True)
RGB_GRID = {"backbone": "rgb_grid", "weights": None, "cached": True}
FORMS = {
    "fp16": CacheOptions(),
    "int8": CacheOptions(precision="int8"),
    "descriptors": CacheOptions(descriptors_only=True),
}


@pytest.fixture
def root(own_root: DatasetRoot) -> DatasetRoot:
    return remove_proposals_and_features(own_root)


@pytest.fixture
def extracted_frames(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The frames that the backbone has processed."""
    names: list[str] = []
    read = Extractor.read

    def read_and_record(self: Extractor, frames: Any, frame: int) -> Any:
        names.append(frames.name(frame))
        return read(self, frames, frame)

    monkeypatch.setattr(Extractor, "read", read_and_record)
    return names


def read_all(root: DatasetRoot) -> dict[str, Any]:
    """Frame → features, of the train split."""
    features = {}
    for direction in Direction:
        data = load_dataset(root, split=Split.TRAIN, direction=direction)
        store = open_store(data.frames, **RGB_GRID, tokens=False)
        frames = np.arange(len(data.frames))
        for frame, of_frame in zip(frames.tolist(), store.read(frames), strict=True):
            features[data.frames.name(frame)] = of_frame
    return features


def check_equal_to_one_run(root: DatasetRoot, options: dict[str, Any]) -> None:
    """Features that were added step by step equal those of a single run."""
    added = read_all(root)
    assert any(root.path.glob("features/*/*/more-2/index.npz"))
    overwrite = RunOptions(executor="inline", quiet=True, overwrite=True)
    run_features(root, **{**options, "run": overwrite})
    assert not any(root.path.glob("features/*/*/more-*"))
    whole = read_all(root)
    assert added.keys() == whole.keys()
    for key, features in added.items():
        for name in ("tokens", "masks", "proposals"):
            assert getattr(features, name).equal(getattr(whole[key], name))
        for name in ("ious", "best", "near"):
            relations, expected = features.relations, whole[key].relations
            assert np.array_equal(getattr(relations, name), getattr(expected, name))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_features_of_new_pairs_are_added(
    root: DatasetRoot, extracted_frames: list[str], form: str
) -> None:
    run_propose(root, proposer="oracle", run=INLINE).check()  # of all pairs: none changes later
    keep_pairs(root, [30])
    options = {"backbone": "rgb_grid", "cache": FORMS[form], "run": INLINE}
    run_features(root, **options).check()
    expected = pair_frames(root, "source", "dest")
    assert set(feature_frames(root)) == expected and len(extracted_frames) == len(expected)
    assert run_features(root, **options).done == 0
    keep_pairs(root, [30, 0], list(Direction))
    extracted_frames.clear()
    summary = run_features(root, **options).check()
    assert {name.split("/")[-1] for name in extracted_frames} == {"0"}
    rows = feature_frames(root)
    assert set(rows) == pair_frames(root, "source", "dest") and len(rows) == len(set(rows))
    assert summary.counts["frames"] == len(rows)
    keep_pairs(root, [0, 30, 60, 90], list(Direction))
    run_features(root, **options).check()
    check_equal_to_one_run(root, options)


def test_an_interrupted_addition_keeps_the_old_features(
    root: DatasetRoot, extracted_frames: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_propose(root, proposer="oracle", run=INLINE).check()
    keep_pairs(root, [30])
    run_features(root, backbone="rgb_grid", run=INLINE).check()
    keep_pairs(root, [30, 0])
    write_index = cache_files.write_index

    def fail(folder: Path, index: Any) -> None:
        """Fails before the index with the addition replaces the old one."""
        if not folder.name.startswith("more"):
            raise OSError("killed")
        write_index(folder, index)

    with monkeypatch.context() as patch:
        patch.setattr(cache_files, "write_index", fail)
        assert len(run_features(root, backbone="rgb_grid", run=INLINE).failed) == 9
    folders = [path.parent for path in root.path.glob("features/*/*/index.npz")]
    assert {cache_files.covered_frames(folder).tolist()[0] for folder in folders} == {30}
    extracted_frames.clear()
    run_features(root, backbone="rgb_grid", run=INLINE).check()
    assert {name.split("/")[-1] for name in extracted_frames} == {"0"}
    assert set(feature_frames(root)) == pair_frames(root, "source", "dest")


def test_later_proposals_redo_their_frames_only(
    root: DatasetRoot, extracted_frames: list[str]
) -> None:
    """A frame that was only a source becomes a destination: it has proposals now."""
    keep_pairs(root, [0, 30])
    run_propose(root, proposer="oracle", run=INLINE).check()
    run_features(root, backbone="rgb_grid", run=INLINE).check()
    keep_pairs(root, [0], list(Direction))
    run_propose(root, proposer="oracle", run=INLINE).check()
    data = load_dataset(root, split=Split.TRAIN, direction=Direction.EXO2EGO)
    with pytest.raises(DataError, match="are older than its frames, masks or proposals; run"):
        open_store(data.frames, **RGB_GRID, pairs=data.pairs)
    extracted_frames.clear()
    run_features(root, backbone="rgb_grid", run=INLINE).check()
    assert sorted(extracted_frames) == sorted(f"{take_uid}/{EGO}/0" for take_uid in TAKES)
    store = open_store(data.frames, **RGB_GRID, pairs=data.pairs)
    for frame in np.unique(data.pairs.dest_frame).tolist():
        (features,) = store.read(np.array([frame]))
        assert len(features.proposals) == len(data.frames.proposals.of_frame(frame)) > 0


def test_a_frame_missing_in_the_cache_is_named(root: DatasetRoot) -> None:
    run_propose(root, proposer="oracle", run=INLINE).check()
    keep_pairs(root, [30])
    run_features(root, backbone="rgb_grid", run=INLINE).check()
    keep_pairs(root, [0, 30, 60])
    data = load_dataset(root, split=Split.TRAIN, direction=Direction.EGO2EXO)
    with pytest.raises(
        DataError, match=rf"lack frame {FIRST}/{EGO}/0 and \d+ more; run `omama fea"
    ):
        open_store(data.frames, **RGB_GRID, pairs=data.pairs)
    store = open_store(data.frames, **RGB_GRID)
    store.read(np.flatnonzero(data.frames.rows["frame_idx"] == 30))
    with pytest.raises(DataError, match=f"lack frame {FIRST}/{EGO}/0; run"):
        store.read(np.array([0]))


@pytest.mark.parametrize("form", FORMS)
def test_the_estimated_bytes_equal_the_written_bytes(root: DatasetRoot, form: str) -> None:
    run_propose(root, proposer="oracle", run=INLINE).check()
    costs: list[disk_cost.CostEstimate] = []

    def record(stage: str, folder: Path, cost: Any, advice: str, *, quiet: bool) -> None:
        costs.append(cost)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("omama.features.cache.check_disk_space", record)
        run_features(root, backbone="efficientnet-lite0", cache=FORMS[form], run=INLINE).check()
    files = [np.load(path) for path in root.path.glob("features/efficientnet-lite0*/*/*.npy")]
    assert costs[0].bytes == sum(array.nbytes for array in files)


def test_a_batch_that_cannot_be_timed_gives_no_estimate(
    root: DatasetRoot, capsys: pytest.CaptureFixture[str]
) -> None:
    run_propose(root, proposer="oracle", run=INLINE).check()
    root.frame(FIRST, EGO, 0).unlink()
    summary = run_features(root, backbone="rgb_grid", run=RunOptions(executor="inline"))
    assert [result.unit.split(".")[:2] for result in summary.failed] == [[FIRST, EGO]]
    assert capsys.readouterr().err.splitlines()[0].endswith(" free")


def test_a_damaged_addition_is_made_again(root: DatasetRoot) -> None:
    run_propose(root, proposer="oracle", run=INLINE).check()
    for frames in ([0], [0, 30]):
        keep_pairs(root, frames)
        run_features(root, backbone="rgb_grid", run=INLINE).check()
    (folder,) = root.path.glob(f"features/*/{FIRST}.cam01")
    (folder / "more-1" / "index.npz").write_bytes(b"PK")
    data = load_dataset(root, split=Split.TRAIN, direction=Direction.EGO2EXO)
    with pytest.raises(DataError, match="cam01 are damaged; run `omama features"):
        open_store(data.frames, **RGB_GRID, pairs=data.pairs)
    name = f"{FIRST}.cam01.{folder.parent.name}"
    root.status("features", name).unlink()
    run_features(root, backbone="rgb_grid", run=INLINE).check()
    assert read_status(root, "features", name) is not None
    open_store(data.frames, **RGB_GRID, pairs=data.pairs)
    assert cache_files.covered_frames(folder) is not None


@pytest.mark.slow
def test_caches_of_descriptors_only_serve_knn(root: DatasetRoot) -> None:
    runner = CliRunner()
    line = ["features", str(root.path), "--backbone", "rgb_grid", "--quiet"]
    run_propose(root, proposer="oracle", run=INLINE).check()
    result = runner.invoke(main, [*line, "--descriptors-only"])
    assert result.exit_code == 0, result.output
    assert not list(root.path.glob("features/*/*/tokens.npy"))
    contradiction = runner.invoke(main, [*line, "--descriptors-only", "--cache-precision", "int8"])
    assert contradiction.exit_code == 2 and "leave out --cache-precision" in contradiction.output
    train = ["train", str(root.path), "--direction", "ego2exo", "--backbone", "rgb_grid"]
    refused = runner.invoke(main, train)
    assert refused.exit_code == 1
    assert "are only descriptors, which k-NN reads; a trained matcher and its" in refused.output
    predict = ["predict", str(root.path), "--direction", "ego2exo", "--split", "test", "--quiet"]
    knn = runner.invoke(main, [*predict, "--method", "knn", "--backbone", "rgb_grid"])
    assert knn.exit_code == 0, knn.output
    (predictions,) = root.runs.glob("*/predictions.json")
    by_descriptors = json.loads(predictions.read_bytes())
    assert runner.invoke(main, line).exit_code == 0
    second = runner.invoke(main, [*predict, "--method", "knn", "--backbone", "rgb_grid"])
    assert second.exit_code == 0, second.output
    assert json.loads(predictions.read_bytes()) == by_descriptors


def test_without_pairs_all_frames_are_processed_with_a_message(
    root: DatasetRoot, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(root.table("pairs"))
    run_propose(root, proposer="oracle", run=INLINE).check()
    run_features(root, backbone="rgb_grid", run=RunOptions(executor="inline")).check()
    output = capsys.readouterr().err
    assert "features: the root has no pairs yet, so every frame is done" in output
    assert set(feature_frames(root)) == manifest_frames(root, "frames")


def test_the_cost_is_printed_first(root: DatasetRoot, capsys: pytest.CaptureFixture[str]) -> None:
    keep_pairs(root, [0, 30])
    run_propose(root, proposer="oracle", run=INLINE).check()
    run_features(root, backbone="rgb_grid", run=RunOptions(executor="inline")).check()
    lines = capsys.readouterr().err.splitlines()
    count = len(pair_frames(root, "source", "dest"))
    assert re.match(rf"features: {count} frames to process, \d\S* kB of ", lines[0])


def test_a_full_disk_stops_the_stage_before_its_first_unit(
    root: DatasetRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_propose(root, proposer="oracle", run=INLINE).check()
    monkeypatch.setattr(disk_cost, "free_bytes", lambda folder: 100)
    with pytest.raises(
        DataError, match=r"features of \d+ frames needs .* (bytes|kB) and the disk of .* has"
    ):
        run_features(root, backbone="rgb_grid", run=INLINE)
    assert not (root.path / "features").exists()


def test_a_second_run_does_nothing_and_backbones_have_separate_caches(
    own_root: DatasetRoot,
) -> None:
    again = run_features(own_root, backbone="rgb_grid", run=INLINE)
    assert (again.done, again.skipped) == (0, 9)
    other = run_features(own_root, backbone="efficientnet-lite0", run=INLINE)
    assert (other.done, other.counts["frames"]) == (9, 36)
    assert len(list((own_root.path / "features").iterdir())) == 2


def test_a_missing_picture_fails_its_unit_only(own_root: DatasetRoot) -> None:
    own_root.frame(FIRST, EGO, 30).unlink()
    summary = run_features(own_root, backbone="efficientnet-lite0", run=INLINE)
    assert summary.done == 8
    with pytest.raises(StageFailed, match="30.jpg of .* changed or disappeared since"):
        summary.check()
    assert not list(own_root.path.glob(f"features/efficientnet-lite0*/{FIRST}.{EGO}/*"))


@pytest.mark.slow
def test_a_full_disk_fails_the_camera_and_does_not_crash(small_disk: Path) -> None:
    """In a process of its own: a map of a file without room would end it."""
    import subprocess
    import sys

    root = make_tiny_root(small_disk.parent / "root")
    (root.path / "features").symlink_to(small_disk)
    command = ["features", str(root.path), "--backbone", "efficientnet-lite0", "--quiet"]
    process = subprocess.run(
        [sys.executable, "-m", "omama.cli", *command], capture_output=True, text=True
    )
    assert process.returncode == 1, process.stderr
    assert "the disk is full; make room and run the same command again" in process.stderr
    assert "Traceback" not in process.stderr
