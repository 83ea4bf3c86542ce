"""The records of a stage: its units, run options, results and status files.

A status file is JSON under `status/<stage>/`, one per unit, written when the unit has ended.
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

HASH_DIGITS = 16
"""Of the hash of a unit's input files, which follows its fingerprint in a status."""
Settings = Mapping[str, Any]
"""Everything but the inputs that a result depends on; JSON values."""


@dataclass(frozen=True)
class Unit:
    """One piece of work that succeeds or fails as a whole."""

    key: tuple[str, ...]
    """For example (take_uid,), (take_uid, camera) or (split, direction)."""
    inputs: tuple[Path, ...] = ()
    """Manifest parts and other small files whose content the result depends on."""
    outputs: tuple[Path, ...] = ()
    """Files that must exist for the unit to count as done, usually its manifest part."""
    fingerprint: str = ""
    """Hash of further inputs that are not small files, such as a part of a large file."""
    shard_key: str = ""
    """Decides the shard, for units that must be in the same shard as others; default: the name."""
    frames: tuple[int, ...] = ()
    """frame_idxs of its camera to process, for stages that skip some frames."""
    is_incomplete: bool = False
    """Whether its outputs exist but lack some of `frames`, or were changed by others."""

    @property
    def name(self) -> str:
        return ".".join(self.key)


@dataclass(frozen=True)
class UnitResult:
    """The outcome of a unit; also the content of its status file."""

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
    """File with the traceback of an unexpected error."""
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Folder, relative to that of the outputs → names of the files that the unit owns there."""
    stale: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Files of an earlier run that the stage has to remove, unless another unit owns them."""


@dataclass(frozen=True)
class RunOptions:
    """How to run a stage. None of these options changes the result."""

    executor: str = "process"
    workers: int | None = None
    scheduler: str | None = None
    overwrite: bool = False
    quiet: bool = False
    time_limit_seconds: float | None = None
    resources: dict[str, float] | None = None
    shard: Shard | None = None
    """Process only the units of this shard; None processes all."""

    def in_shard(self, units: Sequence[Unit]) -> list[Unit]:
        """The units that belong to this run's shard."""
        shard = self.shard
        return [u for u in units if shard is None or shard.contains(u.shard_key or u.name)]


@dataclass(frozen=True)
class StageSummary:
    """Totals of a stage run; `counts` are summed over all units, skipped ones included."""

    stage: str
    done: int
    """Units processed in this run."""
    skipped: int
    """Units that were done before."""
    failed: tuple[UnitResult, ...]
    counts: Mapping[str, int]
    seconds: float
    shard: Shard | None = None

    def text(self) -> str:
        """A summary line, then one line per reason for failures, the most frequent first."""
        shard = "" if self.shard is None else f" {self.shard}"
        parts = [f"{self.stage}{shard}: {self.done} done"]
        if self.skipped:
            parts.append(f"{self.skipped} already done")
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        parts.extend(f"{value:,} {name.replace('_', ' ')}" for name, value in self.counts.items())
        lines = [", ".join(parts) + f" ({self.seconds:.1f} s)"]
        failures: dict[str, list[UnitResult]] = {}
        for result in self.failed:
            failures.setdefault(result.error or "unknown", []).append(result)
        for reason, results in sorted(failures.items(), key=lambda item: -len(item[1])):
            names = ", ".join(result.unit for result in results[:3])
            more = f" and {len(results) - 3} more" if len(results) > 3 else ""
            lines.append(f"  {len(results)} failed: {reason} [{names}{more}]")
            if trace := next((result.trace for result in results if result.trace), None):
                lines.append(f"    this is an error in the toolkit: please report it with {trace}")
        return "\n".join(lines)

    def check(self) -> "StageSummary":
        """Return self if no unit failed; otherwise raise StageFailed with the text."""
        if self.failed:
            raise StageFailed(self.text())
        return self


def read_status(root: DatasetRoot, stage: str, unit: str) -> UnitResult | None:
    """A unit's status, or None if it has never ended."""
    try:
        return UnitResult(**json.loads(root.status(stage, unit).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{root.status(stage, unit)} is damaged ({error}); delete it and run {stage} again"
        ) from error


def former_fingerprint(root: DatasetRoot, stage: str, unit: str) -> str:
    """The fingerprint of a unit's inputs when it was last done; "" if it never was."""
    status = read_status(root, stage, unit)
    return "" if status is None else status.inputs[:-HASH_DIGITS]


def read_statuses(root: DatasetRoot, stage: str) -> list[UnitResult]:
    """The status of every unit of a stage that has ended, in name order."""
    names = sorted(path.stem for path in root.status_dir(stage).glob("*.json"))
    return [status for name in names if (status := read_status(root, stage, name)) is not None]


def write_status(root: DatasetRoot, stage: str, result: UnitResult) -> None:
    text = json.dumps(asdict(result), indent=1, sort_keys=True)
    write_atomic(root.status(stage, result.unit), text + "\n")
