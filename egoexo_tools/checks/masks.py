"""The checks of masks and proposals themselves: run lengths, areas, boxes, sizes.

The parts are read on all cores, a few at a time, which bounds the memory. Nothing is decoded to
pixels: everything follows from the run lengths.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from egoexo_tools.checks.tables import UNREADABLE, Report, describe_row
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, to_table
from egoexo_tools.masks.columns import RLE_COLUMNS, MaskColumns
from egoexo_tools.masks.rle_loops import OK, PROBLEMS
from egoexo_tools.running.executors import available_cores

_PARTS_AHEAD = 64
"""Parts whose rows are in memory at a time."""


def check_rles(
    root: DatasetRoot, table: str, units: list[str], report: Report
) -> Iterator[tuple[str, pa.Table]]:
    """Check run lengths, areas and boxes part by part; yields the unit and the rows of each."""
    examples_of: dict[str, list[str]] = {}
    with ThreadPoolExecutor(available_cores()) as pool:  # measuring releases the GIL
        for start in range(0, len(units), _PARTS_AHEAD):
            batch = units[start : start + _PARTS_AHEAD]
            results = pool.map(lambda unit: _measure_part(root, table, unit), batch)
            for unit, (rows, problems) in zip(batch, results, strict=True):
                for problem, examples in problems.items():
                    examples_of.setdefault(problem, []).extend(examples)
                yield unit, rows
    for problem, examples in examples_of.items():
        report.add(table, problem, examples)


def check_proposals(
    unit: str, rows: pd.DataFrame, frames: dict[tuple[str, str], pd.DataFrame]
) -> dict[str, str]:
    """Problem → an example, for the keys, frames and mask sizes of one part.

    `frames` is (take_uid, camera) → sizes by frame_idx.
    """
    problems: dict[str, str] = {}
    if rows.empty:
        return problems

    def note(problem: str, flags: Any) -> None:
        indices = np.flatnonzero(np.asarray(flags, bool))
        if len(indices):
            problems[problem] = describe_row(rows.iloc[indices[0]])

    note("the key occurs more than once", rows.duplicated(["frame_idx", "proposal_idx"]))
    named = rows["take_uid"].astype(str) + "." + rows["camera"].astype(str)
    note("the part's name is not its take and camera", named != unit)
    camera_frames = frames.get((rows["take_uid"].iloc[0], rows["camera"].iloc[0]))
    if camera_frames is None:
        note("the frame is not in the frames manifest", np.ones(len(rows), bool))
        return problems
    sizes = camera_frames.reindex(rows["frame_idx"])
    note("the frame is not in the frames manifest", sizes["height"].isna().to_numpy())
    height, width = rows["rle_height"].to_numpy(), rows["rle_width"].to_numpy()
    # Oracle proposals keep the size of the annotation, which is the video's.
    fits = (sizes["height"].to_numpy() == height) & (sizes["width"].to_numpy() == width)
    fits |= (sizes["source_height"] == height) & (sizes["source_width"] == width)
    note("the mask has neither the frame's size nor the video's", ~fits)
    return problems


def _measure_part(
    root: DatasetRoot, table: str, unit: str
) -> tuple[pa.Table, dict[str, list[str]]]:
    """A part's rows without their run lengths, and problem → descriptions of its rows."""
    problems: dict[str, list[str]] = {}
    try:
        rows = read_manifest(root, table, units=[unit]).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        rows = to_table(table, [])
        problems[UNREADABLE] = [f"{root.part(table, unit)}: {error}"]

    def note(problem: str, source: pa.Table, flags: Any) -> None:
        indices = np.flatnonzero(flags)
        if len(indices):
            examples = source.drop_columns(["rle_counts"]).take(indices).to_pandas()
            problems[problem] = [describe_row(row) for _, row in examples.iterrows()]

    has_rle = pc.is_valid(rows["rle_counts"])
    if "visible" in rows.column_names:
        differs = pc.not_equal(has_rle, pc.fill_null(rows["visible"], False))
        note("visible is not whether there is a mask", rows, np.asarray(differs))
    masks = rows.filter(has_rle).combine_chunks()
    areas, boxes, codes = MaskColumns.from_table(masks.select(RLE_COLUMNS)).measure()
    for code in range(1, len(PROBLEMS)):
        note(PROBLEMS[code], masks, codes == code)
    # Areas and boxes of damaged masks mean nothing; their problem is noted above.
    intact = codes == OK
    stored_areas = np.asarray(pc.fill_null(masks["area"], -1).to_numpy(), np.int64)
    note("the area is not that of the mask", masks, intact & (areas != stored_areas))
    stored_boxes = np.asarray(masks["bbox_xywh"].combine_chunks().flatten(), np.float32)
    if len(stored_boxes) == 4 * masks.num_rows:
        differs = (stored_boxes.reshape(-1, 4) != boxes).any(axis=1)
    else:  # some boxes are null, and flattening skipped them
        differs = np.ones(len(intact), bool)
    note("the box is not that of the mask", masks, intact & differs)
    return rows.drop_columns(["rle_counts", "bbox_xywh"]), problems
