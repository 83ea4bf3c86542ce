"""Generated pages are up to date, every table is described, and links have a target."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from egoexo_tools.manifests import COLUMN_DOCS, KEYS, SCHEMAS, TABLE_DOCS

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def anchors(page: Path) -> set[str]:
    """The link targets that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.slow
def test_generated_pages_are_up_to_date() -> None:
    # In a process of its own, because other tests of this process may have added choices.
    check = [sys.executable, PROJECT / "scripts" / "generate_docs.py", "--check"]
    result = subprocess.run(check, capture_output=True, text=True)
    assert result.stdout == "docs are up to date\n", "run: python scripts/generate_docs.py"


def test_every_table_and_column_is_described() -> None:
    assert set(COLUMN_DOCS) == {name for schema in SCHEMAS.values() for name in schema.names}
    assert set(TABLE_DOCS) == set(KEYS) == set(SCHEMAS)
    for table, key in KEYS.items():
        assert set(key) <= set(SCHEMAS[table].names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_have_a_target(page: Path) -> None:
    for file, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        if "://" not in file:
            target = page.parent / file if file else page
            assert target.exists(), file
            assert not anchor or anchor in anchors(target), f"{file}#{anchor}"
