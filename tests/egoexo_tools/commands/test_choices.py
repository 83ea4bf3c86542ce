"""A name entered in a table is accepted by the commands and shown by `--help`, with no edit."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command_lines import PROGRAMS

from egoexo_tools.commands.choices import NameOf
from egoexo_tools.formats.registry import EXPORTERS
from egoexo_tools.proposers import PROPOSERS
from omama.features.registry import BACKBONES

PROJECT = Path(__file__).parents[3]
TABLE = {"one": 1, "two": 2}


def odd() -> list[str]:
    return [name for name, value in TABLE.items() if value % 2]


LATER = NameOf(f"{__name__}:TABLE", also=("all",), without=("two",))


def test_a_table_is_read_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LATER.choices == ("one", "all")
    monkeypatch.setitem(TABLE, "three", 3)
    assert LATER.choices == ("one", "three", "all")
    assert NameOf(f"{__name__}:odd").choices == ("one", "three")
    assert LATER.convert("three", None, None) == "three"
    with pytest.raises(click.BadParameter, match="'two' is not one of 'one', 'three', 'all'"):
        LATER.convert("two", None, None)


@pytest.mark.parametrize(
    ("table", "program", "command"),
    [
        (PROPOSERS, "egoexo-tools", "propose"),
        (PROPOSERS, "egoexo-tools", "run"),
        (PROPOSERS, "omama", "predict"),
        (EXPORTERS, "egoexo-tools", "export"),
        (BACKBONES, "omama", "features"),
        (BACKBONES, "omama", "train"),
        (BACKBONES, "omama", "predict"),
        (BACKBONES, "egoexo-tools", "run"),
    ],
)
def test_a_new_name_shows_in_help(
    monkeypatch: pytest.MonkeyPatch, table: dict[str, object], program: str, command: str
) -> None:
    before = CliRunner().invoke(PROGRAMS[program], [command, "--help"])
    monkeypatch.setitem(table, "entered", next(iter(table.values())))
    after = CliRunner().invoke(PROGRAMS[program], [command, "--help"])
    assert before.exit_code == after.exit_code == 0
    assert "entered" in after.output and "entered" not in before.output


@pytest.mark.parametrize(
    "words",
    [
        "egoexo_tools propose",
        "egoexo_tools export",
        "egoexo_tools evaluate",
        "omama train",
        "omama train --method lm-eec",
        "omama predict",
    ],
)
def test_help_imports_no_heavy_library(words: str) -> None:
    program, *arguments = words.split()
    code = (
        f"import sys; from {program}.cli import main; "
        f"main([*{arguments!r}, '--help'], standalone_mode=False); "
        "print(sorted({'torch', 'numpy', 'pandas', 'pyarrow', 'cv2'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_no_command_lists_by_hand_what_a_table_holds() -> None:
    offenders = [
        path.name
        for package in ("egoexo_tools", "omama")
        for path in (PROJECT / package / "commands").glob("*.py")
        if "click.Choice([" in path.read_text()
    ]
    assert offenders == []
