"""Hashes of inputs change with the content of files."""

import os
from pathlib import Path

from egoexo_tools.running.inputs import MISSING, FileDigests, hash_files


def test_the_hash_changes_with_content_and_existence_of_files(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("1")
    missing = hash_files([first, second])
    second.write_text("1")
    equal = hash_files([first, second])
    second.write_text("2")
    digests = FileDigests()
    changed = hash_files([first, second], digests=digests)
    assert len({missing, equal, changed, hash_files([second, first])}) == 4
    assert hash_files([first, second]) == changed == hash_files([first, second], digests=digests)
    second.write_text("3")
    assert hash_files([first, second], digests=digests) == hash_files([first, second]) != changed


def test_digests_are_stored_for_later_processes(tmp_path: Path) -> None:
    path, store = tmp_path / "a", tmp_path / "digests.json"
    path.write_text("1")
    digests = FileDigests(store)
    digest = digests.of(path)
    digests.save()
    # Change the content but not the time stamp, to detect whether the file is read again.
    stat = path.stat()
    with path.open("r+") as file:
        file.write("2")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert FileDigests(store).of(path) == digest != FileDigests().of(path)
    path.unlink()
    assert FileDigests(store).of(path) == MISSING
    path.write_text("1")
    store.write_text("{not json")
    assert FileDigests(store).of(path) == digest
