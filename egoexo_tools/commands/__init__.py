"""What all commands share: the group that loads them, the options, and how errors end.

A command's module holds a Click command called `command`; the tables in `cli.py` name the modules.
"""

import errno
import importlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from egoexo_tools import __version__
from egoexo_tools.commands.choices import DIRECTIONS, EXECUTOR
from egoexo_tools.errors import (
    DEBUG,
    DataError,
    SettingsError,
    StageFailed,
    describe_unexpected,
    disk_full_text,
)

if TYPE_CHECKING:
    from egoexo_tools.running.records import RunOptions

INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group that knows its commands' names and summaries, and imports one when it is called.

    The toolkit's exceptions end here, once: DataError and StageFailed print one message and
    exit 1, SettingsError exits 2 like any wrong usage, Ctrl-C exits 130. Anything else is told in
    one sentence and its trace written to a file, unless --debug asks for the trace itself.
    """

    def __init__(self, *, name: str, table: Mapping[str, tuple[str, str]], help: str) -> None:
        """`table`: command name → dotted name of its module, and the summary in `--help`."""
        super().__init__(
            name=name, help=help, context_settings={"help_option_names": ["-h", "--help"]}
        )
        self.table = table
        self.params.append(
            click.Option(
                ["--version"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                help="Show the version.",
                callback=_print_version,
            )
        )
        self.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                help="Show the full trace of an unexpected error.",
            )
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """--debug may stand anywhere; workers read it in the environment."""
        end = args.index("--") if "--" in args else len(args)
        if "--debug" in args[:end]:
            os.environ[DEBUG] = "1"
            args = [word for word in args[:end] if word != "--debug"] + args[end:]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        module, _ = self.table[cmd_name]
        command: click.Command = importlib.import_module(module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.table.items()])

    def invoke(self, ctx: click.Context) -> Any:
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            raise click.UsageError(str(error)) from error
        except (DataError, StageFailed) as error:
            raise click.ClickException(str(error)) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("Stopped. What was finished is kept; the same command goes on.", err=True)
            sys.exit(INTERRUPTED)
        except Exception as error:
            if os.environ.get(DEBUG) or getattr(error, "errno", None) == errno.EPIPE:
                raise
            raise click.ClickException(_sentence(ctx, error)) from error


def _sentence(ctx: click.Context, error: Exception) -> str:
    if isinstance(error, OSError) and (sentence := disk_full_text(error)) is not None:
        return sentence
    doing = f"{ctx.info_name or 'egoexo-tools'} {ctx.invoked_subcommand or ''}".strip()
    return describe_unexpected(error, doing)


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"egoexo-tools {__version__}")
        ctx.exit()


FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)

root_argument = click.argument("root", type=FOLDER)
release_option = click.option(
    "--release", type=FOLDER, required=True, help="Folder of the downloaded release."
)
direction_option = click.option(
    "--direction",
    type=DIRECTIONS,
    default="both",
    show_default=True,
    help="Source view to destination view.",
)

all_frames_option = click.option(
    "--all-frames", is_flag=True, help="Every frame, not only those that the root's pairs use."
)


def stage_options(
    default_executor: str = "process", *, shards: bool = True
) -> Callable[[Any], Any]:
    """The options of every command that runs a stage, as one argument `run` of type RunOptions.

    `shards` is off for a command that is no single stage: its steps need all of the one before.
    """
    shard_option: Callable[[Any], Any] = _as_it_is
    if shards:
        shard_option = click.option(
            "--shard",
            metavar="NUMBER/COUNT",
            help="Only this part of the units, such as 3/40: for job arrays.",
        )

    def decorate(function: Any) -> Any:
        import functools

        @click.option(
            "--executor",
            type=EXECUTOR,
            default=default_executor,
            show_default=True,
            help="Where units run.",
        )
        @click.option(
            "--workers", type=click.IntRange(min=1), help="Units at a time.  [default: all cores]"
        )
        @click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler to use.")
        @click.option(
            "--resource",
            "resources",
            metavar="NAME=NUMBER",
            multiple=True,
            help="Run only on Dask workers that offer it, such as GPU=1.",
        )
        @shard_option
        @click.option("--overwrite", is_flag=True, help="Redo what is done.")
        @click.option("--quiet", is_flag=True, help="No progress.")
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            chosen = {name: kwargs.pop(name) for name in _RUN if name in kwargs}
            return function(*args, run=_run_options(**chosen), **kwargs)

        return wrapper

    return decorate


_RUN = ("executor", "workers", "scheduler", "resources", "overwrite", "quiet", "shard")
Number = TypeVar("Number", int, float)


def per_split(texts: Sequence[str], kind: Callable[[str], Number]) -> dict[str, Number]:
    """`("train=0.2", "val=1")` → {"train": 0.2, "val": 1.0}; SettingsError for other text."""
    from egoexo_tools.vocab import Split

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


def _run_options(
    executor: str,
    workers: int | None,
    scheduler: str | None,
    resources: Sequence[str],
    overwrite: bool,
    quiet: bool,
    shard: str | None = None,
) -> "RunOptions":
    from egoexo_tools.running.records import RunOptions
    from egoexo_tools.running.shard import Shard

    if executor != "dask" and (scheduler is not None or resources):
        raise SettingsError("--scheduler and --resource are Dask's; add --executor dask")
    return RunOptions(
        executor=executor,
        workers=workers,
        scheduler=scheduler,
        overwrite=overwrite,
        quiet=quiet,
        resources=dict(map(_resource, resources)) or None,
        shard=None if shard is None else Shard.parse(shard),
    )


def _as_it_is(function: Any) -> Any:
    return function


def _resource(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise SettingsError(f"{text!r} is not NAME=NUMBER; write it as GPU=1") from None
