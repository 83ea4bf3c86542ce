"""takes.json and split files, with entries that cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_release import EGO, EXO, takes_entry

from egoexo_tools.errors import DataError
from egoexo_tools.release.takes import read_split_file, read_takes, write_takes
from egoexo_tools.vocab import Split


def test_an_entry_gives_its_fields_and_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "takes.json"
    path.write_text(json.dumps([takes_entry("a"), takes_entry("b")]))
    (first, second), faults = read_takes(path)
    assert (first.take_uid, first.scenario, first.university) == ("a", "Cooking", "cmu")
    assert (first.frames, first.cameras, faults) == (300, {EGO, EXO}, [])
    write_takes(path, [second.text])
    assert json.loads(path.read_text()) == [takes_entry("b")]


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({"take_uid": 3}, (None, "entry 0 of takes.json has no take_uid")),
        ({"take_uid": "a"}, ("a", "entry 0 of takes.json has no take_name")),
        (
            takes_entry("a", is_dropped="maybe"),
            ("a", "entry 0 of takes.json: is_dropped is 'maybe', not true or false"),
        ),
    ],
)
def test_an_unusable_entry_is_reported_with_its_reason(
    tmp_path: Path, entry: dict[str, Any], fault: tuple[str | None, str]
) -> None:
    path = tmp_path / "takes.json"
    path.write_text(json.dumps([entry, takes_entry("b")]))
    takes, faults = read_takes(path)
    assert ([take.take_uid for take in takes], faults) == (["b"], [fault])


def test_invalid_values_count_as_missing_and_nan_becomes_null(tmp_path: Path) -> None:
    path = tmp_path / "takes.json"
    path.write_text(json.dumps([takes_entry("a", duration_sec=float("nan"), task_name=7)]))
    (take,) = read_takes(path)[0]
    assert (take.duration_seconds, take.frames, take.task) == (None, None, None)
    assert json.loads(take.text)["duration_sec"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "expected '\\['"), ('{"a": 1}', "expected '\\['"), ("[1", "cut off .at byte 2 of 2")],
)
def test_a_file_that_is_not_a_list_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "takes.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"is not a list of takes: .*{message}"):
        read_takes(path)


def test_both_forms_of_a_split_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    lists = {"Train ": ["a", "b"], "val": ["b", 3], "dev": ["c"]}
    for content in (lists, {"split_to_take_uids": lists}):
        path.write_text(json.dumps(content))
        assert read_split_file(path) == (
            {"a": [Split.TRAIN], "b": [Split.TRAIN, Split.VAL]},
            [
                "split.json: 'dev' is not a split, so its takes are in none",
                "split.json: 3 in val is not a take_uid",
            ],
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"dev": ["a"]}, "is not a split file"),
        ({"train": "a"}, "train must be a list of take_uids, not a str"),
        ([], "must hold a JSON object"),
    ],
)
def test_a_file_without_splits_is_rejected(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_split_file(path)
