"""Parts that all commands share: the group that loads them, common options, errors and exit codes.

A command's module holds a Click command called `command`; the tables in `cli.py` name the modules.
"""

import errno
import functools
import importlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from egoexo_tools import __version__
from egoexo_tools.commands.choices import DIRECTIONS, EXECUTOR, SAMPLING
from egoexo_tools.errors import (
    DEBUG,
    DataError,
    SettingsError,
    StageFailed,
    describe_unexpected,
    disk_full_text,
)
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.running.records import RunOptions
from egoexo_tools.running.shard import Shard
from egoexo_tools.vocab import Split

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 and the number of SIGINT."""


class LazyGroup(click.Group):
    """A group that knows the names and summaries of its commands and imports one when it is called.

    It turns the toolkit's exceptions into messages and exit codes: DataError and StageFailed exit
    with 1, SettingsError with 2 (like wrong usage), Ctrl-C with 130. For any other exception it
    prints one sentence and writes the traceback to a file; with --debug the traceback is printed.
    """

    def __init__(self, *, name: str, table: Mapping[str, tuple[str, str]], help: str) -> None:
        """`table`: command name → dotted name of its module, and the summary in `--help`."""
        settings = {"help_option_names": ["-h", "--help"], "show_default": True}
        super().__init__(name=name, help=help, context_settings=settings)
        self.table = table
        version_text = f"egoexo-tools {__version__}"
        click.version_option(__version__, message=version_text, help="Show the version.")(self)
        debug_help = "Print the traceback of an unexpected error."
        click.option("--debug", is_flag=True, expose_value=False, help=debug_help)(self)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # --debug may also follow the command's name. Worker processes read it from the environment.
        end = args.index("--") if "--" in args else len(args)
        if "--debug" in args[:end]:
            os.environ[DEBUG] = "1"
            args = [argument for argument in args[:end] if argument != "--debug"] + args[end:]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        module, _ = self.table[cmd_name]
        # Only the called command is imported, so that --help and light commands start at once.
        command: click.Command = importlib.import_module(module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Click's own version would import every command for its summary.
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.table.items()])

    def invoke(self, ctx: click.Context) -> Any:
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            # Click's own exceptions print one line and carry the exit code: 2 here, 1 below.
            raise click.UsageError(str(error)) from error
        except (DataError, StageFailed) as error:
            raise click.ClickException(str(error)) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("Stopped. Finished units are kept; the same command continues.", err=True)
            sys.exit(INTERRUPTED)
        except Exception as error:
            # Click itself ends quietly when the reader of a pipe is gone.
            if os.environ.get(DEBUG) or getattr(error, "errno", None) == errno.EPIPE:
                raise
            message = disk_full_text(error) if isinstance(error, OSError) else None
            if message is None:
                words = (ctx.info_name or "egoexo-tools", ctx.invoked_subcommand or "")
                message = describe_unexpected(error, " ".join(words).strip())
            raise click.ClickException(message) from error


class FolderOf(click.Path):
    """A folder that commands receive as a DatasetRoot or a Release."""

    def __init__(self, kind: Callable[[Path], Any]) -> None:
        super().__init__(path_type=Path, file_okay=False)
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.kind(Path(os.fsdecode(super().convert(value, param, ctx))))


ROOT, RELEASE = FolderOf(DatasetRoot), FolderOf(Release)
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
ANY_PATH = click.Path(path_type=Path)

root_argument = click.argument("root", type=ROOT)
release_argument = click.argument("release", type=RELEASE)
release_option = click.option(
    "--release", type=RELEASE, required=True, help="Folder of the downloaded release."
)
split_file_option = click.option(
    "--split-file",
    type=FILE,
    help="split.json of `select`.  [default: the release's splits.json, or its file names]",
)
takes_option = click.option(
    "--take", "take_uids", multiple=True, metavar="UID", help="Only this take. Repeatable."
)
scenarios_option = click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    metavar="NAME",
    help="Only takes of this scenario. Repeatable.",
)
sampling_option = click.option(
    "--sampling",
    type=SAMPLING,
    default="annotated",
    help="All annotated frames, or frames 0, 30, 60... of the whole video.",
)
fractions_option = click.option(
    "--fraction",
    "fractions",
    metavar="SPLIT=SHARE",
    multiple=True,
    help="Share of a split's pairs to keep, such as train=0.2. Repeatable.",
)
counts_option = click.option(
    "--count",
    "counts",
    metavar="SPLIT=NUMBER",
    multiple=True,
    help="Exact number of a split's pairs to keep, such as val=1950. Repeatable.",
)
quiet_option = click.option("--quiet", is_flag=True, help="Show no progress bar.")
direction_option = click.option(
    "--direction", type=DIRECTIONS, default="both", help="Source view to destination view."
)
all_frames_option = click.option(
    "--all-frames", is_flag=True, help="All frames, not only those that the root's pairs use."
)


def stage_options(
    default_executor: str = "process", *, shards: bool = True
) -> Callable[[Any], Any]:
    """Options of every command that runs a stage; the function gets them as `run`, a RunOptions.

    Without `shards` for a command that runs several stages: a stage needs all units of the stage
    before it, so a shard could not run the chain.
    """
    options: dict[str, Any] = {
        "executor": click.option(
            "--executor", type=EXECUTOR, default=default_executor, help="Where units run."
        ),
        "workers": click.option(
            "--workers", type=click.IntRange(min=1), help="Units at a time.  [default: all cores]"
        ),
        "scheduler": click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler to use."),
        "resources": click.option(
            "--resource",
            "resources",
            metavar="NAME=NUMBER",
            multiple=True,
            help="Run only on Dask workers that offer this, such as GPU=1.",
        ),
        "shard": click.option(
            "--shard",
            metavar="NUMBER/COUNT",
            help="Run only this part of the units, such as 3/40: for job arrays.",
        ),
        "overwrite": click.option("--overwrite", is_flag=True, help="Redo finished units."),
        "quiet": quiet_option,
    }
    if not shards:
        del options["shard"]

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def command(*args: Any, **values: Any) -> Any:
            run = _run_options(**{name: values.pop(name) for name in options})
            return function(*args, run=run, **values)

        # Decorators apply from the bottom up; help lists options in the order of `options`.
        for option in reversed(options.values()):
            command = option(command)
        return command

    return decorate


def _run_options(resources: Sequence[str], shard: str | None = None, **values: Any) -> RunOptions:
    if values["executor"] != "dask" and (values["scheduler"] is not None or resources):
        raise SettingsError("--scheduler and --resource are for Dask; add --executor dask")
    amounts = {}
    for text in resources:
        name, _, number = text.partition("=")
        try:
            amounts[name] = float(number)
        except ValueError:
            raise SettingsError(f"{text!r} is not NAME=NUMBER; write it as GPU=1") from None
    return RunOptions(
        resources=amounts or None, shard=None if shard is None else Shard.parse(shard), **values
    )


Number = TypeVar("Number", int, float)


def per_split(texts: Sequence[str], kind: Callable[[str], Number]) -> dict[str, Number]:
    """`("train=0.2", "val=1")` → {"train": 0.2, "val": 1.0}; SettingsError for other text."""
    values: dict[str, Number] = {}
    for text in texts:
        split, _, number = text.partition("=")
        try:
            values[Split(split).value] = kind(number)
        except ValueError:
            raise SettingsError(
                f"{text!r} is not SPLIT=NUMBER; write it as "
                f"{'val=1950' if kind is int else 'train=0.2'}, with train, val or test"
            ) from None
    return values
