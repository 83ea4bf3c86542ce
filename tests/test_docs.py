"""The pages that are generated are up to date, and every command and table has its page."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from egoexo_tools.manifests import COLUMN_DOCS, KEYS, SCHEMAS, TABLE_DOCS

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "generate_docs", PROJECT / "scripts" / "generate_docs.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date(generator: ModuleType) -> None:
    assert generator.stale_pages() == [], "run: python scripts/generate_docs.py"


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
