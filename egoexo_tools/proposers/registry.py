"""PROPOSERS: the proposers by the name that `--proposer` accepts.

Each proposer is a module of this folder with `load(options)` and `settings(options)`, imported on
first use, so that `--help` stays fast.
"""

from egoexo_tools.errors import SettingsError
from egoexo_tools.lazy import resolve
from egoexo_tools.proposers.base import ProposerEntry


def _entry(
    module: str, *, batch: int = 1, inline: bool = False, needs_truth: bool = False
) -> ProposerEntry:
    path = f"egoexo_tools.proposers.{module}"
    return ProposerEntry(
        load=lambda options: resolve(f"{path}:load")(options),
        settings=lambda options: resolve(f"{path}:settings")(options),
        batch=batch,
        inline=inline,
        needs_truth=needs_truth,
    )


PROPOSERS: dict[str, ProposerEntry] = {
    "fastsam": _entry("fastsam", batch=8, inline=True),
    "sam2": _entry("sam", batch=4, inline=True),
    "regions": _entry("regions"),
    "oracle": _entry("oracle", batch=256, needs_truth=True),
}


def proposer_entry(name: str) -> ProposerEntry:
    """The entry of a proposer; SettingsError for an unknown name."""
    if name not in PROPOSERS:
        raise SettingsError(f"{name!r} is not a proposer; use {', '.join(PROPOSERS)}")
    return PROPOSERS[name]
