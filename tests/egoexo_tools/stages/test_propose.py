"""The propose stage on a root of squares: rows, units, exclusions, settings, the command."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from selected_pairs import keep_pairs, manifest_frames, pair_frames
from tiny_root import EGO, TAKES, make_tiny_root, rewrite_digests

from egoexo_tools.cli import main
from egoexo_tools.errors import DataError, SettingsError, StageFailed
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.proposers import ProposerOptions, registry
from egoexo_tools.proposers.base import Frame, FrameProposals, Proposal, ProposerEntry
from egoexo_tools.running import disk_cost
from egoexo_tools.running.records import RunOptions
from egoexo_tools.stages import propose
from egoexo_tools.stages.propose import run_propose
from egoexo_tools.vocab import Direction

INLINE = RunOptions(executor="inline", quiet=True)
FIRST, SECOND = list(TAKES)[:2]


@pytest.fixture
def root(tmp_path: Path) -> DatasetRoot:
    """The tiny root without its ready-made proposals."""
    root = make_tiny_root(tmp_path / "root")
    shutil.rmtree(root.table("proposals"))
    return root


@pytest.fixture
def proposed_pictures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures that the proposer `recording` has read; it finds a square in all but 60.jpg."""
    pictures: list[str] = []

    def propose_all(frames: Sequence[Frame]) -> list[FrameProposals]:
        proposals = []
        for frame in frames:
            pictures.append("/".join(frame.path.parts[-3:]))
            mask = np.zeros((frame.height, frame.width), np.uint8)
            mask[2:8, 2:9] = 1
            square = Proposal(MaskRle.encode(mask), 0.5)
            proposals.append(FrameProposals([] if frame.path.stem == "60" else [square]))
        return proposals

    entry = ProposerEntry(lambda options: propose_all, lambda options: {}, batch=2)
    monkeypatch.setitem(registry.PROPOSERS, "recording", entry)
    propose._load_proposer.cache_clear()
    return pictures


def proposals_of(root: DatasetRoot, camera: str, frame_idx: int) -> list[MaskRle]:
    table = read_manifest(root, "proposals", units=[f"{FIRST}.{camera}"]).to_pylist()
    rows = [row for row in table if row["frame_idx"] == frame_idx]
    assert [row["proposal_idx"] for row in rows] == list(range(len(rows)))
    return [MaskRle(row["rle_height"], row["rle_width"], row["rle_counts"]) for row in rows]


def test_oracle_rows_are_the_visible_masks_of_the_camera(root: DatasetRoot) -> None:
    summary = run_propose(root, proposer="oracle", run=INLINE).check()
    masks = read_manifest(root, "masks").to_pandas()
    visible = masks[masks["visible"]]
    key = ["take_uid", "camera", "frame_idx"]
    expected = visible.groupby(key)["rle_counts"].apply(sorted)
    table = read_manifest(root, "proposals").to_pandas()
    counts = table.groupby(key)["rle_counts"].apply(sorted)
    assert counts.to_dict() == {index: expected[index] for index in counts.index}
    assert len(table) == summary.counts["proposals"] == len(visible)
    assert set(table["proposer"]) == {"oracle"}
    boxes = np.stack(table["bbox_xywh"].to_list())
    assert (boxes[:, 2:] == np.sqrt(table["area"].to_numpy())[:, None] - 1).all()


def test_the_oracle_reaches_exactly_one_at_the_official_size(root: DatasetRoot) -> None:
    run_propose(root, proposer="oracle", run=INLINE).check()
    masks = read_manifest(root, "masks", units=[FIRST]).to_pylist()
    for row in masks:
        if not row["visible"] or row["camera"] != "cam01":
            continue
        truth = MaskRle(row["rle_height"], row["rle_width"], row["rle_counts"])
        small = MaskRle.encode(truth.decode_at(300, 480))
        offered = proposals_of(root, row["camera"], row["frame_idx"])
        assert max(small.iou(MaskRle.encode(rle.decode_at(300, 480))) for rle in offered) == 1.0


@pytest.mark.slow
def test_regions_proposes_the_squares_at_frame_size(root: DatasetRoot) -> None:
    run_propose(root, directions=[Direction.EGO2EXO], run=INLINE).check()
    truth = np.zeros((140, 224), bool)
    truth[10:36, 48:74] = True
    proposals = proposals_of(root, "cam01", 0)
    assert {(rle.height, rle.width) for rle in proposals} == {(140, 224)}
    assert max(rle.iou(MaskRle.encode(truth)) for rle in proposals) > 0.85


@pytest.mark.parametrize(
    ("direction", "views"), [(Direction.EGO2EXO, {"exo"}), (Direction.EXO2EGO, {"ego"})]
)
def test_only_destination_cameras_are_processed(
    root: DatasetRoot, direction: Direction, views: set[str]
) -> None:
    run_propose(root, proposer="oracle", directions=[direction], run=INLINE).check()
    cameras = set(read_manifest(root, "proposals")["camera"].to_pylist())
    assert {"ego" if camera == EGO else "exo" for camera in cameras} == views
    # The other direction later adds to it and redoes nothing.
    summary = run_propose(root, proposer="oracle", run=INLINE).check()
    assert summary.skipped > 0
    assert summary.done + summary.skipped == sum(len(cameras) for _, _, cameras in TAKES.values())


def test_frames_without_a_proposal_are_excluded(root: DatasetRoot) -> None:
    masks = root.part("masks", FIRST)
    table = read_manifest(root, "masks", units=[FIRST])
    import pyarrow.compute as pc

    from egoexo_tools.manifests import write_manifest

    write_manifest(root, "masks", FIRST, table.filter(pc.field("frame_idx") != 60))
    assert masks.exists()
    summary = run_propose(root, proposer="oracle", run=INLINE).check()
    exclusions = read_manifest(root, "exclusions").to_pylist()
    of_take = [row for row in exclusions if row["stage"] == "propose" and row["take_uid"] == FIRST]
    assert {(row["camera"], row["frame_idx"]) for row in of_take} >= {(EGO, 60), ("cam01", 60)}
    assert "found no mask" in of_take[0]["reason"]
    assert summary.counts["frames_without_proposals"] == len(
        [row for row in exclusions if row["stage"] == "propose"]
    )


def test_other_settings_are_refused_by_name(root: DatasetRoot) -> None:
    run_propose(root, proposer="oracle", run=INLINE).check()
    next_run = run_propose(root, proposer="oracle", run=INLINE)
    assert (next_run.done, next_run.failed) == (0, ())
    with pytest.raises(SettingsError, match="proposer='oracle', now 'regions'"):
        run_propose(root, proposer="regions", run=INLINE)


def test_a_damaged_frame_fails_its_own_camera(root: DatasetRoot) -> None:
    root.frame(FIRST, "cam01", 30).write_bytes(b"")
    summary = run_propose(
        root, options=ProposerOptions(max_det=5), directions=[Direction.EGO2EXO], run=INLINE
    )
    assert [result.unit for result in summary.failed] == [f"{FIRST}.cam01"]
    assert "30.jpg of " in (summary.failed[0].error or "")
    assert not root.part("proposals", f"{FIRST}.cam01").exists()
    assert root.part("proposals", f"{FIRST}.cam02").exists()


@pytest.mark.slow
def test_several_processes_give_the_same_proposals(root: DatasetRoot) -> None:
    only = [Direction.EXO2EGO]
    run_propose(root, options=ProposerOptions(max_det=20), directions=only, run=INLINE).check()
    first = read_manifest(root, "proposals")
    processes = RunOptions(executor="process", workers=2, overwrite=True, quiet=True)
    run_propose(root, options=ProposerOptions(max_det=20), directions=only, run=processes).check()
    assert read_manifest(root, "proposals").equals(first)


def test_without_frames_the_next_step_is_named(root: DatasetRoot) -> None:
    shutil.rmtree(root.table("frames"))
    with pytest.raises(DataError, match="run `egoexo-tools frames` first"):
        run_propose(root, run=INLINE)


def test_the_command(root: DatasetRoot) -> None:
    runner = CliRunner()
    line = ["propose", str(root.path), "--proposer", "oracle", "--executor", "inline", "--quiet"]
    result = runner.invoke(main, line)
    assert result.exit_code == 0, result.output
    assert "propose: 9 done, 36 frames" in result.output
    wrong = runner.invoke(main, [*line[:3], "regions", "--weights", "x.pt", *line[4:]])
    assert wrong.exit_code == 2
    assert "the regions proposer has no weights" in wrong.output
    missing = runner.invoke(main, [*line[:3], "fastsam", *line[4:]])
    assert missing.exit_code == 2
    assert "fastsam needs --weights FILE" in missing.output


def test_proposals_of_new_pairs_are_added(root: DatasetRoot, proposed_pictures: list[str]) -> None:
    keep_pairs(root, [30, 60])
    summary = run_propose(root, proposer="recording", run=INLINE).check()
    expected = pair_frames(root, "dest")
    assert {tuple(name.rsplit("/", 2)[:2]) for name in proposed_pictures} == {
        key[:2] for key in expected
    }
    assert len(proposed_pictures) == len(expected) == summary.counts["frames"]
    assert manifest_frames(root, "proposals") == {key for key in expected if key[2] != 60}
    before = list(proposed_pictures)
    assert run_propose(root, proposer="recording", run=INLINE).done == 0
    keep_pairs(root, [0, 30, 60])
    next_run = run_propose(root, proposer="recording", run=INLINE).check()
    new = proposed_pictures[len(before) :]
    assert new and not set(new) & set(before)
    assert {name.split("/")[-1] for name in new} == {"0.jpg"}
    assert next_run.counts["frames"] == len(pair_frames(root, "dest"))
    exclusions = read_manifest(root, "exclusions").to_pylist()
    assert {row["frame_idx"] for row in exclusions if row["stage"] == "propose"} == {60}
    # The parts are those of one run with all of these pairs, to the byte.
    parts = {path.name: path.read_bytes() for path in root.table("proposals").iterdir()}
    shutil.rmtree(root.table("proposals"))
    run_propose(root, proposer="recording", run=INLINE).check()
    assert parts == {path.name: path.read_bytes() for path in root.table("proposals").iterdir()}
    # Pairs that use fewer frames remove nothing.
    run_propose(root, proposer="recording", all_frames=True, run=INLINE).check()
    everything = manifest_frames(root, "proposals")
    assert everything == {key for key in manifest_frames(root, "frames") if key[2] != 60}
    assert run_propose(root, proposer="recording", run=INLINE).done == 0
    assert manifest_frames(root, "proposals") == everything


def test_overwrite_and_changed_frames_propose_again(
    root: DatasetRoot, proposed_pictures: list[str]
) -> None:
    keep_pairs(root, [30])
    run_propose(root, proposer="recording", run=INLINE).check()
    count = len(proposed_pictures)
    overwrite = RunOptions(executor="inline", quiet=True, overwrite=True)
    run_propose(root, proposer="recording", run=overwrite).check()
    assert proposed_pictures[count:] == proposed_pictures[:count]
    unit = f"{FIRST}.cam01"
    rows = read_manifest(root, "frames", units=[unit]).to_pylist()
    write_manifest(root, "frames", unit, [{**row, "width": row["width"] - 1} for row in rows])
    keep_pairs(root, [30, 90])
    proposed_pictures.clear()
    run_propose(root, proposer="recording", run=INLINE).check()
    repeated = [name for name in proposed_pictures if name.startswith(f"{FIRST}/cam01/")]
    assert repeated == [f"{FIRST}/cam01/30.jpg", f"{FIRST}/cam01/90.jpg"]
    assert f"{SECOND}/cam01/30.jpg" not in proposed_pictures


def test_an_interrupted_addition_keeps_the_old_proposals(
    root: DatasetRoot, proposed_pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_pairs(root, [30])
    run_propose(root, proposer="recording", run=INLINE).check()
    keep_pairs(root, [30, 0])
    with monkeypatch.context() as patch:
        patch.setattr(propose, "write_table", None)  # the last step of a unit
        with pytest.raises(StageFailed):
            run_propose(root, proposer="recording", run=INLINE).check()
    proposed_pictures.clear()
    run_propose(root, proposer="recording", run=INLINE).check()
    assert {name.split("/")[-1] for name in proposed_pictures} == {"0.jpg"}
    assert manifest_frames(root, "proposals") == pair_frames(root, "dest")


def test_a_direction_without_pairs_is_refused(root: DatasetRoot) -> None:
    keep_pairs(root, [0], [Direction.EGO2EXO])
    with pytest.raises(DataError, match="no pair of .* has a destination among its frames of ego"):
        run_propose(root, proposer="oracle", directions=[Direction.EXO2EGO], run=INLINE)
    run_propose(
        root, proposer="oracle", directions=[Direction.EXO2EGO], all_frames=True, run=INLINE
    ).check()


def test_without_pairs_all_frames_are_processed_with_a_message(
    root: DatasetRoot, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(root.table("pairs"))
    run_propose(root, proposer="oracle", run=RunOptions(executor="inline")).check()
    message = "propose: the root has no pairs yet, so all destination frames are processed"
    assert message in capsys.readouterr().err


def test_the_cost_is_printed_first(root: DatasetRoot, capsys: pytest.CaptureFixture[str]) -> None:
    keep_pairs(root, [0, 30])
    run_propose(root, proposer="oracle", run=RunOptions(executor="inline")).check()
    first, second, *_ = capsys.readouterr().err.splitlines()
    count = len(pair_frames(root, "dest"))
    assert re.match(rf"propose: {count} frames to process, \d\S* (bytes|kB) of ", first)
    assert first.endswith(" free, about 0 s") and second.startswith("propose: 0 of")
    keep_pairs(root, [0, 30, 60])
    run_propose(root, proposer="oracle", run=RunOptions(executor="inline")).check()
    assert f"frames to process ({len(TAKES) * 2 + 2} exist)" in capsys.readouterr().err


def test_a_full_disk_stops_the_stage_before_its_first_unit(
    root: DatasetRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_cost, "free_bytes", lambda folder: 100)
    monkeypatch.setattr(propose, "LARGE_JOB_FRAMES", 0)
    with pytest.raises(
        DataError, match=r"propose of \d+ frames needs .* (bytes|kB) and the disk of .* has"
    ):
        run_propose(root, proposer="oracle", run=INLINE)
    assert not list(root.path.glob("manifests/proposals/*"))


def test_of_changed_pictures_only_their_own_proposals_are_made_again(
    root: DatasetRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_propose(root, directions=[Direction.EGO2EXO], run=INLINE).check()
    before = read_manifest(root, "proposals").to_pylist()
    row = read_manifest(root, "frames", units=[f"{FIRST}.cam01"]).to_pylist()[0]
    path = root.path / row["path"]
    cv2.imwrite(str(path), np.full((row["height"], row["width"], 3), 7, np.uint8))
    for _ in range(2):
        (failure,) = run_propose(root, directions=[Direction.EGO2EXO], run=INLINE).failed
        assert "/0.jpg of " in str(failure.error) and "disappeared since" in str(failure.error)
    rewrite_digests(root, f"{FIRST}.cam01")
    read: list[Path] = []
    rgb = Frame.rgb
    monkeypatch.setattr(Frame, "rgb", lambda frame: (read.append(frame.path), rgb(frame))[1])
    summary = run_propose(root, directions=[Direction.EGO2EXO], run=INLINE).check()
    assert (summary.done, read) == (1, [path])
    frame_idx = row["frame_idx"]
    after = read_manifest(root, "proposals").to_pylist()
    others = [[r for r in rows if r["frame_idx"] != frame_idx] for rows in (before, after)]
    assert others[0] == others[1]
    assert [r for r in after if r not in before] != [r for r in before if r not in after]
