"""Options of `omama train` and `omama predict`: the fields of the selected method's dataclasses.

`train` offers every field of the method's `config`; `predict` offers the fields of its `options`,
except for those of TRAINING, which `train` offers. Both offer the fields of `features`. A field's
name is the option's name, its default the default, and the docstring below it the help text, where
"None: ..." at the end says what happens without the option. `metadata` of a field may hold

- `choices`: `package.module:NAME` of a table whose names are the allowed values,
- `option`: another spelling, as click takes it.

Fields of other types than int, float, bool, str and Path keep their defaults.
"""

import ast
import dataclasses
import inspect
import textwrap
import types
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click

from egoexo_tools.commands import FILE
from egoexo_tools.commands.choices import NameOf
from omama import methods
from omama.commands import METHOD
from omama.config import Features

TRAINING = ("init", "resume")
"""Fields of a method's `options` that concern training."""
SHARED = ("run_name", "quiet", "overwrite")
"""Fields of `options` that the commands set, whatever the method."""
SELECTED = f"{__name__}:selected"
"""Key of a Click context's `meta`: the method's name and its list of FieldOption."""
TYPES = (bool, int, float, str, Path)


class FieldOption(click.Option):
    """An option that sets one field of one of the method's dataclasses."""

    def __init__(self, record: str, field: "dataclasses.Field[Any]", kind: type, doc: str) -> None:
        """`record`: `config`, `options` or `features`."""
        self.record = record
        help_text, _, default_text = doc.partition("None: ")
        if field.default is True:
            default_text = field.name.replace("_", "-")
        elif field.default is not None and field.default is not False:
            # Python writes 5e-06; the documentation writes 5e-6.
            default_text = str(field.default).replace("e-0", "e-")
        help_text = help_text.rstrip(" .;") + "."
        if default_text:
            help_text += f"  [default: {default_text.rstrip('.')}]"
        # A flag that is off by default needs no --no-...; None leaves the choice to the method.
        flag = "--" + field.name.replace("_", "-")
        if kind is bool and field.default is not False:
            flag = f"{flag}/--no-{flag[2:]}"
        choices = field.metadata.get("choices")
        super().__init__(
            [field.name, field.metadata.get("option", flag)],
            type=NameOf(choices) if choices else FILE if kind is Path else kind,
            is_flag=kind is bool,
            default=field.default,
            show_default=False,
            help=help_text,
        )


class MethodCommand(click.Command):
    """A command with `--method` that has the method's own options too.

    Its function gets two dicts, field → value: `config` and `options`. A dict is empty if the
    method has no such dataclass.
    """

    def __init__(self, *args: Any, trains: bool = False, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.trains = trains

    def field_options(self, method: str) -> list[FieldOption]:
        """The options that the command has for a method of METHODS."""
        entry = methods.get_method(method)
        options: list[FieldOption] = []
        if self.trains and entry.train is None:
            return options
        if self.trains and entry.config is not None:
            options += dataclass_options("config", methods.load(entry.config))
        if entry.options is not None:
            record = methods.load(entry.options)
            if any(field.name == "features" for field in dataclasses.fields(record)):
                options += dataclass_options("features", Features)
            options += [
                option
                for option in dataclass_options("options", record)
                if option.name not in SHARED and (option.name in TRAINING) is self.trains
            ]
        return options

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        # Without parsed arguments, as for docs/cli.md, the options are the default method's.
        if SELECTED not in ctx.meta:
            ctx.meta[SELECTED] = methods.DEFAULT_METHOD, self.field_options(methods.DEFAULT_METHOD)
        return [*super().get_params(ctx), *ctx.meta[SELECTED][1]]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # --method decides which other options there are, so it is read first, by itself.
        method_command = click.Command(
            self.name,
            params=[click.Option(["--method"], type=METHOD, default=methods.DEFAULT_METHOD)],
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
            add_help_option=False,
        )
        method = method_command.make_context(ctx.info_name, list(args), ctx.parent).params["method"]
        own_options = self.field_options(method)
        ctx.meta[SELECTED] = method, own_options
        try:
            arguments = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            owners = [
                name
                for name in methods.METHODS
                for option in self.field_options(name)
                if error.option_name in (*option.opts, *option.secondary_opts)
            ]
            if not owners:
                raise
            raise click.UsageError(
                f"the method {method} has no option {error.option_name} in {ctx.info_name}; "
                f"{', '.join(owners)} {'has' if len(owners) == 1 else 'have'} it",
                ctx,
            ) from error
        records: dict[str, dict[str, Any]] = {"config": {}, "options": {}, "features": {}}
        for option in own_options:
            records[option.record][option.name] = ctx.params.pop(option.name)
        if features := records.pop("features"):
            records["options"]["features"] = Features(**features)
        ctx.params.update(records)
        return arguments

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's options as Click writes them, then the method's in a section below."""
        method, own_options = ctx.meta[SELECTED]
        # Click writes all of get_params in one section.
        ctx.meta[SELECTED] = method, []
        super().format_options(ctx, formatter)
        ctx.meta[SELECTED] = method, own_options
        if entries := [option.get_help_record(ctx) for option in own_options]:
            with formatter.section(f"Options of {method} (--method NAME --help shows another's)"):
                formatter.write_dl([entry for entry in entries if entry is not None])


def dataclass_options(record: str, config: type) -> Iterator[FieldOption]:
    """An option for each field; `record` as in FieldOption."""
    docs, annotations = field_docs(config), get_type_hints(config)
    for field in dataclasses.fields(config):
        kind = annotations[field.name]
        # `int | None` is an int that may be left out.
        if isinstance(kind, types.UnionType):
            kind = next(part for part in get_args(kind) if part is not type(None))
        if kind in TYPES:
            yield FieldOption(record, field, kind, docs.get(field.name, ""))


def field_docs(config: type) -> dict[str, str]:
    """Field → the docstring below it in the source of a class or of its base classes."""
    docs: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        # At run time these docstrings are lost: Python keeps only those of classes and functions.
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in pairwise(definition.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(doc))):
                    docs[name] = " ".join(doc.split())
    return docs
