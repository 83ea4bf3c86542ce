"""The blocks of README.md and docs/ run in order, next to a finished `demo/`.

`bash` and `python` blocks run: a page has one shell session and one Python namespace. A block below
a line `<!-- needs: licence -->` (or weights, gpu, cluster) is not run; the options of its commands
are checked. `sh` blocks install things and are skipped. test_extending runs docs/extending.md.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from command_lines import PROGRAMS, check_command_line, run_command_line

PROJECT = Path(__file__).parents[2]
GENERATED = ("cli.md", "data-layout.md")
PAGES = [
    page
    for page in (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))
    if page.name not in GENERATED
]
END = "end-of-block"


class Block(NamedTuple):
    """Code block of a page."""

    language: str
    code: str
    line: int
    """Line of the page at which the block starts."""
    needs: str
    """Text of a `<!-- needs: ... -->` line above the block; empty if it runs."""


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    fence = re.compile(r"(?:^<!-- needs: ([^\n]*?) -->\n)?^```(\w*)\n(.*?)^```$", re.M | re.S)
    return [
        Block(match[2], match[3], text.count("\n", 0, match.start(2)) + 1, match[1] or "")
        for match in fence.finditer(text)
    ]


def our_commands(code: str) -> list[list[str]]:
    """Command lines of our programs in a shell block, also behind torchrun and scripts/slurm.py."""
    commands = []
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "omama.cli" in words:
            words[: words.index("omama.cli") + 1] = ["omama"]
        if "--" in words:
            del words[: words.index("--") + 1]
        if words and words[0] in PROGRAMS:
            commands.append(words)
    return commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    for block in blocks(page):
        if block.language in ("bash", "sh"):
            for words in our_commands(block.code):
                check_command_line(words)


# A command of ours becomes a line for the test, which runs the command in its own process: a new
# process for each would spend most of the time on importing torch. File descriptors 3 and 4 are the
# session's output and input, also where those of the command are piped or captured.
SESSION = """
exec 3>&1 4<&0
ask() {
  printf '%q ' CALL "$PWD" "$@" >&3; echo >&3
  read -r code <&4; cat OUTPUT; return "$code"
}
egoexo-tools() { ask egoexo-tools "$@"; }
omama() { ask omama "$@"; }
"""


class Shell:
    """A bash session that runs one block after the other and stops at the first failure."""

    def __init__(self, folder: Path) -> None:
        self.output = folder.parent / "output"
        self.process = subprocess.Popen(
            ["bash", "-e"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
        )
        self.run(SESSION.replace("OUTPUT", shlex.quote(str(self.output))))

    def send(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def run(self, code: str) -> None:
        """Run a block; AssertionError with its output if a command fails."""
        assert self.process.stdout is not None
        # bash reads all of a compound command before it runs it; replies can follow on its input.
        self.send(f"{{\n{code}\necho {END}\n}}\n")
        lines = []
        for line in self.process.stdout:
            if line == f"{END}\n":
                return
            if line.startswith("CALL "):
                _, folder, *words = shlex.split(line)
                os.chdir(folder)
                result = run_command_line(words)
                self.output.write_text(result.output)
                self.send(f"{result.exit_code}\n")
            lines.append(line)
        raise AssertionError(f"{code}\n{''.join(lines)}")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


RUNNABLE = [
    page
    for page in PAGES
    if page.name != "extending.md"
    and any(block.language in ("bash", "python") and not block.needs for block in blocks(page))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_blocks_run(
    page: Path, finished_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    shutil.copytree(finished_demo, folder / "demo")
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": page.stem}
    shell = Shell(folder)
    try:
        for block in blocks(page):
            if block.needs:
                continue
            if block.language == "bash":
                shell.run(block.code)
            elif block.language == "python":
                # Blank lines above the code: a traceback then has the page's line numbers.
                exec(compile("\n" * block.line + block.code, str(page), "exec"), names)
    finally:
        shell.close()
