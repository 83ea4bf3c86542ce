"""Which units a stage has begun, for stages that must know their own takes from others'.

A status says so only in the end: a take that was cut off, or that a shard beside this one has in
hand, has outputs and no status yet, and would pass for somebody else's.
"""

from collections.abc import Iterable

from egoexo_tools.layout import DatasetRoot, write_atomic
from egoexo_tools.running.lock import shared_files_lock

CLAIMS = ".units"


def claimed_units(root: DatasetRoot, stage: str) -> set[str]:
    """Names of units that the stage has begun or ended."""
    folder = root.status_dir(stage)
    path = folder / CLAIMS
    begun = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    return {*filter(None, begun), *(status.stem for status in folder.glob("*.json"))}


def claim_units(root: DatasetRoot, stage: str, names: Iterable[str]) -> None:
    """Write down that the stage begins these units."""
    with shared_files_lock(root.status_dir(stage)):
        known = claimed_units(root, stage)
        if new := set(names) - known:
            text = "".join(f"{name}\n" for name in sorted(known | new))
            write_atomic(root.status_dir(stage) / CLAIMS, text)
