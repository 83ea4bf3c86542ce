"""The page on exports shows the files of every format."""

import re
from pathlib import Path

import pytest
from exports import export, read_table
from tiny_root import make_tiny_root

from egoexo_tools.formats.registry import EXPORTERS


@pytest.mark.slow
@pytest.mark.parametrize("format_name", list(EXPORTERS))
def test_the_page_shows_the_files_of_every_format(tmp_path: Path, format_name: str) -> None:
    root = make_tiny_root(tmp_path / "root")
    page = (Path(__file__).parents[2] / "docs" / "exports.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {format_name}\n")[1].split("\n## ")[0]
    assert f"--format {format_name} -o out/{format_name}\n" in section
    paths = re.findall(r"^  (\S+)", section.split("```text")[1].split("```")[0], re.MULTILINE)
    takes = set(read_table(root, "takes")["take_uid"])
    out = export(root, format_name)
    written = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    for path in paths:
        assert written & {path.replace("e4160064-…", take_uid) for take_uid in takes}, path
