"""Checks a root: every manifest against the others and against the files. Repairs nothing.

`tables.py` and `masks.py` contain the checks of the tables; this module combines them and checks
the files.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from egoexo_tools.checks import masks as mask_checks
from egoexo_tools.checks import tables as table_checks
from egoexo_tools.checks.tables import Finding, Report
from egoexo_tools.errors import DataError
from egoexo_tools.layout import PARTIAL_SUFFIX, DatasetRoot
from egoexo_tools.manifests import SCHEMAS, read_tables
from egoexo_tools.release.takes import read_split_file
from egoexo_tools.runs import RunFolder, find_difference, read_versions
from egoexo_tools.text_table import text_table

_TABLES = ("takes", "masks", "frames", "pairs", "proposals", "exclusions")
_MASK_COLUMNS = [*table_checks.MASK, "view", "visible"]


@dataclass(frozen=True)
class _CheckedTables:
    """The keys of each table; run lengths stay on disk."""

    takes: pd.DataFrame
    masks: pd.DataFrame
    frames: pd.DataFrame
    pairs: pd.DataFrame
    exclusions: pd.DataFrame


def validate(root: DatasetRoot, *, files: bool = False) -> list[Finding]:
    """All findings about a root; an empty list: the root is sound.

    `files` also opens the header of every frame and compares its size. Raises DataError where
    `root` is not a dataset root.
    """
    report = Report()
    root.require()
    units = {table: table_checks.readable_parts(root, table, report) for table in _TABLES}
    columns = {**{name: SCHEMAS[name].names for name in _TABLES}, "masks": _MASK_COLUMNS}
    tables = _CheckedTables(
        **{
            name: table_checks.read_keys(root, name, units[name], columns[name], report)
            for name in _TABLES
            if name != "proposals"  # too many for memory: checked part by part
        }
    )
    _check_tables(root, tables, units, report)
    _check_masks_and_proposals(root, tables, units, report)
    _check_runs(root, tables.pairs, report)
    _check_files(root, tables.frames, report, sizes=files)
    return report.findings


def findings_table(findings: Sequence[Finding]) -> str:
    """The findings as text: table, number of rows, problem, the first row."""
    if not findings:
        return "No findings."
    rows = [(item.table, f"{item.count:,}", item.problem, item.example) for item in findings]
    return text_table(("table", "rows", "problem", "first"), rows)


def _check_tables(
    root: DatasetRoot, tables: _CheckedTables, units: dict[str, list[str]], report: Report
) -> None:
    takes = tables.takes
    table_checks.check_takes(takes, units["takes"], report)
    if root.split_json.exists():
        try:
            splits_of, faults = read_split_file(root.split_json)
            report.add("split.json", "an entry is not a split or not a take_uid", faults)
            table_checks.check_splits(takes, splits_of, report)
        except DataError as error:
            report.add("split.json", "it cannot be read", [str(error)])
    table_checks.check_rows("masks", tables.masks, takes, report)
    table_checks.check_rows("frames", tables.frames, takes, report)
    without_part = sorted(set(tables.masks["take_uid"].astype(object)) - set(units["masks"]))
    report.add("masks", "rows are in a part of another name", without_part)
    table_checks.check_pairs(tables.pairs, tables.masks, takes, report)
    table_checks.check_exclusions(tables.exclusions, tables.masks, takes, report)
    if units["frames"]:  # a root without extracted frames is sound
        table_checks.check_extracted(
            tables.pairs, tables.masks, tables.frames, tables.exclusions, report
        )


def _check_masks_and_proposals(
    root: DatasetRoot, tables: _CheckedTables, units: dict[str, list[str]], report: Report
) -> None:
    sizes = ["height", "width", "source_height", "source_width"]
    by_camera = tables.frames.drop_duplicates(list(table_checks.FRAME)).groupby(
        ["take_uid", "camera"], observed=True
    )
    # By camera, so that each part of the proposals is compared with few frames.
    frames = {
        (str(take_uid), str(camera)): group.set_index("frame_idx")[sizes]
        for (take_uid, camera), group in by_camera
    }
    for _ in mask_checks.check_rles(root, "masks", units["masks"], report):
        pass  # the rows are not needed here, but the generator has to run to its end
    examples_of: dict[str, list[str]] = {}
    for unit, part in mask_checks.check_rles(root, "proposals", units["proposals"], report):
        for problem, example in mask_checks.check_proposals(unit, part.to_pandas(), frames).items():
            examples_of.setdefault(problem, []).append(example)
    for problem, examples in examples_of.items():
        report.add("proposals", f"{problem} (parts counted)", examples)


def _check_runs(root: DatasetRoot, pairs: pd.DataFrame, report: Report) -> None:
    """The files of a run belong together, and name pairs of the manifest, each once."""
    for folder in sorted(root.runs.glob("*")):
        try:
            versions = read_versions(RunFolder(folder))
        except DataError as error:
            report.add(folder.name, "its files cannot be read", [str(error)])
            continue
        if difference := find_difference(versions):
            report.add(folder.name, "the files of the run do not belong together", [difference])
    for table in ("predictions", "scores"):
        for path in sorted(root.runs.glob(f"*/{table}.parquet")):
            name = f"{path.parent.name}/{table}"
            try:
                rows = read_tables([path], table, columns=["pair_id"]).to_pandas()
            except DataError as error:
                report.add(name, "it cannot be read", [str(error)])
                continue
            repeated = rows["pair_id"].duplicated()
            report.add_rows(name, "pair_id occurs more than once", rows, repeated)
            # A run may have predicted a part of the pairs: missing ones are not an error.
            unknown = ~rows["pair_id"].isin(pairs["pair_id"].astype(object))
            report.add_rows(name, "the pair is not in the pairs manifest", rows, unknown)


def _check_files(root: DatasetRoot, frames: pd.DataFrame, report: Report, *, sizes: bool) -> None:
    """Frames are where their row says; no file is half-written or belongs to no row."""
    # Strings and one walk: a real root has millions of frames.
    on_disk, partial = set(), []
    for folder, _, names in os.walk(root.path):
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(PARTIAL_SUFFIX):
                partial.append(os.path.relpath(path, root.path))
            elif name.endswith(".jpg"):
                on_disk.add(path)
    outside = [".." in Path(path).parts or os.path.isabs(path) for path in frames["path"]]
    report.add_rows("frames", "the path leaves the root", frames, outside)
    paths = [os.path.join(root.path, path) for path in frames["path"]]
    exists = np.array([path in on_disk for path in paths], bool)
    report.add_rows("frames", "the file is missing", frames, ~exists)
    report.add("files", "half-written, from a run that was stopped", sorted(partial))
    processed = f"{root.processed}{os.sep}"
    loose = sorted(path for path in on_disk.difference(paths) if path.startswith(processed))
    report.add("files", "a frame is not in the frames manifest", loose)
    if sizes:
        expected = zip(exists, paths, frames["height"], frames["width"], strict=True)
        wrong = [present and jpeg_size(path) != (h, w) for present, path, h, w in expected]
        report.add_rows("frames", "the file has another size", frames, wrong)


def jpeg_size(path: str | Path) -> tuple[int, int] | None:
    """Height and width from an image's header, without decoding it; None without a valid header."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ImportError):  # Pillow raises ImportError for formats of missing plugins
        return None
