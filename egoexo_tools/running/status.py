"""What a root has behind it, stages by unit and take, as text.

Reads status files and the takes manifest; writes nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from egoexo_tools.disk import size_text
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.records import UnitResult, read_statuses

STAGE_ORDER = (
    "download",
    "ingest",
    "frames",
    "pairs",
    "propose",
    "export",
    "features",
    "squash",
    "train",
    "fit-decision",
    "predict",
    "evaluate",
    "report",
)


def status_text(root: DatasetRoot, *, most_takes: int = 40) -> str:
    """Every stage's units done and failed, then a row per take with its stages.

    Takes with failures come first; beyond `most_takes` only the number is told.
    """
    statuses = {stage: read_statuses(root, stage) for stage in _stages(root)}
    if not any(statuses.values()):
        raise DataError(
            f"nothing was done on {root.path} yet; start with "
            "`egoexo-tools ingest ROOT --release RELEASE`"
        )
    lines = ["stage         done  failed   seconds  counts"]
    for stage, results in statuses.items():
        lines.append(_stage_line(stage, results))
        lines.extend(_failure_lines(results))
    if kept := cache_sizes_text(root):
        lines.append(f"on disk       {kept}")
    return "\n".join([*lines, "", *_take_lines(root, statuses, most_takes)])


def cache_sizes_text(root: DatasetRoot) -> str:
    """Bytes of what is made again when it is deleted: cached features, and the mapped tables."""
    folders = [path for path in sorted((root.path / "features").glob("*")) if path.is_dir()]
    folders += [root.mapped] if root.mapped.is_dir() else []
    return ", ".join(f"{root.relative(path)} {size_text(_size(path))}" for path in folders)


def _size(folder: Path) -> int:
    """Files that go meanwhile count as nothing."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _stages(root: DatasetRoot) -> list[str]:
    found = {path.name for path in (root.path / "status").glob("*") if path.is_dir()}
    return [stage for stage in STAGE_ORDER if stage in found] + sorted(found - {*STAGE_ORDER})


def _stage_line(stage: str, results: Sequence[UnitResult]) -> str:
    done = [result for result in results if result.status == "done"]
    counts: Counter[str] = Counter()
    for result in done:
        counts.update(result.counts)
    told = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items())
    seconds = sum(result.seconds for result in done)
    return f"{stage:12}{len(done):6,}{len(results) - len(done):8,}{seconds:10,.1f}  {told}"


def _failure_lines(results: Sequence[UnitResult]) -> list[str]:
    reasons = Counter(result.error for result in results if result.status == "failed")
    return [f"            {count} x {reason}" for reason, count in reasons.most_common(5)]


def _take_lines(
    root: DatasetRoot, statuses: dict[str, list[UnitResult]], most_takes: int
) -> list[str]:
    """One row a take, one column a stage whose units begin with a take_uid: done/all units."""
    if not root.table("takes").is_dir():
        return []
    takes = read_manifest(root, "takes", columns=["take_uid", "take_name", "split"]).to_pylist()
    cells: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for stage, results in statuses.items():
        for result in results:
            cells[result.unit.split(".")[0]][stage].append(result.status)
    stages = [
        stage for stage in statuses if any(stage in cells[take["take_uid"]] for take in takes)
    ]
    takes.sort(
        key=lambda take: not any("failed" in cells[take["take_uid"]][stage] for stage in stages)
    )
    width = max([len(take["take_name"]) for take in takes[:most_takes]], default=4)
    lines = [f"{'take':{width}}  split  " + "".join(f"{stage:>10}" for stage in stages)]
    for take in takes[:most_takes]:
        marks = "".join(f"{_cell(cells[take['take_uid']][stage]):>10}" for stage in stages)
        lines.append(f"{take['take_name']:{width}}  {take['split']:5}  {marks}")
    if len(takes) > most_takes:
        lines.append(f"... and {len(takes) - most_takes} more takes (--all shows them)")
    return lines


def _cell(statuses: Sequence[str]) -> str:
    if not statuses:
        return "-"
    done = sum(status == "done" for status in statuses)
    return f"{done}/{len(statuses)}" if done < len(statuses) else f"{done} ok"
