"""Object names as names of folders, and back."""

from egoexo_tools.parsing.names import folder_names, match_names


def test_changed_names_are_matched_with_their_objects() -> None:
    assert match_names(["green box-lid"], ["green box/lid", "red cup"]) == {
        "green box-lid": "green box/lid"
    }
    assert match_names(["cafe\u0301"], ["caf\u00e9"]) == {"cafe\u0301": "caf\u00e9"}
    assert match_names(["a-b"], ["a/b", "a\\b", "c"]) == {"a-b": "a/b"}  # as the export names it
    assert match_names(["a-b", "a/b"], ["a/b"]) == {}


def test_different_names_become_different_folders() -> None:
    assert folder_names(["a/b", "a-b", "c"]) == {"a/b": "a-b_2", "a-b": "a-b", "c": "c"}
    assert folder_names(["a-b", "a/b", "..", "a\\b"]) == {
        "a-b": "a-b", "a/b": "a-b_2", "..": "_..", "a\\b": "a-b_3"
    }  # fmt: skip


def test_folder_names_are_short_and_different_on_every_disk() -> None:
    long = "\u043a\u0440\u0443\u0436\u043a\u0430 " * 25
    names = folder_names([long, long + "!", "Cup", "cup", "caf\u00e9", "cafe\u0301", "a/b", ".x"])
    assert max(len(name.encode()) for name in names.values()) < 220
    assert len({name.casefold() for name in names.values()}) == 8
    assert names["Cup"] == "Cup" and names["cup"] == "cup_2" and names["a/b"] == "a-b"
