"""Sizes as text, and free space."""

from pathlib import Path

import pytest

from egoexo_tools.disk import existing_folder, free_bytes, size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),  # not 1000.0 kB
        (10**6, "1.0 MB"),
        (999_949_999, "999.9 MB"),
        (999_950_000, "1.0 GB"),
        (12_345_678_901, "12.3 GB"),
        (10**12, "1.0 TB"),
        (12_345 * 10**12, "12,345.0 TB"),
    ],
)
def test_sizes_have_one_digit_and_a_unit(count: int, text: str) -> None:
    assert size_text(count) == text


def test_a_missing_folder_is_on_the_disk_of_its_nearest_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    assert existing_folder(tmp_path) == tmp_path
    assert existing_folder(tmp_path / "not" / "there" / "yet") == tmp_path
    assert existing_folder(tmp_path / "file") == tmp_path
    monkeypatch.chdir(tmp_path)
    assert existing_folder(Path("not/yet")) == tmp_path
    assert free_bytes(Path("not/yet")) > 0
