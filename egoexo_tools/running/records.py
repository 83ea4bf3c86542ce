"""The records of a stage: its units, how it runs, what became of them; and the status files.

A status file is JSON under `status/<stage>/`, one a unit, written when the unit has ended.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from egoexo_tools import __version__
from egoexo_tools.errors import DataError, StageFailed
from egoexo_tools.layout import DatasetRoot, write_atomic
from egoexo_tools.running.shard import Shard

Settings = Mapping[str, Any]
"""What the result depends on besides the inputs; JSON values."""


@dataclass(frozen=True)
class Unit:
    """One piece of work that succeeds or fails as a whole."""

    key: tuple[str, ...]
    """Such as (take_uid,), (take_uid, camera) or (split, direction)."""
    inputs: tuple[Path, ...] = ()
    """Manifest parts and other small files whose content the result depends on."""
    outputs: tuple[Path, ...] = ()
    """Files without which "done" does not hold (the unit's manifest part, usually)."""
    fingerprint: str = ""
    """Hash of what the result depends on that is no small file (a part of a large one)."""
    shard_key: str = ""
    """What decides its shard, for units that must go where others went; else its name does."""
    frames: tuple[int, ...] = ()
    """frame_idxs of its camera that are wanted, for stages that do not do all."""
    is_incomplete: bool = False
    """Its outputs are there, but without some of `frames`."""

    @property
    def name(self) -> str:
        return ".".join(self.key)


@dataclass(frozen=True)
class UnitResult:
    """What became of a unit; also the content of its status file."""

    unit: str
    status: str
    """`done` or `failed`."""
    error: str | None
    seconds: float
    counts: Mapping[str, int] = field(default_factory=dict)
    settings: Settings = field(default_factory=dict)
    inputs: str = ""
    """Hash of the inputs' content."""
    code_version: str = __version__
    trace: str = ""
    """Where the trace of an error lies that nobody foresaw."""


@dataclass(frozen=True)
class RunOptions:
    """How to run a stage; none of it changes the result."""

    executor: str = "process"
    workers: int | None = None
    scheduler: str | None = None
    overwrite: bool = False
    quiet: bool = False
    time_limit_seconds: float | None = None
    resources: dict[str, float] | None = None
    shard: Shard | None = None
    """Do these units only, beside other shards; None does all."""

    def in_shard(self, units: Sequence[Unit]) -> list[Unit]:
        """Those of the units that are in the shard."""
        shard = self.shard
        return [u for u in units if shard is None or shard.holds(u.shard_key or u.name)]


@dataclass(frozen=True)
class StageSummary:
    """What a stage did: units done now, done before, failed; counts added up over all."""

    stage: str
    done: int
    skipped: int
    failed: tuple[UnitResult, ...]
    counts: Mapping[str, int]
    seconds: float
    shard: Shard | None = None

    def text(self) -> str:
        """One line, and one more for each reason for a failure, with its units."""
        shard = "" if self.shard is None else f" {self.shard}"
        parts = [f"{self.stage}{shard}: {self.done} done"]
        if self.skipped:
            parts.append(f"{self.skipped} already done")
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        parts.extend(f"{value:,} {name.replace('_', ' ')}" for name, value in self.counts.items())
        lines = [", ".join(parts) + f" ({self.seconds:.1f} s)"]
        for reason, results in _by_reason(self.failed).items():
            names = ", ".join(result.unit for result in results[:3])
            more = f" and {len(results) - 3} more" if len(results) > 3 else ""
            lines.append(f"  {len(results)} failed: {reason} [{names}{more}]")
            if trace := next((result.trace for result in results if result.trace), None):
                lines.append(f"    an error of the toolkit's own: please report it with {trace}")
        return "\n".join(lines)

    def check(self) -> "StageSummary":
        """self if nothing failed; else raise StageFailed with the text."""
        if self.failed:
            raise StageFailed(self.text())
        return self


def read_status(root: DatasetRoot, stage: str, unit: str) -> UnitResult | None:
    """A unit's status, or None where it never ended."""
    try:
        return UnitResult(**json.loads(root.status(stage, unit).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{root.status(stage, unit)} is damaged ({error}); delete it and run {stage} again"
        ) from error


def read_statuses(root: DatasetRoot, stage: str) -> list[UnitResult]:
    """The status of every unit that a stage has ended, in name order."""
    names = sorted(path.stem for path in root.status_dir(stage).glob("*.json"))
    return [status for name in names if (status := read_status(root, stage, name)) is not None]


def write_status(root: DatasetRoot, stage: str, result: UnitResult) -> None:
    text = json.dumps(asdict(result), indent=1, sort_keys=True)
    write_atomic(root.status(stage, result.unit), text + "\n")


def _by_reason(results: Sequence[UnitResult]) -> dict[str, list[UnitResult]]:
    groups: dict[str, list[UnitResult]] = {}
    for result in results:
        groups.setdefault(result.error or "unknown", []).append(result)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))
