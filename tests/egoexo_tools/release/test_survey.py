"""The counts of takes, before anything is decoded."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_release import EGO, EXO, takes_entry

from egoexo_tools.layout import Release
from egoexo_tools.release.plan import plan_ingest
from egoexo_tools.release.survey import TakeFacts, capture_of, survey
from egoexo_tools.release.takes import read_takes
from egoexo_tools.vocab import Split


def test_a_take_has_the_counts_of_ingest(release: Release) -> None:
    facts = {take.take_uid: take for take in survey(release, plan_ingest(release))}
    assert facts["b"] == TakeFacts(
        take_uid="b",
        take_name="sfu_kitchen_2",
        scenario="Cooking",
        university="sfu",
        task="",
        split=Split.TRAIN,
        capture="sfu_kitchen",
        capture_named=False,
        participant=None,
        objects=("cup_0", "cup_1"),
        cameras=(EGO, EXO),
        frame_idxs=(0, 30, 60),
        masks=8,
        pairs=8,
        seconds=10.0,
        video_bytes=None,
    )


@pytest.mark.parametrize(
    ("fields", "capture", "participant"),
    [
        ({"capture_uid": "u1", "participant_uid": 388}, ("u1", True), "388"),
        ({"capture": {"capture_uid": "u2"}, "participant_uid": "p"}, ("u2", True), "p"),
        ({"capture": None, "participant_uid": None}, ("cmu_bike01", False), None),
        ({"capture": ["?"], "participant_uid": {}, "task_name": 3}, ("cmu_bike01", False), None),
    ],
)
def test_captures_and_participants_come_from_takes_json(
    tmp_path: Path, fields: dict[str, Any], capture: tuple[str, bool], participant: str | None
) -> None:
    path = tmp_path / "takes.json"
    path.write_text(json.dumps([takes_entry("a", take_name="cmu_bike01_2", **fields)]))
    take = read_takes(path)[0][0]
    assert (capture_of(take), take.participant_uid) == (capture, participant)


def test_a_name_without_a_number_is_its_own_capture(tmp_path: Path) -> None:
    path = tmp_path / "takes.json"
    path.write_text(json.dumps([takes_entry("a", take_name="kitchen")]))
    assert capture_of(read_takes(path)[0][0]) == ("kitchen", False)
