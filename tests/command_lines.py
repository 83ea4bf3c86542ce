"""Command lines in help texts and documentation: found, checked without running, and run."""

import re
from typing import NamedTuple

import click
from click.testing import CliRunner, Result

import egoexo_tools.cli
import omama.cli

PROGRAMS = {"egoexo-tools": egoexo_tools.cli.main, "omama": omama.cli.main}


class Example(NamedTuple):
    """Example of a help text."""

    lines: tuple[str, ...]
    """Command lines, without line breaks."""
    needs: str
    """Text in parentheses after `Example`, such as `needs the dataset`; empty if it just runs."""


def help_examples(help_text: str) -> list[Example]:
    """Examples of a help text as it is printed; an `Examples:` block gives one for each line."""
    examples = []
    heading = re.compile(r"^ *(Examples?)(?: \(([^)]*)\))?:(.*(?:\n(?! *$).*)*)", re.M)
    for kind, needs, block in heading.findall(help_text):
        lines = [line.strip() for line in block.replace("\\\n", " ").strip().split("\n")]
        lines = [" ".join(line.split()) for line in lines]
        groups = [(line,) for line in lines] if kind == "Examples" else [tuple(lines)]
        examples += [Example(group, needs) for group in groups]
    return examples


def check_command_line(words: list[str]) -> click.Command:
    """Parse a command line of one of our programs without running it; raises UsageError."""
    context = PROGRAMS[words[0]].make_context(words[0], words[1:])
    while isinstance(context.command, click.Group):
        arguments = [*context._protected_args, *context.args]
        name, command, arguments = context.command.resolve_command(context, arguments)
        assert name is not None and command is not None
        context = command.make_context(name, arguments, parent=context)
    return context.command


def run_command_line(words: list[str]) -> Result:
    """Run a command line of one of our programs in this process.

    Stages run inline unless the line names an executor: worker processes would take seconds to
    start for work that takes none.
    """
    takes_executor = any(param.name == "executor" for param in check_command_line(words).params)
    inline = ["--executor", "inline"] if takes_executor and "--executor" not in words else []
    return CliRunner().invoke(PROGRAMS[words[0]], [*words[1:], *inline])
