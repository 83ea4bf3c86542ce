"""Pictures on disk against the digests of the frames manifest."""

import hashlib
import os
from pathlib import Path

import pytest

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import write_manifest
from egoexo_tools.running.pictures import changed_pictures, check_pictures


@pytest.fixture
def root(tmp_path: Path) -> DatasetRoot:
    """Two cameras with two pictures each; a picture's content is its path."""
    root = DatasetRoot(tmp_path / "root")
    for camera in ("aria", "cam01"):
        rows = []
        for frame_idx in (0, 30):
            path = root.frame("t", camera, frame_idx)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text := root.relative(path))
            digest = hashlib.sha256(text.encode()).hexdigest()[:16]
            row = {"take_uid": "t", "camera": camera, "frame_idx": frame_idx}
            rows.append({**row, "path": text, "digest": digest})
        write_manifest(root, "frames", f"t.{camera}", rows)
    return root


def test_a_changed_and_a_missing_picture_are_named(root: DatasetRoot) -> None:
    assert changed_pictures(root) == {}
    root.frame("t", "aria", 0).write_text("x" * len("processed/t/aria/0.jpg"))
    root.frame("t", "cam01", 30).unlink()
    changed = {"t.aria": ["processed/t/aria/0.jpg"], "t.cam01": ["processed/t/cam01/30.jpg"]}
    assert changed_pictures(root) == changed == changed_pictures(root)
    assert changed_pictures(root, ["t.cam01", "t.cam99"]) == {"t.cam01": changed["t.cam01"]}
    with pytest.raises(DataError, match=r"aria/0\.jpg, .*30\.jpg of .* run `egoexo-tools frames`"):
        check_pictures(root)
    check_pictures(root, "u.aria")


def test_unchanged_pictures_are_not_read(
    root: DatasetRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root.frame("t", "aria", 0)
    text = path.read_text()
    check_pictures(root)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    # Other content under the same stamp is only noticed by a reader that opens the picture.
    path.write_text("x" * len(text))
    os.utime(path, ns=times)
    check_pictures(root)
    os.utime(path)
    with pytest.raises(DataError):
        check_pictures(root)
    path.write_text(text)
    check_pictures(root)


def test_a_root_that_cannot_be_written_is_checked_too(root: DatasetRoot) -> None:
    (root.path / ".digests").write_text("a file where the folder would be")
    check_pictures(root)
    root.frame("t", "aria", 0).write_text("")
    with pytest.raises(DataError):
        check_pictures(root)
