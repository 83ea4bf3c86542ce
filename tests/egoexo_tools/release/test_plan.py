"""The plan of an ingest: splits, and the frames that `select` counts."""

from pathlib import Path

from small_release import EXO, plain_take, write_release

from egoexo_tools.release.plan import plan_ingest
from egoexo_tools.release.survey import survey


def test_select_counts_the_frames_that_ingest_reads(tmp_path: Path) -> None:
    take = plain_take()
    take["object_masks"]["cup_0"][EXO]["annotation"]["30"] = None
    take["object_masks"]["cup_0"][EXO]["annotated_frames"] = ["0", 30.0, "00060"]
    release = write_release(tmp_path / "release", {"train": {"a": take}})
    plan = plan_ingest(release)
    (facts,) = survey(release, plan)
    assert (facts.take_uid, facts.frame_idxs, plan.exclusions) == ("a", (0, 30, 60), [])


def test_split_names_may_have_spaces_and_capitals(tmp_path: Path) -> None:
    takes = {uid: plain_take() for uid in "abc"}
    release = write_release(tmp_path / "release", {"train": takes})
    release.splits_json.write_text('{"Train": [" a "], "VAL ": ["b"], "valid": ["c"]}')
    plan = plan_ingest(release)
    assert {uid: take.split for uid, take in plan.takes.items()} == {"a": "train", "b": "val"}
    reasons = [row["reason"] for row in plan.exclusions]
    assert "splits.json: 'valid' is not a split, so its takes are in none" in reasons
