"""The tables of a root as training and prediction use them: frames, their masks, and pairs.

Reads the manifests frames, masks, proposals (where asked for) and pairs, through the mapped files
of `omama.tables`; knows no network, so that it loads without torch.
"""

import pandas as pd

from egoexo_tools.aliases import TakeCamera
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.vocab import Direction, Split
from omama.tables.direct import find_pair_positions, load_frames
from omama.tables.mapped import FrameRequest, make_tables, open_tables
from omama.tables.records import (
    ABSENT,
    FRAME_KEY,
    STATES,
    UNANNOTATED,
    VISIBLE,
    Dataset,
    FrameTable,
    MasksByFrame,
    Pairs,
    join,
    leave_out,
)

__all__ = [
    "ABSENT",
    "FRAME_KEY",
    "STATES",
    "UNANNOTATED",
    "VISIBLE",
    "Dataset",
    "FrameTable",
    "MasksByFrame",
    "Pairs",
    "leave_out",
    "load_dataset",
    "load_frames",
    "read_dataset",
]


def load_dataset(
    root: DatasetRoot, *, split: Split, direction: Direction, proposals: bool = True
) -> Dataset:
    """The pairs of a split and direction with their frames, masks and proposals.

    They lie in memory-mapped files that all processes of a machine share; the first to ask writes
    them. Without `proposals` none are read, and none need be made: for a method that paints its
    own masks. Raises DataError where a manifest is missing or the split has no pairs.
    """
    unit = f"{split}.{direction}"
    found = open_tables(root, unit, proposals=proposals)
    if found is None:
        found = make_tables(_wanted(root, split, direction, proposals), unit)
    if found is None:
        return read_dataset(root, split=split, direction=direction, proposals=proposals)
    return join(found.frames, found.rows, found.ends)


def read_dataset(
    root: DatasetRoot, *, split: Split, direction: Direction, proposals: bool = True
) -> Dataset:
    """The same, read from the Parquet files into this process's own memory."""
    wanted = _wanted(root, split, direction, proposals)
    frames = load_frames(
        root, wanted.cameras, proposals=proposals, need_proposals=wanted.need_proposals
    )
    return join(frames, wanted.rows, find_pair_positions(frames, wanted.rows))


def _wanted(root: DatasetRoot, split: Split, direction: Direction, proposals: bool) -> FrameRequest:
    rows = read_manifest(root, "pairs", units=[f"{split}.{direction}"]).to_pandas()
    if rows.empty:
        raise DataError(
            f"{root.path} has no {split} pairs of {direction}; look at `egoexo-tools stats` for "
            "the takes of that split, then run `egoexo-tools pairs` again"
        )
    sources, dests = _cameras(rows, "source_camera"), _cameras(rows, "dest_camera")
    return FrameRequest(
        root=root,
        rows=rows,
        cameras=tuple(sorted({*sources, *dests})),
        need_proposals=tuple(sorted(dests)) if proposals else (),
        proposals=proposals,
    )


def _cameras(rows: pd.DataFrame, column: str) -> set[TakeCamera]:
    unique = rows[["take_uid", column]].drop_duplicates()
    return {(str(take_uid), str(camera)) for take_uid, camera in unique.itertuples(index=False)}
