"""What has been done on a root, by stage, unit and take, as text.

Reads status files and the takes manifest; writes nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress

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
    """Done and failed units of every stage, then one row per take with its stages.

    Takes with failures come first. Of takes beyond `most_takes` only the number is shown.
    """
    names = {path.name for path in (root.path / "status").glob("*") if path.is_dir()}
    stages = [stage for stage in STAGE_ORDER if stage in names]
    stages += sorted(names - {*STAGE_ORDER})
    statuses = {stage: read_statuses(root, stage) for stage in stages}
    if not any(statuses.values()):
        raise DataError(
            f"nothing has been done on {root.path} yet; start with "
            "`egoexo-tools ingest ROOT --release RELEASE`"
        )
    lines = ["stage         done  failed   seconds  counts"]
    for stage, results in statuses.items():
        lines.extend(_stage_lines(stage, results))
    if cache_sizes := cache_sizes_text(root):
        lines.append(f"on disk       {cache_sizes}")
    return "\n".join([*lines, "", *_take_lines(root, statuses, most_takes)])


def cache_sizes_text(root: DatasetRoot) -> str:
    """Sizes of folders that are recreated after deletion: cached features and mapped tables."""
    folders = [path for path in sorted((root.path / "features").glob("*")) if path.is_dir()]
    folders += [root.mapped] if root.mapped.is_dir() else []
    texts = []
    for folder in folders:
        size = 0
        for path in folder.rglob("*"):
            with suppress(OSError):  # deleted in the meantime
                size += path.stat().st_size if path.is_file() else 0
        texts.append(f"{root.relative(folder)} {size_text(size)}")
    return ", ".join(texts)


def _stage_lines(stage: str, results: Sequence[UnitResult]) -> list[str]:
    """A stage's totals, and its five most frequent reasons for failures."""
    successes = [result for result in results if result.status == "done"]
    counts: Counter[str] = Counter()
    for result in successes:
        counts.update(result.counts)
    counts_text = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items())
    seconds = sum(result.seconds for result in successes)
    failures = len(results) - len(successes)
    reasons = Counter(result.error for result in results if result.status == "failed")
    return [
        f"{stage:12}{len(successes):6,}{failures:8,}{seconds:10,.1f}  {counts_text}",
        *(f"            {count} x {reason}" for reason, count in reasons.most_common(5)),
    ]


def _take_lines(
    root: DatasetRoot, statuses: dict[str, list[UnitResult]], most_takes: int
) -> list[str]:
    """One row per take; one column, done/all units, per stage whose units start with a take_uid."""
    if not root.table("takes").is_dir():
        return []
    takes = read_manifest(root, "takes", columns=["take_uid", "take_name", "split"]).to_pylist()
    cells: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for stage, results in statuses.items():
        for result in results:
            # Units that are not of a single take, such as those of `pairs`, match no take here.
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
    count = sum(status == "done" for status in statuses)
    return f"{count}/{len(statuses)}" if count < len(statuses) else f"{count} ok"
