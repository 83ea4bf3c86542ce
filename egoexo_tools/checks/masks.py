"""What `validate` checks of masks and proposals themselves: run lengths, areas, boxes, sizes.

Done part by part on all cores, so that memory holds a few parts' masks at a time. Nothing is
decoded: everything follows from the run lengths.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from egoexo_tools.arrays import Int64
from egoexo_tools.checks.tables import UNREADABLE, Report, name_row
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, to_table
from egoexo_tools.masks.columns import RLE_COLUMNS, MaskColumns
from egoexo_tools.masks.rle_loops import OK, PROBLEMS
from egoexo_tools.running.executors import available_cores


def check_rles(
    root: DatasetRoot, table: str, units: list[str], report: Report
) -> Iterator[tuple[str, pa.Table]]:
    """Check run lengths, areas and boxes, part by part; yields each part's unit and rows."""
    problems: dict[str, list[str]] = {}
    with ThreadPoolExecutor(available_cores()) as pool:
        # Measuring releases the GIL. A few parts ahead are enough, and bound the memory.
        for start in range(0, len(units), 64):
            batch = units[start : start + 64]
            for unit, (rows, found) in zip(
                batch, pool.map(lambda unit: _measured(root, table, unit), batch), strict=True
            ):
                for problem, examples in found.items():
                    problems.setdefault(problem, []).extend(examples)
                yield unit, rows
    for problem, examples in problems.items():
        report.add(table, problem, examples)


def check_proposals(
    unit: str, rows: pd.DataFrame, frames: dict[tuple[str, str], pd.DataFrame]
) -> dict[str, str]:
    """One part's problem → an example: its key, its frames, and the size of its masks."""
    found: dict[str, str] = {}
    if rows.empty:
        return found

    def note(problem: str, bad: Any) -> None:
        where = np.flatnonzero(np.asarray(bad, bool))
        if len(where):
            found[problem] = name_row(rows.iloc[where[0]])

    note("the key comes more than once", rows.duplicated(["frame_idx", "proposal_idx"]))
    named = rows["take_uid"].astype(str) + "." + rows["camera"].astype(str)
    note("the part's name is not its take and camera", named != unit)
    of_camera = frames.get((rows["take_uid"].iloc[0], rows["camera"].iloc[0]))
    if of_camera is None:
        note("the frame is not in the frames manifest", np.ones(len(rows), bool))
        return found
    sizes = of_camera.reindex(rows["frame_idx"])
    note("the frame is not in the frames manifest", sizes["height"].isna().to_numpy())
    height, width = rows["rle_height"].to_numpy(), rows["rle_width"].to_numpy()
    fits = (sizes["height"].to_numpy() == height) & (sizes["width"].to_numpy() == width)
    fits |= (sizes["source_height"] == height) & (sizes["source_width"] == width)
    note("the mask has neither the frame's size nor the video's", ~fits)
    return found


def _measured(root: DatasetRoot, table: str, unit: str) -> tuple[pa.Table, dict[str, list[str]]]:
    """A part's rows without their run lengths, and problem → names of the rows that have it."""
    found: dict[str, list[str]] = {}
    try:
        rows = read_manifest(root, table, units=[unit]).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        rows = to_table(table, [])
        found[UNREADABLE] = [f"{root.part(table, unit)}: {error}"]

    def note(problem: str, source: pa.Table, bad: Any) -> None:
        where = np.flatnonzero(bad)
        if len(where):
            names = source.drop_columns(["rle_counts"]).take(where).to_pandas()
            found[problem] = [name_row(row) for _, row in names.iterrows()]

    has_rle = pc.is_valid(rows["rle_counts"])
    if "visible" in rows.column_names:
        differs = pc.not_equal(has_rle, pc.fill_null(rows["visible"], False))
        note("a mask is there exactly if visible says so: it is not", rows, np.asarray(differs))
    masks = rows.filter(has_rle).combine_chunks()
    areas, boxes, problems = MaskColumns.from_table(masks.select(RLE_COLUMNS)).measure()
    for code in range(1, len(PROBLEMS)):
        note(PROBLEMS[code], masks, problems == code)
    fine = problems == OK
    note("the area is not that of the mask", masks, fine & (areas != _numbers(masks["area"])))
    stored = np.asarray(masks["bbox_xywh"].combine_chunks().flatten(), np.float32)
    complete = len(stored) == 4 * masks.num_rows
    wrong = (stored.reshape(-1, 4) != boxes).any(axis=1) if complete else np.ones(len(fine), bool)
    note("the box is not that of the mask", masks, fine & wrong)
    return rows.drop_columns(["rle_counts", "bbox_xywh"]), found


def _numbers(column: pa.ChunkedArray) -> Int64:
    """A column as int64; null counts as -1, which no size or area is."""
    return np.asarray(pc.fill_null(column, -1).to_numpy(), np.int64)
