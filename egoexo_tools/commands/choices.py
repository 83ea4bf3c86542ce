"""Options whose allowed values are the names in a table, so that a new name needs no other edit."""

from collections.abc import Iterable, Sequence
from enum import Enum, EnumType
from inspect import isfunction
from typing import Any

import click

from egoexo_tools.lazy import resolve


class NameOf(click.Choice[str]):
    """A choice of the names in a table, which is imported when an option is parsed or shown.

    The table is a dict, a tuple of texts, a function that returns one of these, or an Enum of
    texts, whose members the command receives. Its module must import quickly, because `--help`
    imports it: tables hold names and dotted text instead of functions.
    """

    def __init__(
        self, table: str, *, also: Sequence[str] = (), without: Sequence[str] = ()
    ) -> None:
        """`table`: `package.module:NAME`; `also`: further values, appended."""
        super().__init__(())
        self.table, self.also, self.without = table, tuple(also), frozenset(without)

    @property
    def choices(self) -> tuple[str, ...]:
        table = resolve(self.table)
        names: Iterable[Any] = table() if isfunction(table) else table
        values = (str(name.value if isinstance(name, Enum) else name) for name in names)
        return (*(value for value in values if value not in self.without), *self.also)

    @choices.setter
    def choices(self, values: Iterable[str]) -> None:
        """Click assigns the choices once; here they come from the table each time."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        # A value of `also`, such as `both`, has no member.
        name, table = super().convert(value, param, ctx), resolve(self.table)
        return table(name) if isinstance(table, EnumType) and name not in self.also else name


DIRECTION = NameOf("egoexo_tools.vocab:Direction")
DIRECTIONS = NameOf("egoexo_tools.vocab:Direction", also=("both",))
SPLIT = NameOf("egoexo_tools.vocab:Split")
RESOLUTION = NameOf("egoexo_tools.layout:RESOLUTIONS")
SAMPLING = NameOf("egoexo_tools.stages.settings:SAMPLINGS")
PROTOCOL = NameOf("egoexo_tools.vocab:Protocol", also=("all",))
EXECUTOR = NameOf("egoexo_tools.running.executors:EXECUTORS")
PROPOSER = NameOf("egoexo_tools.proposers.registry:PROPOSERS")
EXPORT_FORMAT = NameOf("egoexo_tools.formats.registry:EXPORTERS")
