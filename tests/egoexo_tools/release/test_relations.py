"""Relations files: indexed and decoded take by take, with the values that json.load gives."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_release import EGO, EXO, plain_take

from egoexo_tools.errors import DataError
from egoexo_tools.release.relations import BrokenRelations, index_takes

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text('a"\\{}[],:é'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "relations_train.json"
    path.write_text(text)
    return path


@settings(max_examples=150, deadline=None)
@given(
    takes=st.dictionaries(st.text(max_size=5), VALUES, max_size=4),
    before=VALUES,
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
)
def test_slices_decode_to_the_values_of_json_load(
    tmp_path_factory: Any, takes: dict[str, Any], before: Any, indent: Any, ascii_only: bool
) -> None:
    content = {"object_names": before, "annotations": takes, "version": "1"}
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
    path = write(tmp_path_factory.mktemp("relations"), text)
    data = path.read_bytes()
    decoded = {
        piece.take_uid: json.loads(data[piece.start : piece.end]) for piece in index_takes(path)
    }
    assert decoded == takes


def test_a_take_decodes_to_its_tracks(tmp_path: Path) -> None:
    takes = {"a": plain_take(), "b": {"scenario": "Music", "object_masks": {}}}
    pieces = list(index_takes(write(tmp_path, json.dumps({"annotations": takes}))))
    assert [piece.take_uid for piece in pieces] == ["a", "b"]
    first, second = (piece.read() for piece in pieces)
    assert second.scenario == "Music"
    track = first.object_masks["cup_0"][EGO]
    assert track.annotated_frames == [0, 30, 60]
    assert list(track.annotation) == ["0", "30"]
    shipped = takes["a"]["object_masks"]["cup_0"][EXO]["annotation"]["30"]
    mask = first.object_masks["cup_0"][EXO].annotation["30"]
    assert (mask.width, mask.height, mask.encoded) == (16, 9, shipped["encodedMask"])


def test_a_repeated_take_is_indexed_twice(tmp_path: Path) -> None:
    path = write(tmp_path, '{"annotations": {"a": 1, "b": {}, "a": [2]}}')
    assert [piece.take_uid for piece in index_takes(path)] == ["a", "b", "a"]


def test_digests_depend_on_the_bytes_only(tmp_path: Path) -> None:
    path = write(tmp_path, '{"annotations": {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 2}}}')
    a, b, c = (piece for piece in index_takes(path, hashed=True))
    assert a.digest == b.digest != c.digest


def test_a_cut_file_yields_the_complete_takes_and_names_the_damaged_one(tmp_path: Path) -> None:
    text = json.dumps({"annotations": {name: plain_take() for name in "ab"}})
    second = text.index(', "b": ')
    cases: list[tuple[int, list[str], str | None]] = [
        (1, [], None),
        (17, [], None),
        (23, [], "a"),
        (second - 1, [], "a"),
        (second, ["a"], None),
        (second + 3, ["a"], None),
        (second + 40, ["a"], "b"),
        (len(text) - 3, ["a"], "b"),
        (len(text) - 1, ["a", "b"], None),
    ]
    for length, expected, cut in cases:
        path = write(tmp_path, text[:length])
        complete = []
        with pytest.raises(BrokenRelations, match=f"cut off.*at byte {length:,} of") as raised:
            for piece in index_takes(path):
                complete.append(piece.take_uid)
        assert (complete, raised.value.take_uid) == (expected, cut)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "is empty"),
        ("   ", "cut off"),
        ("[]", "not valid JSON"),
        ('{"takes": {}}', "holds no annotations"),
        ('{"annotations": []}', "not valid JSON"),
        ('{"annotations": {"a" 1}}', "not valid JSON"),
        ('{"annotations": {"a": }}', "not valid JSON"),
        ('{"annotations": {"a": 1 "b": 2}}', "not valid JSON"),
        ('{"annotations": {"a": 1,}}', "not valid JSON"),
        ('{"annotations": {"a\\x": 1}}', "not valid JSON"),
    ],
)
def test_a_file_that_is_not_a_relations_file_is_rejected(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(BrokenRelations, match=words):
        list(index_takes(write(tmp_path, text)))


def test_a_missing_file_and_a_damaged_take_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing"):
        list(index_takes(tmp_path / "none.json"))
    deep = '{"deep": ' + "[" * 9999 + "]" * 9999 + "}"
    for value in ['{"object_masks": {"cup": nonsense}}', '{"object_masks": [1]}', deep]:
        path = write(tmp_path, f'{{"annotations": {{"a": {value}}}}}')
        with pytest.raises(
            DataError, match="damaged in take a|take a: it holds lists or objects nested"
        ):
            [take.read() for take in index_takes(path)]
