"""The propose stage on a root of squares: rows, units, exclusions, settings, the command."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_root import EGO, TAKES, make_tiny_root

from egoexo_tools.cli import main
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.proposers import ProposerOptions
from egoexo_tools.running.records import RunOptions
from egoexo_tools.stages.propose import run_propose
from egoexo_tools.vocab import Direction

INLINE = RunOptions(executor="inline", quiet=True)
FIRST = next(iter(TAKES))


@pytest.fixture
def root(tmp_path: Path) -> DatasetRoot:
    """The tiny root without its ready-made proposals."""
    made = make_tiny_root(tmp_path / "root")
    shutil.rmtree(made.table("proposals"))
    return made


def proposals_of(root: DatasetRoot, camera: str, frame_idx: int) -> list[MaskRle]:
    table = read_manifest(root, "proposals", units=[f"{FIRST}.{camera}"]).to_pylist()
    rows = [row for row in table if row["frame_idx"] == frame_idx]
    assert [row["proposal_idx"] for row in rows] == list(range(len(rows)))
    return [MaskRle(row["rle_height"], row["rle_width"], row["rle_counts"]) for row in rows]


def test_oracle_rows_are_the_visible_masks_of_the_camera(root: DatasetRoot) -> None:
    summary = run_propose(root, proposer="oracle", run=INLINE).check()
    masks = read_manifest(root, "masks").to_pandas()
    seen = masks[masks["visible"]]
    wanted = seen.groupby(["take_uid", "camera", "frame_idx"])["rle_counts"].apply(sorted)
    table = read_manifest(root, "proposals").to_pandas()
    got = table.groupby(["take_uid", "camera", "frame_idx"])["rle_counts"].apply(sorted)
    assert got.to_dict() == {key: wanted[key] for key in got.index}
    assert len(table) == summary.counts["proposals"] == len(seen)
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


def test_regions_finds_the_squares_at_frame_size(root: DatasetRoot) -> None:
    run_propose(root, directions=[Direction.EGO2EXO], run=INLINE).check()
    truth = np.zeros((140, 224), bool)
    truth[10:36, 48:74] = True
    found = proposals_of(root, "cam01", 0)
    assert {(rle.height, rle.width) for rle in found} == {(140, 224)}
    assert max(rle.iou(MaskRle.encode(truth)) for rle in found) > 0.85


@pytest.mark.parametrize(
    ("direction", "views"), [(Direction.EGO2EXO, {"exo"}), (Direction.EXO2EGO, {"ego"})]
)
def test_only_destination_cameras_are_done(
    root: DatasetRoot, direction: Direction, views: set[str]
) -> None:
    run_propose(root, proposer="oracle", directions=[direction], run=INLINE).check()
    cameras = set(read_manifest(root, "proposals")["camera"].to_pylist())
    assert {"ego" if camera == EGO else "exo" for camera in cameras} == views
    # The other direction later adds to it and redoes nothing.
    both = run_propose(root, proposer="oracle", run=INLINE).check()
    assert both.skipped > 0
    assert both.done + both.skipped == sum(len(cameras) for _, _, cameras in TAKES.values())


def test_frames_without_a_proposal_are_listed(root: DatasetRoot) -> None:
    masks = root.part("masks", FIRST)
    table = read_manifest(root, "masks", units=[FIRST])
    import pyarrow.compute as pc

    from egoexo_tools.manifests import write_manifest

    write_manifest(root, "masks", FIRST, table.filter(pc.field("frame_idx") != 60))
    assert masks.exists()
    summary = run_propose(root, proposer="oracle", run=INLINE).check()
    listed = read_manifest(root, "exclusions").to_pylist()
    ours = [row for row in listed if row["stage"] == "propose" and row["take_uid"] == FIRST]
    assert {(row["camera"], row["frame_idx"]) for row in ours} >= {(EGO, 60), ("cam01", 60)}
    assert "found no mask" in ours[0]["reason"]
    assert summary.counts["frames_without_proposals"] == len(
        [row for row in listed if row["stage"] == "propose"]
    )


def test_other_settings_are_refused_by_name(root: DatasetRoot) -> None:
    run_propose(root, proposer="oracle", run=INLINE).check()
    again = run_propose(root, proposer="oracle", run=INLINE)
    assert (again.done, again.failed) == (0, ())
    with pytest.raises(SettingsError, match="proposer='oracle', now 'regions'"):
        run_propose(root, proposer="regions", run=INLINE)


def test_a_damaged_frame_fails_its_camera_only(root: DatasetRoot) -> None:
    root.frame(FIRST, "cam01", 30).write_bytes(b"")
    summary = run_propose(
        root, options=ProposerOptions(max_det=5), directions=[Direction.EGO2EXO], run=INLINE
    )
    assert [result.unit for result in summary.failed] == [f"{FIRST}.cam01"]
    assert "30.jpg is not a readable image" in (summary.failed[0].error or "")
    assert not root.part("proposals", f"{FIRST}.cam01").exists()
    assert root.part("proposals", f"{FIRST}.cam02").exists()


@pytest.mark.slow
def test_processes_give_what_one_process_gives(root: DatasetRoot) -> None:
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
    done = runner.invoke(main, line)
    assert done.exit_code == 0, done.output
    assert "propose: 9 done, 36 frames" in done.output
    wrong = runner.invoke(main, [*line[:3], "regions", "--weights", "x.pt", *line[4:]])
    assert wrong.exit_code == 2
    assert "the regions proposer has no weights" in wrong.output
    missing = runner.invoke(main, [*line[:3], "fastsam", *line[4:]])
    assert missing.exit_code == 2
    assert "fastsam needs --weights FILE" in missing.output
