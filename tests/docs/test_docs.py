"""The pages that are generated are up to date, and every command and table has its page."""

import subprocess
import sys
from pathlib import Path

from egoexo_tools.manifests import COLUMN_DOCS, KEYS, SCHEMAS, TABLE_DOCS

PROJECT = Path(__file__).parents[2]


def test_generated_pages_are_up_to_date() -> None:
    # In a process of its own: tests beside this one may have added a command's choices.
    check = [sys.executable, PROJECT / "scripts" / "generate_docs.py", "--check"]
    shown = subprocess.run(check, capture_output=True, text=True)
    assert shown.stdout == "docs are up to date\n", "run: python scripts/generate_docs.py"


def test_every_table_and_column_is_described() -> None:
    columns = {name for schema in SCHEMAS.values() for name in schema.names}
    assert set(COLUMN_DOCS) == columns
    assert set(TABLE_DOCS) == set(KEYS) == set(SCHEMAS)
    for table, key in KEYS.items():
        assert set(key) <= set(SCHEMAS[table].names)


def test_links_between_pages_lead_somewhere() -> None:
    import re

    pages = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
    broken = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []
