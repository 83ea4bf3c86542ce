"""Which units a stage has started, for stages that must tell their own takes from other takes.

A status file is written only when a unit ends. A take that was interrupted, or that another shard
is processing, has outputs but no status file yet, and without a claim it would look like a take
of another origin.
"""

from collections.abc import Iterable

from egoexo_tools.layout import DatasetRoot, write_atomic
from egoexo_tools.running.lock import shared_files_lock

CLAIMS = ".units"


def claimed_units(root: DatasetRoot, stage: str) -> set[str]:
    """Names of the units that the stage has started or finished."""
    folder = root.status_dir(stage)
    path = folder / CLAIMS
    claims = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    return {*filter(None, claims), *(status.stem for status in folder.glob("*.json"))}


def claim_units(root: DatasetRoot, stage: str, names: Iterable[str]) -> None:
    """Record that the stage starts these units."""
    with shared_files_lock(root.status_dir(stage)):
        claims = claimed_units(root, stage)
        if new := set(names) - claims:
            text = "".join(f"{name}\n" for name in sorted(claims | new))
            write_atomic(root.status_dir(stage) / CLAIMS, text)
