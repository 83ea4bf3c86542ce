"""Strips of tracks: frames in order, with truth, prediction and the IoU before."""

from pathlib import Path

import pytest

from egoexo_tools.report.runs import read_run, read_runs
from egoexo_tools.report.strips import make_strips


def test_strips_show_every_sample_and_the_iou_before(decided_runs: list[Path]) -> None:
    before, after = read_runs(decided_runs)
    missing: list[str] = []
    strips = make_strips(before, None, missing)
    wrong = [(strip.throughout, strip.wrong) for strip in strips]
    assert wrong == sorted(wrong, reverse=True) and wrong[0][1] > 0
    assert missing == []
    scores = before.scores.set_index("pair_id")
    decided_strips = make_strips(after, before, missing)
    assert not any(strip.wrong for strip in decided_strips)
    for strip in decided_strips:
        assert strip.source_picture and strip.source_picture.startswith("data:image/jpeg")
        frames = [instant.frame_idx for instant in strip.instants]
        assert frames == sorted(frames)
        for instant in strip.instants:
            cameras = f"{strip.source_camera}>{strip.dest_camera}"
            row = scores.loc[f"{strip.take_uid}/{cameras}/{instant.frame_idx}/{strip.object_name}"]
            assert instant.visible == row["visible"]
            assert instant.before == (pytest.approx(row["iou"]) if row["visible"] else None)
            assert instant.iou == (pytest.approx(1.0) if row["visible"] else None)
            assert instant.picture is not None


def test_a_run_without_scores_has_no_strips(decided_runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_bytes((decided_runs[0] / "summary.json").read_bytes())
    assert make_strips(read_run(tmp_path), None, []) == []
