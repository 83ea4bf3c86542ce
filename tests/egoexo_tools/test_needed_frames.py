"""Only what the pairs need: proposals and features of chosen frames, and what new pairs add."""

import importlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_root import EGO, TAKES

from egoexo_tools.errors import DataError, StageFailed
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.needed_frames import ALL_FRAMES, needed_frames
from egoexo_tools.proposers import base, registry
from egoexo_tools.proposers.base import Frame, FrameProposals, ProposerEntry
from egoexo_tools.running import disk_cost
from egoexo_tools.running.records import RunOptions, read_status
from egoexo_tools.stages import propose
from egoexo_tools.stages.propose import run_propose
from egoexo_tools.vocab import Direction, Split
from omama.cli import main
from omama.features import cache_files
from omama.features.cache import CacheOptions, run_features
from omama.features.frame_features import Extractor
from omama.features.store import open_store
from omama.tables.loading import load_dataset

FIRST, SECOND = list(TAKES)[:2]
INLINE = RunOptions(executor="inline", quiet=True)
E2X, X2E = Direction
Key = tuple[str, str, int]


def choose(root: DatasetRoot, frames: Sequence[int], directions: Sequence[Direction] = (E2X,)):
    """Leave only the pairs of some frames and directions, all splits."""
    for direction in Direction:
        for split in Split:
            whole = root.path / "all_pairs" / f"{split}.{direction}.parquet"
            part = root.part("pairs", f"{split}.{direction}")
            whole.parent.mkdir(exist_ok=True)
            if not whole.exists():
                shutil.copy(part, whole)
            shutil.copy(whole, part)
            rows = read_manifest(root, "pairs", units=[part.stem]).to_pylist()
            kept = [row for row in rows if row["frame_idx"] in frames and direction in directions]
            write_manifest(root, "pairs", part.stem, kept)


def keys_of_pairs(root: DatasetRoot, *sides: str) -> set[Key]:
    """The plain twin of `needed_frames`."""
    rows = read_manifest(root, "pairs").to_pylist()
    return {(r["take_uid"], r[f"{side}_camera"], r["frame_idx"]) for r in rows for side in sides}


def keys_of_proposals(root: DatasetRoot) -> set[Key]:
    rows = read_manifest(root, "proposals").to_pylist()
    return {(row["take_uid"], row["camera"], row["frame_idx"]) for row in rows}


def keys_of_cache(root: DatasetRoot) -> list[Key]:
    """Of every row of the one cache, also those that a later one has replaced."""
    (cache,) = (path for path in (root.path / "features").iterdir() if path.is_dir())
    found = []
    for index in cache.rglob("index.npz"):
        take_uid, camera = index.relative_to(cache).parts[0].split(".")
        found += [(take_uid, camera, idx) for idx in np.load(index)["frame_idx"].tolist()]
    return found


@pytest.fixture
def root(own_root: DatasetRoot) -> DatasetRoot:
    """Without proposals and features."""
    shutil.rmtree(own_root.table("proposals"))
    shutil.rmtree(own_root.path / "features")
    shutil.rmtree(own_root.path / "status")
    return own_root


@pytest.fixture
def proposed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures that the proposer `seen` has looked at; it finds one square in all but 60."""
    seen: list[str] = []

    def propose_all(frames: Sequence[Frame]) -> list[FrameProposals]:
        found = []
        for frame in frames:
            seen.append("/".join(frame.path.parts[-3:]))
            mask = np.zeros((frame.height, frame.width), np.uint8)
            mask[2:8, 2:9] = 1
            rle = base.Proposal(registry_rle(mask), 0.5)
            found.append(FrameProposals([] if frame.path.stem == "60" else [rle]))
        return found

    def registry_rle(mask: np.ndarray) -> Any:
        from egoexo_tools.masks.rle import MaskRle

        return MaskRle.encode(mask)

    entry = ProposerEntry(lambda options: propose_all, lambda options: {}, batch=2)
    monkeypatch.setitem(registry.PROPOSERS, "seen", entry)
    propose._load_proposer.cache_clear()
    return seen


@pytest.fixture
def extracted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The frames that went through the backbone."""
    seen: list[str] = []
    read = Extractor.read

    def counted(self: Extractor, frames: Any, frame: int) -> Any:
        seen.append(frames.name(frame))
        return read(self, frames, frame)

    monkeypatch.setattr(Extractor, "read", counted)
    return seen


@pytest.mark.parametrize("sides", [("source",), ("dest",), ("source", "dest")])
def test_chosen_frames_are_those_of_the_pairs(
    own_root: DatasetRoot, sides: tuple[str, ...]
) -> None:
    choose(own_root, [0, 60], [X2E])
    found = needed_frames(own_root, sides=sides)
    assert found.by_camera is not None
    listed = {(*camera, idx) for camera, idxs in found.by_camera.items() for idx in idxs.tolist()}
    assert listed == keys_of_pairs(own_root, *sides)
    assert needed_frames(own_root, directions=[E2X]).by_camera == {}
    shutil.rmtree(own_root.table("pairs"))
    assert needed_frames(own_root) == ALL_FRAMES


def test_proposals_of_new_pairs_are_added(root: DatasetRoot, proposed: list[str]) -> None:
    choose(root, [30, 60])
    summary = run_propose(root, proposer="seen", run=INLINE).check()
    wanted = keys_of_pairs(root, "dest")
    assert {tuple(name.rsplit("/", 2)[:2]) for name in proposed} == {key[:2] for key in wanted}
    assert len(proposed) == len(wanted) == summary.counts["frames"]
    assert keys_of_proposals(root) == {key for key in wanted if key[2] != 60}
    before = list(proposed)
    assert run_propose(root, proposer="seen", run=INLINE).done == 0
    choose(root, [0, 30, 60])
    again = run_propose(root, proposer="seen", run=INLINE).check()
    new = proposed[len(before) :]
    assert new and not set(new) & set(before)
    assert {name.split("/")[-1] for name in new} == {"0.jpg"}
    assert again.counts["frames"] == len(keys_of_pairs(root, "dest"))
    left_out = [row for row in read_manifest(root, "exclusions").to_pylist()]
    assert {row["frame_idx"] for row in left_out if row["stage"] == "propose"} == {60}
    # The parts are those of one run with all of these pairs, to the byte.
    parts = {path.name: path.read_bytes() for path in root.table("proposals").iterdir()}
    shutil.rmtree(root.table("proposals"))
    run_propose(root, proposer="seen", run=INLINE).check()
    assert parts == {path.name: path.read_bytes() for path in root.table("proposals").iterdir()}
    # All of them, and then the pairs' again: nothing is taken away.
    run_propose(root, proposer="seen", all_frames=True, run=INLINE).check()
    everything = keys_of_proposals(root)
    assert everything == {key for key in all_frames(root) if key[2] != 60}
    assert run_propose(root, proposer="seen", run=INLINE).done == 0
    assert keys_of_proposals(root) == everything


def all_frames(root: DatasetRoot) -> set[Key]:
    rows = read_manifest(root, "frames").to_pylist()
    return {(row["take_uid"], row["camera"], row["frame_idx"]) for row in rows}


def test_overwrite_and_changed_frames_propose_anew(root: DatasetRoot, proposed: list[str]) -> None:
    choose(root, [30])
    run_propose(root, proposer="seen", run=INLINE).check()
    count = len(proposed)
    overwrite = RunOptions(executor="inline", quiet=True, overwrite=True)
    run_propose(root, proposer="seen", run=overwrite).check()
    assert proposed[count:] == proposed[:count]
    unit = f"{FIRST}.cam01"
    rows = read_manifest(root, "frames", units=[unit]).to_pylist()
    write_manifest(root, "frames", unit, [{**row, "source_width": 1} for row in rows])
    choose(root, [30, 90])
    proposed.clear()
    run_propose(root, proposer="seen", run=INLINE).check()
    again = [name for name in proposed if name.startswith(f"{FIRST}/cam01/")]
    assert again == [f"{FIRST}/cam01/30.jpg", f"{FIRST}/cam01/90.jpg"]
    assert f"{SECOND}/cam01/30.jpg" not in proposed


def test_a_unit_killed_while_it_adds_keeps_what_was_there(
    root: DatasetRoot, proposed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(root, [30])
    run_propose(root, proposer="seen", run=INLINE).check()
    choose(root, [30, 0])
    with monkeypatch.context() as patch:
        patch.setattr(propose, "write_table", None)  # its last act
        with pytest.raises(StageFailed):
            run_propose(root, proposer="seen", run=INLINE).check()
    proposed.clear()
    run_propose(root, proposer="seen", run=INLINE).check()
    assert {name.split("/")[-1] for name in proposed} == {"0.jpg"}
    assert keys_of_proposals(root) == keys_of_pairs(root, "dest")


@pytest.mark.parametrize("stored", ["fp16", "int8", "descriptors"])
def test_features_of_new_pairs_are_added(
    root: DatasetRoot, extracted: list[str], stored: str
) -> None:
    cache = CacheOptions(
        precision="int8" if stored == "int8" else "fp16", descriptors_only=stored == "descriptors"
    )
    run_propose(root, proposer="oracle", run=INLINE).check()  # of all pairs, so that none changes
    choose(root, [30])
    run = {"backbone": "rgb_grid", "cache": cache, "run": INLINE}
    run_features(root, **run).check()
    wanted = keys_of_pairs(root, "source", "dest")
    assert set(keys_of_cache(root)) == wanted and len(extracted) == len(wanted)
    assert run_features(root, **run).done == 0
    choose(root, [30, 0], list(Direction))
    extracted.clear()
    summary = run_features(root, **run).check()
    assert {name.split("/")[-1] for name in extracted} == {"0"}
    rows = keys_of_cache(root)
    assert set(rows) == keys_of_pairs(root, "source", "dest") and len(rows) == len(set(rows))
    assert summary.counts["frames"] == len(rows)
    choose(root, [0, 30, 60, 90], list(Direction))
    run_features(root, **run).check()
    same_as_at_once(root, run)


def test_features_killed_while_they_are_added_keep_what_was_there(
    root: DatasetRoot, extracted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_propose(root, proposer="oracle", run=INLINE).check()
    choose(root, [30])
    run_features(root, backbone="rgb_grid", run=INLINE).check()
    choose(root, [30, 0])
    write_index = cache_files.write_index

    def killed(folder: Path, index: Any) -> None:
        """Before the index that tells of the addition takes the old one's place."""
        if not folder.name.startswith("more"):
            raise OSError("killed")
        write_index(folder, index)

    with monkeypatch.context() as patch:
        patch.setattr(cache_files, "write_index", killed)
        assert len(run_features(root, backbone="rgb_grid", run=INLINE).failed) == 9
    assert {cache_files.covered_frames(path.parent).tolist()[0] for path in indexes(root)} == {30}
    extracted.clear()
    run_features(root, backbone="rgb_grid", run=INLINE).check()
    assert {name.split("/")[-1] for name in extracted} == {"0"}
    assert set(keys_of_cache(root)) == keys_of_pairs(root, "source", "dest")


def indexes(root: DatasetRoot) -> list[Path]:
    """Of the cameras, without those of additions."""
    return list(root.path.glob("features/*/*/index.npz"))


def same_as_at_once(root: DatasetRoot, run: dict[str, Any]) -> None:
    """What was added bit by bit reads as what is made in one go."""
    added = read_all(root)
    assert any(root.path.glob("features/*/*/more-2/index.npz"))
    run_features(root, **{**run, "run": RunOptions(executor="inline", quiet=True, overwrite=True)})
    assert not any(root.path.glob("features/*/*/more-*"))
    whole = read_all(root)
    assert added.keys() == whole.keys()
    for key, one in added.items():
        other = whole[key]
        for name in ("tokens", "masks", "proposals"):
            assert getattr(one, name).equal(getattr(other, name))
        for name in ("ious", "best", "near"):
            assert np.array_equal(getattr(one.relations, name), getattr(other.relations, name))


def read_all(root: DatasetRoot) -> dict[str, Any]:
    found = {}
    for direction in Direction:
        data = load_dataset(root, split=Split.TRAIN, direction=direction)
        store = open_store(
            data.frames, backbone="rgb_grid", weights=None, cached=True, tokens=False
        )
        every = np.arange(len(data.frames))
        for frame, features in zip(every.tolist(), store.read(every), strict=True):
            found[data.frames.name(frame)] = features
    return found


def test_proposals_that_came_later_redo_their_frames_alone(
    root: DatasetRoot, extracted: list[str]
) -> None:
    """A frame that was only a source becomes a destination: it has proposals now."""
    choose(root, [0, 30])
    run_propose(root, proposer="oracle", run=INLINE).check()
    run_features(root, backbone="rgb_grid", run=INLINE).check()
    choose(root, [0], list(Direction))
    run_propose(root, proposer="oracle", run=INLINE).check()
    data = load_dataset(root, split=Split.TRAIN, direction=X2E)
    with pytest.raises(DataError, match="are older than its frames, masks or proposals; run"):
        open_store(data.frames, backbone="rgb_grid", weights=None, cached=True, pairs=data.pairs)
    extracted.clear()
    run_features(root, backbone="rgb_grid", run=INLINE).check()
    assert sorted(extracted) == sorted(f"{take_uid}/{EGO}/0" for take_uid in TAKES)
    store = open_store(
        data.frames, backbone="rgb_grid", weights=None, cached=True, pairs=data.pairs
    )
    for frame in np.unique(data.pairs.dest_frame).tolist():
        (features,) = store.read(np.array([frame]))
        assert len(features.proposals) == len(data.frames.proposals.of_frame(frame)) > 0


def test_a_frame_that_the_cache_lacks_is_named(root: DatasetRoot) -> None:
    run_propose(root, proposer="oracle", run=INLINE).check()
    choose(root, [30])
    run_features(root, backbone="rgb_grid", run=INLINE).check()
    choose(root, [0, 30, 60])
    data = load_dataset(root, split=Split.TRAIN, direction=E2X)
    wanted = {"backbone": "rgb_grid", "weights": None, "cached": True}
    with pytest.raises(
        DataError, match=rf"lack frame {FIRST}/{EGO}/0 and \d+ more; run `omama fea"
    ):
        open_store(data.frames, **wanted, pairs=data.pairs)
    store = open_store(data.frames, **wanted)
    store.read(np.flatnonzero(data.frames.rows["frame_idx"] == 30))
    with pytest.raises(DataError, match=f"lack frame {FIRST}/{EGO}/0; run"):
        store.read(np.array([0]))


def test_without_pairs_every_frame_is_done_and_it_is_said(
    root: DatasetRoot, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(root.table("pairs"))
    loud = RunOptions(executor="inline")
    run_propose(root, proposer="oracle", run=loud).check()
    run_features(root, backbone="rgb_grid", run=loud).check()
    said = capsys.readouterr().err
    assert "propose: the root has no pairs yet, so all destination frames are processed" in said
    assert "features: the root has no pairs yet, so every frame is done" in said
    assert set(keys_of_cache(root)) == all_frames(root)


def test_a_direction_without_pairs_is_refused(root: DatasetRoot) -> None:
    choose(root, [0], [E2X])
    with pytest.raises(DataError, match="no pair of .* has a destination among its frames of ego"):
        run_propose(root, proposer="oracle", directions=[X2E], run=INLINE)
    run_propose(root, proposer="oracle", directions=[X2E], all_frames=True, run=INLINE).check()


def test_the_price_comes_first(root: DatasetRoot, capsys: pytest.CaptureFixture[str]) -> None:
    choose(root, [0, 30])
    loud = RunOptions(executor="inline")
    run_propose(root, proposer="oracle", run=loud).check()
    lines = capsys.readouterr().err.splitlines()
    count = len(keys_of_pairs(root, "dest"))
    assert re.match(rf"propose: {count} frames to process, \d\S* (bytes|kB) of ", lines[0])
    assert lines[0].endswith(" free, about 0 s") and lines[1].startswith("propose: 0 of")
    run_features(root, backbone="rgb_grid", run=loud).check()
    lines = capsys.readouterr().err.splitlines()
    count = len(keys_of_pairs(root, "source", "dest"))
    assert re.match(rf"features: {count} frames to process, \d\S* kB of ", lines[0])
    choose(root, [0, 30, 60])
    run_propose(root, proposer="oracle", run=loud).check()
    assert f"frames to process ({len(TAKES) * 2 + 2} exist)" in capsys.readouterr().err


@pytest.mark.parametrize("stored", ["fp16", "int8", "descriptors"])
def test_the_bytes_are_those_that_are_written(root: DatasetRoot, stored: str) -> None:
    cache = CacheOptions(
        precision="int8" if stored == "int8" else "fp16", descriptors_only=stored == "descriptors"
    )
    run_propose(root, proposer="oracle", run=INLINE).check()
    told: list[disk_cost.CostEstimate] = []

    def settle(
        stage: str, folder: Path, found: disk_cost.CostEstimate, cures: str, *, quiet: bool
    ) -> None:
        told.append(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("omama.features.cache.check_disk_space", settle)
        run_features(root, backbone="efficientnet-lite0", cache=cache, run=INLINE).check()
    files = [np.load(path) for path in root.path.glob("features/efficientnet-lite0*/*/*.npy")]
    assert told[0].bytes == sum(array.nbytes for array in files)


@pytest.mark.parametrize("stage", ["propose", "features"])
def test_a_disk_that_is_too_small_is_refused_before_the_first_unit(
    root: DatasetRoot, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_propose(root, proposer="oracle", run=INLINE).check()
    shutil.rmtree(root.table("proposals")) if stage == "propose" else None
    monkeypatch.setattr(disk_cost, "free_bytes", lambda folder: 100)
    monkeypatch.setattr(propose, "LARGE_JOB_FRAMES", 0)
    with pytest.raises(
        DataError, match=rf"{stage} of \d+ frames needs .* (bytes|kB) and the disk of .* has"
    ):
        if stage == "propose":
            run_propose(root, proposer="oracle", run=INLINE)
        else:
            run_features(root, backbone="rgb_grid", run=INLINE)
    assert not (root.path / "features").exists()
    assert not list(root.path.glob("manifests/proposals/*")) or stage == "features"


def test_the_batch_that_fails_to_be_timed_only_has_no_price(
    root: DatasetRoot, capsys: pytest.CaptureFixture[str]
) -> None:
    run_propose(root, proposer="oracle", run=INLINE).check()
    root.frame(FIRST, EGO, 0).unlink()
    summary = run_features(root, backbone="rgb_grid", run=RunOptions(executor="inline"))
    assert [one.unit.split(".")[:2] for one in summary.failed] == [[FIRST, EGO]]
    assert capsys.readouterr().err.splitlines()[0].endswith(" free")


def test_a_damaged_addition_is_made_anew(root: DatasetRoot) -> None:
    run_propose(root, proposer="oracle", run=INLINE).check()
    for frames in ([0], [0, 30]):
        choose(root, frames)
        run_features(root, backbone="rgb_grid", run=INLINE).check()
    (folder,) = root.path.glob(f"features/*/{FIRST}.cam01")
    (folder / "more-1" / "index.npz").write_bytes(b"PK")
    data = load_dataset(root, split=Split.TRAIN, direction=E2X)
    wanted = {"backbone": "rgb_grid", "weights": None, "cached": True, "pairs": data.pairs}
    with pytest.raises(DataError, match="cam01 are damaged; run `omama features"):
        open_store(data.frames, **wanted)
    name = f"{FIRST}.cam01.{folder.parent.name}"
    root.status("features", name).unlink()
    run_features(root, backbone="rgb_grid", run=INLINE).check()
    assert read_status(root, "features", name) is not None
    open_store(data.frames, **wanted)
    assert cache_files.covered_frames(folder) is not None


def test_descriptors_alone_are_for_knn(root: DatasetRoot) -> None:
    runner = CliRunner()
    line = ["features", str(root.path), "--backbone", "rgb_grid", "--quiet"]
    run_propose(root, proposer="oracle", run=INLINE).check()
    done = runner.invoke(main, [*line, "--descriptors-only"])
    assert done.exit_code == 0, done.output
    assert not list(root.path.glob("features/*/*/tokens.npy"))
    both = runner.invoke(main, [*line, "--descriptors-only", "--cache-precision", "int8"])
    assert both.exit_code == 2 and "leave out --cache-precision" in both.output
    train = ["train", str(root.path), "--direction", "ego2exo", "--backbone", "rgb_grid"]
    refused = runner.invoke(main, train)
    assert refused.exit_code == 1
    assert "are only descriptors, which k-NN reads; a trained matcher and its" in refused.output
    predict = ["predict", str(root.path), "--direction", "ego2exo", "--split", "test", "--quiet"]
    knn = runner.invoke(main, [*predict, "--method", "knn", "--backbone", "rgb_grid"])
    assert knn.exit_code == 0, knn.output
    (made,) = root.runs.glob("*/predictions.json")
    by_descriptors = json.loads(made.read_bytes())
    assert runner.invoke(main, line).exit_code == 0
    again = runner.invoke(main, [*predict, "--method", "knn", "--backbone", "rgb_grid"])
    assert again.exit_code == 0, again.output
    assert json.loads(made.read_bytes()) == by_descriptors


def test_the_table_of_sizes_counts_what_is_written(
    root: DatasetRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = Path(__file__).parents[2] / "scripts"
    monkeypatch.syspath_prepend(str(scripts))
    sizes = importlib.import_module("feature_sizes")
    run_propose(root, proposer="oracle", run=INLINE).check()
    choose(root, [0, 30])
    told = list(sizes.frames_of_root(root))
    for stored, cache in (
        ("fp16", CacheOptions()),
        ("int8", CacheOptions(precision="int8")),
        ("descriptors", CacheOptions(descriptors_only=True)),
    ):
        shutil.rmtree(root.path / "features", ignore_errors=True)
        shutil.rmtree(root.path / "status" / "features", ignore_errors=True)
        run_features(root, backbone="efficientnet-lite0", cache=cache, run=INLINE).check()
        files = [np.load(path) for path in root.path.glob("features/efficientnet-lite0*/*/*.npy")]
        written = sum(array.nbytes for array in files)
        assert sum(one.bytes("efficientnet-lite0", stored) for one in told) == written


@pytest.mark.parametrize(
    ("slow", "sizes", "timed"),
    [
        ({0}, [1, 1, 4], 4),  # it compiles
        ({0, 1}, [1, 1], 1),  # it is slow
        (set(), [1, 1, 4], 4),
    ],
)
def test_a_price_is_not_that_of_the_beginning(
    slow: set[int], sizes: list[int], timed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(disk_cost, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    came: list[int] = []

    def work(some: Sequence[int]) -> int:
        came.append(len(some))
        clock[0] += sum(5.0 if item in slow else 0.01 for item in some)
        return 7 * len(some)

    sample = disk_cost.time_batch(range(20), work, 4)
    assert came == sizes
    assert (sample.frames, sample.bytes) == (timed, 7 * timed)
    assert sample.seconds == pytest.approx(5.0 if 1 in slow else 0.04)
