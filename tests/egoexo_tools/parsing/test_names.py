"""Names of objects as names of folders."""

from egoexo_tools.parsing.names import folder_names


def test_different_names_become_different_folders() -> None:
    assert folder_names(["a/b", "a-b", "c"]) == {"a/b": "a-b_2", "a-b": "a-b", "c": "c"}
    assert folder_names(["a-b", "a/b", "..", "a\\b"]) == {
        "a-b": "a-b", "a/b": "a-b_2", "..": "_..", "a\\b": "a-b_3"
    }  # fmt: skip
