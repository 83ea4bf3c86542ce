"""Every example of every `--help` runs as printed next to a finished `demo/`."""

import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from command_lines import PROGRAMS, Example, check_command_line, help_examples, run_command_line


def help_texts() -> Iterator[tuple[str, str]]:
    """Command and its help text, 80 columns wide, for all commands and subcommands."""
    modules = set()
    for program, group in PROGRAMS.items():
        for name, (module, _) in group.table.items():
            # omama offers some commands of egoexo-tools, with the same help text.
            if module in modules:
                continue
            modules.add(module)
            command = group.get_command(click.Context(group), name)
            assert command is not None
            commands = {f"{program} {name}": command}
            if isinstance(command, click.Group):
                commands |= {f"{program} {name} {sub}": c for sub, c in command.commands.items()}
            for words, each in commands.items():
                yield words, each.get_help(click.Context(each, info_name=words, terminal_width=80))


EXAMPLES = [
    pytest.param(words, example, id=example.lines[0])
    for words, text in help_texts()
    for example in help_examples(text)
]


def test_every_command_has_an_example_of_itself() -> None:
    for words, text in help_texts():
        lines = [line for example in help_examples(text) for line in example.lines]
        assert any(f"{line} ".startswith(f"{words} ") for line in lines), words


@pytest.fixture
def folder(finished_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a finished demo and a user's pictures, the working directory of the test."""
    shutil.copytree(finished_demo, tmp_path / "demo")
    cups = tmp_path / "my_photos" / "kitchen"
    picture, mask = np.full((120, 160, 3), 90, np.uint8), np.zeros((120, 160), np.uint8)
    picture[40:80, 60:100] = (30, 60, 200)
    mask[40:80, 60:100] = 255
    for camera, name in (("ego", "ego.jpg"), ("phone", "exo.jpg")):
        (cups / camera / "1").mkdir(parents=True)
        for path in (tmp_path / name, cups / camera / "1.jpg"):
            cv2.imwrite(str(path), picture)
        cv2.imwrite(str(cups / camera / "1" / "cup.png"), mask)
    cv2.imwrite(str(tmp_path / "cup.png"), mask)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("command", "example"), EXAMPLES)
def test_example_runs(
    command: str, example: Example, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in example.lines:
        words = shlex.split(line)
        if "dataset" in example.needs:
            check_command_line(words)
            continue
        result = run_command_line(words)
        assert result.exit_code == 0, f"{line}\n{result.output}"
        with capsys.disabled():
            sys.stdout.write(f"\nran: {line}")
