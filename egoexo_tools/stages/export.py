"""Writes a root in another tool's format. An interrupted export can be continued.

`<out>/.egoexo-tools/` holds the status of each unit and marks the folder as an export; a folder
with other content is refused. An export into the root itself keeps its status with the root's.
Files of takes and splits that the root no longer has, or that moved, are removed.
`<out>/left_out.csv` lists what the format cannot represent, with reasons. A new format is a module
in `formats/` and a line in EXPORTERS (formats/registry.py).
"""

import csv
import io
import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow.compute as pc

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.formats import benchmark
from egoexo_tools.formats.registry import load_exporter
from egoexo_tools.layout import DatasetRoot, record_writes, write_atomic
from egoexo_tools.manifests import SCHEMAS, read_manifest, write_exclusions
from egoexo_tools.running.lock import shared_files_lock
from egoexo_tools.running.owned_files import Ownership, list_files, remove_files
from egoexo_tools.running.pair_inputs import check_pairs
from egoexo_tools.running.pictures import changed_pictures
from egoexo_tools.running.records import RunOptions, StageSummary, Unit
from egoexo_tools.running.stage import pending_units, run_stage

STAGE = "export"
STATE_FOLDER = ".egoexo-tools"
LEFT_OUT = "left_out.csv"
LISTS = ".lists"
"""File with the names of the files that cover several units."""


def run_export(
    root: DatasetRoot, format_name: str, out: Path, *, run: RunOptions = RunOptions()
) -> StageSummary:
    """Write `root` to the folder `out` in the named format, or continue doing so.

    Raises DataError where `out` holds something else, SettingsError for an unknown format.
    """
    exporter = load_exporter(format_name)
    units = exporter.units(root.require(), out)
    in_place = format_name == "omama" and out.resolve() == root.path.resolve()
    if any(unit.key[0] == "pairs" for unit in units):
        check_pairs(root)
    # Units with changed pictures fail by name, also those that were done before.
    changed = {root.part("frames", name) for name in changed_pictures(root)}
    units = [
        replace(unit, is_incomplete=True) if changed & {*unit.inputs} else unit for unit in units
    ]
    if not in_place:
        _claim(out, {"format": format_name, "root": str(root.path.resolve())})
    # In place the export is a stage of the root like the others, and `status` shows it.
    state = root if in_place else DatasetRoot(out / STATE_FOLDER)
    settings = {"format": format_name}
    names = {unit.name for unit in units}
    summary = run_stage(
        state,
        STAGE,
        units,
        partial(work, root=root, state=state, format_name=format_name, out=out),
        settings=settings,
        options=run,
        owned=Ownership(out, lambda status: status.unit not in names),
    )
    with shared_files_lock(state.status_dir(STAGE)):
        # Of several shards, the last one to end finds everything done.
        is_whole = run.shard is None or not pending_units(state, STAGE, units, settings=settings)
        if is_whole and not summary.failed:
            with record_writes() as lists:
                exporter.finish(root, out)
            _keep_lists(state, out, lists)
            columns = [name for name in SCHEMAS["exclusions"].names if name != "stage"]
            of_stage = pc.field("stage") == STAGE
            left_out = read_manifest(state, "exclusions", columns=columns, filters=of_stage)
            text = io.StringIO()
            writer = csv.DictWriter(text, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(left_out.to_pylist())
            write_atomic(out / LEFT_OUT, text.getvalue())
    return summary


def _keep_lists(state: DatasetRoot, out: Path, lists: Collection[Path]) -> None:
    """Remove the lists of an earlier export that this one no longer has."""
    path = state.status_dir(STAGE) / LISTS
    files = list_files(out, lists)
    if path.exists():
        remove_files(out, benchmark.read_json(path), keep=files)
    write_atomic(path, json.dumps(files) + "\n")


def left_out_count(out: Path) -> int:
    """The number of rows in `left_out.csv`; 0 until the last shard has written it."""
    if not (out / LEFT_OUT).exists():
        return 0
    with (out / LEFT_OUT).open(newline="") as file:
        return sum(1 for _ in csv.reader(file)) - 1


def _claim(out: Path, settings: Mapping[str, str]) -> None:
    """Mark `out` as the export of one root in one format, or refuse a folder of something else."""
    marker = out / STATE_FOLDER / "export.json"
    # List the files before looking for the marker: another shard writes its marker first.
    has_files = out.exists() and any(path.name != STATE_FOLDER for path in out.iterdir())
    if has_files and not marker.exists():
        raise DataError(f"{out} is not empty and not an export; give an empty or a new folder")
    # Two shards may start at the same moment.
    with shared_files_lock(marker.parent):
        if not marker.exists():
            write_atomic(marker, json.dumps(settings) + "\n")
        marked = benchmark.read_json(marker)
    if marked != settings:
        raise SettingsError(
            f"{out} is an export of {marked['root']} with format={marked['format']}; "
            "give another folder"
        )


def work(
    unit: Unit, *, root: DatasetRoot, state: DatasetRoot, format_name: str, out: Path
) -> dict[str, int]:
    """Write one unit of the export, and its exclusions."""
    counts, left_out = load_exporter(format_name).work(unit, root, out)
    write_exclusions(state, STAGE, unit.name, left_out)
    return {**counts, "left_out": len(left_out)} if left_out else counts
