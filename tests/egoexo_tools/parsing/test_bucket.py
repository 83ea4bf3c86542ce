"""The bucket's manifest: harmless differences are accepted, any other change affects its file."""

import copy
import json
from typing import Any

import pytest
from changed_files import FEW_EXAMPLES, change_one_part
from hypothesis import given
from hypothesis import strategies as st

from egoexo_tools.errors import DataError
from egoexo_tools.parsing.bucket import read_manifest_files

MANIFEST: list[Any] = [
    {
        "uid": "a",
        "paths": [
            {"relative_path": "takes/a/cam01.mp4", "source_path": "s3://b/1", "size": 10},
            {"relative_path": "takes/a/aria.mp4", "source_path": "s3://b/2", "size": 0},
        ],
    },
    {"uid": "b", "paths": [{"relative_path": "takes.json", "source_path": "s3://b/3"}]},
]
NEEDED = {"takes/a/cam01.mp4", "takes/a/aria.mp4", "takes.json"}


def read(value: Any, *, mark: bool = False) -> dict[str, Any]:
    text = value if isinstance(value, str) else json.dumps(value, indent=1).replace("\n", "\r\n")
    return read_manifest_files((b"\xef\xbb\xbf" * mark) + text.encode(), "m", NEEDED.__contains__)


def test_harmless_differences_change_nothing() -> None:
    files = read(MANIFEST, mark=True)
    assert {name: row["size"] for name, row in files.items()} == {
        "takes/a/cam01.mp4": 10, "takes/a/aria.mp4": 0, "takes.json": None,
    }  # fmt: skip
    text = json.dumps(MANIFEST)
    assert read(text.replace("takes/a", "takes\\\\a").replace("10", '"10"')) == files
    assert read(text.replace("takes/a", "./takes/a")) == files


@FEW_EXAMPLES
@given(data=st.data())
def test_a_change_affects_at_most_its_own_entry(data: st.DataObject) -> None:
    expected = read(MANIFEST)
    value = change_one_part(MANIFEST, data)
    try:
        files = read(value, mark=data.draw(st.booleans()))
    except DataError as error:
        assert "m is not a manifest" in str(error)
        return
    unchanged = sum(files.get(name) == row for name, row in expected.items())
    is_whole = isinstance(value, list) and len(value) == 2
    assert unchanged >= (len(expected) - 2 if is_whole else 0)
    for row in files.values():
        assert isinstance(row["source_path"], str) and (row["size"] or 0) >= 0


def test_a_file_with_two_different_entries_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    twice = [*MANIFEST, copy.deepcopy(MANIFEST[0])]
    assert read(twice) == read(MANIFEST)
    twice[2]["paths"][0]["size"] = 11
    assert set(read([*twice, None])) == NEEDED - {"takes/a/cam01.mp4"}
    assert "cam01.mp4 is listed twice" in caplog.text and "1 invalid entries" in caplog.text
    text = json.dumps(MANIFEST).replace('"size": 10', '"size": 10, "size": 11')
    assert set(read(text)) == NEEDED - {"takes/a/cam01.mp4"}
